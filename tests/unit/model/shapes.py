"""Models of every shape that can be built, as descriptions."""

from hypothesis import strategies as st

from vendor.model_args import FAMILIES, QUERY_KEY_NORMS
from wmtp_ray.model.spec import ModelSpec


@st.composite
def model_specs(draw: st.DrawFn) -> ModelSpec:
    heads = draw(st.sampled_from([1, 2, 4, 6, 8]))
    layers = draw(st.integers(2, 6))
    bands = draw(st.sampled_from([(None, None, None), (1.0, 4.0, 8)]))
    return ModelSpec(
        dim=heads * 2 * draw(st.integers(1, 12)),
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=draw(st.sampled_from([None, *(n for n in (1, 2, 4) if heads % n == 0)])),
        vocab_size=draw(st.integers(1, 500)),
        n_future_tokens=draw(st.integers(1, layers - 1)),
        multiple_of=draw(st.sampled_from([1, 8, 32, 256])),
        ffn_dim_multiplier=draw(st.sampled_from([None, 1.3, 0.7])),
        family=draw(st.sampled_from(FAMILIES)),
        attention_head_dim=draw(st.sampled_from([None, 2, 6, 32])),
        attention_window=draw(st.sampled_from([None, 1, 3, 100])),
        qkv_bias=draw(st.booleans()),
        attention_output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        query_key_norm=draw(st.sampled_from([None, *QUERY_KEY_NORMS])),
        norm_after=draw(st.booleans()),
        rope_scaling_factor=draw(st.sampled_from([1.0, 8.0])),
        rope_low_freq_factor=bands[0],
        rope_high_freq_factor=bands[1],
        rope_original_seq_len=bands[2],
        blocks_without_rope=draw(st.sampled_from([(), (0,), (layers - 1,), tuple(range(layers))])),
    )
