"""Which keys of a model's description may be read over: a key that nobody knows may decide over the forward pass.

A description (config.json, the metadata of a GGUF file, params.json) is read with three lists: keys that are read, keys
that never change the forward pass, and keys that change nothing as long as they have one of certain values. Any other
key with a value is an error that names it.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wmtp_ray.errors import ArtifactError

# Of params.json: the fields of `vendor.meta_llama.ModelArgs`, known here without torch.
PARAMS_KEYS = (
    *("dim", "n_layers", "n_heads", "vocab_size", "n_kv_heads", "n_future_tokens", "rope_theta", "norm_eps"),
    *("multiple_of", "ffn_dim_multiplier", "max_seq_len", "max_batch_size"),
)

Neutral = Mapping[str, tuple[Any, ...]]  # key -> values with which it changes nothing

_SHOWN = 60  # characters of a value in a message


def deciding_keys(
    written: Mapping[str, Any], *, read: Collection[str], harmless: Collection[str], neutral: Neutral
) -> list[str]:
    """Return each key that may change the forward pass and that nobody reads, as `key = value`.

    A key whose value is None is as good as absent.
    """
    return [
        f"{key} = {_shortened(value)}"
        for key, value in written.items()
        if value is not None and key not in read and key not in harmless and not _is_one_of(value, neutral.get(key, ()))
    ]


def require_known_params(params: Mapping[str, Any], path: Path) -> None:
    """Raise an ArtifactError for a key of params.json that may change the forward pass and that nobody reads."""
    if params.get("use_scaled_rope"):
        raise ArtifactError(
            f"{path}: found use_scaled_rope, the scaled rotary positions of LLaMA 3.1, expected unscaled ones: no "
            "others are supported; choose a model without them (LLaMA 2, LLaMA 3.0)"
        )
    unknown = deciding_keys(params, read=PARAMS_KEYS, harmless=(), neutral={"use_scaled_rope": (False,)})
    if unknown:
        raise ArtifactError(
            f"{path} describes no model that is known here: found {'; '.join(unknown)}. Known keys: "
            f"{', '.join(sorted(PARAMS_KEYS))}. Another key may change what the model computes: choose another model, "
            "or take the key out of the file if it does not"
        )


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """1 and True differ: an `experts: true` is not one expert."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
