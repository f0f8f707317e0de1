"""meta_adapter.yaml compared with params.json: two files that say what a model is must say the same.

Any program may have written it, flat or in sections. A key counts by its name (`dim`, `attention.n_heads`,
`rope.theta`), and so do the names that Hugging Face has for the same sizes; other keys are passed over. Torch-free.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from vendor.model_args import ModelArgs
from wmtp_ray.errors import ArtifactError

_OTHER_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "intermediate_size": "hidden_dim",
    "num_horizons": "n_future_tokens",
    "n_heads_kv": "n_kv_heads",
    "rms_norm_eps": "norm_eps",
}
_IN_A_SECTION: dict[tuple[str, ...], str] = {("rope", "theta"): "rope_theta"}
_BINDS_NOTHING = ("max_seq_len", "max_batch_size")


def require_same_model(path: Path, params: Path, spec: ModelArgs) -> None:
    """Compare a meta_adapter.yaml, where there is one, with what params.json says.

    ArtifactError names the first key that differs, with both values, or says that the file is no YAML of sections.
    """
    if not path.is_file():
        return
    expected = _facts(spec)
    for place, value in _leaves(_read(path), ()):
        name = _IN_A_SECTION.get(place[-2:], _OTHER_NAMES.get(place[-1], place[-1]))
        if name in expected and value is not None and not _is_same(value, expected[name]):
            raise ArtifactError(
                f"{path} and {params} describe two models: found {'.'.join(place)} {value!r} in the one, expected "
                f"{expected[name]!r} as the other says; put the two files of one model there, or remove {path.name}"
            )


def _facts(spec: ModelArgs) -> dict[str, Any]:
    """What params.json says and what follows from it, but for what binds nothing and what it leaves open."""
    given = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in _BINDS_NOTHING}
    derived = {"head_dim": spec.head_dim, "hidden_dim": spec.hidden_dim, "trunk_blocks": spec.num_trunk_blocks}
    facts = given | derived | {"n_kv_heads": spec.num_kv_heads}
    return {name: value for name, value in facts.items() if value is not None}


def _is_same(found: Any, expected: Any) -> bool:
    """YAML reads 1e-5, without a point, as text, and has lists for tuples."""
    if isinstance(found, str) and isinstance(expected, int | float):
        try:
            return float(found) == expected
        except ValueError:
            return False
    return bool((tuple(found) if isinstance(found, list) else found) == expected)


def _read(path: Path) -> Mapping[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}), expected YAML; restore the file, or remove it"
        ) from error
    if not isinstance(content, Mapping):
        raise ArtifactError(
            f"{path} holds {type(content).__name__}, expected keys with values; restore the file, or remove it"
        )
    return content


def _leaves(content: Mapping[Any, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in content.items():
        place = (*above, str(key))
        if isinstance(value, Mapping):
            yield from _leaves(value, place)
        else:
            yield place, value
