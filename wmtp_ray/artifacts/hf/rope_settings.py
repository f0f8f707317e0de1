"""Rotary positions in a config.json: read in any spelling, written in the one that every reader knows. No files.

    rope_theta, rope_scaling: {rope_type or type, factor, ...}        transformers 4, and what is written
    rope_parameters: {rope_theta, rope_type, factor, ...}             transformers 5

Three kinds are known: `default`, `linear` (all frequencies divided by a factor) and `llama3` (the low ones alone, see
`vendor.meta_llama.attention.RopeScaling`). Of each kind every key is known, as in config.json.
"""

from collections.abc import Mapping
from typing import Any

from wmtp_ray.model.known_keys import Neutral, deciding_keys
from wmtp_ray.model.spec import ModelSpec

_OUTER = ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
_PLACES = ("rope_scaling", "rope_parameters")
ROPE_KEYS = (*_OUTER, *_PLACES)

_READ = ("rope_theta", "rope_type", "type", "partial_rotary_factor", "original_max_position_embeddings")
_BANDS = ("low_freq_factor", "high_freq_factor")
_UNSCALED: Neutral = {"factor": (1.0,), "attention_factor": (1.0,)}


_NUMBERS = {"default": (), "linear": ("factor",), "llama3": ("factor", *_BANDS)}  # that a kind needs


def rope_problems(config: Mapping[str, Any]) -> list[str]:
    """List what is known to no kind: another kind, a part of the channels, an unknown key, one number twice."""
    if odd := [key for key in _PLACES if not isinstance(config.get(key) or {}, Mapping)]:
        return [f"{odd[0]} {config[odd[0]]!r}"]
    rope, kinds = _rope(config), _kinds(config)
    if unknown_kinds := [kind for kind in kinds if kind not in _NUMBERS]:
        return [f"rotary positions scaled by {' and '.join(repr(kind) for kind in unknown_kinds)}"]
    if len(kinds) > 1:
        return [f"rotary positions scaled by {' and by '.join(repr(kind) for kind in kinds)}"]
    factor, needed = rope.get("partial_rotary_factor"), _NUMBERS[kinds[0]]
    partial = [] if factor in (None, 1.0) else [f"partial_rotary_factor {factor}"]
    unknown = deciding_keys(rope, read=(*_READ, *needed), harmless=(), neutral=_UNSCALED)
    missing = [f"rotary positions of kind {kinds[0]!r} without {key}" for key in needed if key not in rope]
    return partial + missing + [f"rotary positions changed by {each}" for each in unknown] + _contradictions(config)


def rope_fields(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a ModelSpec that a config.json without `rope_problems` decides; ValueError for no number.

    `defaults` are `rope_theta` and the `max_position_embeddings` that `llama3` counts from where config.json has no
    original context.
    """
    rope, kind = {"rope_theta": defaults["rope_theta"]} | _rope(config), _kinds(config)[0]
    fields: dict[str, Any] = {"rope_theta": _number(rope, "rope_theta")}
    if kind == "default":
        return fields
    fields["rope_scaling_factor"] = factor = _number(rope, "factor")
    if kind == "linear" or factor == 1.0:
        return fields
    original = rope.get("original_max_position_embeddings", defaults["max_position_embeddings"])
    if type(original) not in (int, float) or original != int(original):
        raise ValueError(f"original_max_position_embeddings is {original!r}, no whole number")
    bands = {f"rope_{key}": _number(rope, key) for key in _BANDS}
    return fields | bands | {"rope_original_seq_len": int(original)}


def written_rope(args: ModelSpec) -> dict[str, Any]:
    """Return the `rope_scaling` of a config.json, nothing where the model has none."""
    if args.rope_scaling_factor == 1.0:
        return {}
    if args.rope_original_seq_len is None:
        return {"rope_scaling": {"rope_type": "linear", "factor": args.rope_scaling_factor}}
    return {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": args.rope_scaling_factor,
            "low_freq_factor": args.rope_low_freq_factor,
            "high_freq_factor": args.rope_high_freq_factor,
            "original_max_position_embeddings": args.rope_original_seq_len,
        }
    }


def _number(rope: Mapping[str, Any], key: str) -> float:
    if type(rope[key]) not in (int, float):
        raise ValueError(f"{key} is {rope[key]!r}, no number")
    return float(rope[key])


def _kinds(config: Mapping[str, Any]) -> list[str]:
    """Return the kinds that config.json names under `rope_type` and `type`; `default` where it names none."""
    named = [place[key] for place in _places(config) for key in ("rope_type", "type") if place.get(key) is not None]
    return list(dict.fromkeys(map(str, named))) or ["default"]


def _contradictions(config: Mapping[str, Any]) -> list[str]:
    """List the numbers that config.json gives twice, under an older and a newer key, with different values."""
    places = _places(config)
    keys = dict.fromkeys(key for place in places for key in place if key not in ("rope_type", "type"))
    written = {key: [place[key] for place in places if place.get(key) is not None] for key in keys}
    return [
        f"{key} written as {values[0]} and as {other}"
        for key, values in written.items()
        for other in values[1:]
        if other != values[0]
    ]


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary settings of config.json from all places."""
    return {key: value for place in _places(config) for key, value in place.items() if value is not None}


def _places(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    outer = {key: config[key] for key in _OUTER if config.get(key) is not None}
    return [outer, *(dict(config[key]) for key in _PLACES if config.get(key))]
