"""Models of every shape that can be built, as descriptions."""

from hypothesis import strategies as st

from wmtp_ray.model.spec import ModelSpec


@st.composite
def model_specs(draw: st.DrawFn) -> ModelSpec:
    heads = draw(st.sampled_from([1, 2, 4, 6, 8]))
    layers = draw(st.integers(2, 6))
    return ModelSpec(
        dim=heads * 2 * draw(st.integers(1, 12)),
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=draw(st.sampled_from([None, *(n for n in (1, 2, 4) if heads % n == 0)])),
        vocab_size=draw(st.integers(1, 500)),
        n_future_tokens=draw(st.integers(1, layers - 1)),
        multiple_of=draw(st.sampled_from([1, 8, 32, 256])),
        ffn_dim_multiplier=draw(st.sampled_from([None, 1.3, 0.7])),
    )
