"""Which keys of a model's description may be ignored: an unknown key may change the forward pass.

A description (config.json, the metadata of a GGUF file, params.json) is read with three lists: keys that are read, keys
that never change the forward pass, and keys that change nothing as long as they have one of certain values. Any other
key with a value is an error that names it.
"""

from collections.abc import Collection, Mapping
from typing import Any

Neutral = Mapping[str, tuple[Any, ...]]  # key -> values with which it changes nothing

_SHOWN = 60  # characters of a value in a message


def deciding_keys(
    written: Mapping[str, Any], *, read: Collection[str], harmless: Collection[str], neutral: Neutral
) -> list[str]:
    """Return each key that may change the forward pass and that is not read, as `key = value`.

    A key whose value is None is as good as absent.
    """
    return [
        f"{key} = {_shortened(value)}"
        for key, value in written.items()
        if value is not None and key not in read and key not in harmless and not _is_one_of(value, neutral.get(key, ()))
    ]


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """1 and True differ: an `experts: true` is not one expert."""
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
