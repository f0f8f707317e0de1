"""Which work the trials of a sweep have in common: what no swept key reaches is done once. Compares keys, runs nothing.

What reads a key stands where the key is defined (`config/effects.py`).
"""

from collections.abc import Sequence
from typing import Any

from wmtp_ray.config.effects import PLAN, STAGE_1
from wmtp_ray.config.schema import RunConfig, effects


def critic_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the swept keys that stage 1 reads: trials with equal ones, and one seed, have one critic."""
    return {key: value for key, value in values.items() if effects().reads(STAGE_1, key)}


def shares_critic(config: RunConfig) -> bool:
    """Whether stage 1 of a run can be done for it beforehand, so that it starts at stage 2 with `critic.path`."""
    return {1, 2} <= set(config.stages)


def plan_key(config: RunConfig) -> str:
    """Return a text that is equal for runs with equal plans."""
    values = config.model_dump(mode="json")
    for key in effects().by_key:
        if not effects().reads(PLAN, key):
            _drop(values, key.split("."))
    return repr(values)


def _drop(values: Any, parts: Sequence[str]) -> None:
    """Take a key out of nested values, where it is there."""
    *sections, name = parts
    for section in sections:
        values = values.get(section)
        if not isinstance(values, dict):
            return
    values.pop(name, None)
