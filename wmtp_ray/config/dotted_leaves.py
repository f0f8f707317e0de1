"""Nested settings as one mapping by dotted key: `{"train": {"max_steps": 3}}` -> `train.max_steps: 3`."""

from collections.abc import Iterator, Mapping
from typing import Any


def dotted_leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return every value below a mapping by its dotted key; lists and empty mappings are values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differing_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, in their order; a missing key is as null."""
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]
