"""What a setting affects, declared where the setting is defined: `setting(STAGE_2, "Temperature of the exponential.")`.

Who reads it (PLAN to EVALUATION), and, of what only concerns how the work is done, how far results can differ:

| flag | a change of the setting |
|---|---|
| PLAN | is read by stage 0: rows, their order and split, and what is refused before the start |
| STAGE_1, STAGE_2 | is read by what trains the critic, the policy |
| EVALUATION | is read by stage 3, and by the evaluations while stage 2 trains, which change no policy |
| PACE | changes when and how fast the work is done; the policy is the same bit by bit |
| ROUNDING | cuts the work in another way; the policy is the same up to rounding |
| MACHINE | says where it runs, for how long it waits, and what is shown of it |
| NAME | says which run it is |

What a resumed run may change, what trials of a sweep share and what a report leaves out follow from it: no other file
lists settings for that. Imports neither torch nor ray.
"""

import functools
from collections.abc import Iterator
from enum import Flag, auto
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Field
from pydantic.fields import FieldInfo

from wmtp_ray.config.section import Section


class Affects(Flag):
    """What reads a setting, and how far it matters."""

    PLAN = auto()
    STAGE_1 = auto()
    STAGE_2 = auto()
    EVALUATION = auto()
    PACE = auto()
    ROUNDING = auto()
    MACHINE = auto()
    NAME = auto()


PLAN, STAGE_1, STAGE_2, EVALUATION = Affects.PLAN, Affects.STAGE_1, Affects.STAGE_2, Affects.EVALUATION
PACE, ROUNDING, MACHINE, NAME = Affects.PACE, Affects.ROUNDING, Affects.MACHINE, Affects.NAME
NOTHING = Affects(0)
TRAINING = STAGE_1 | STAGE_2
_KEY = "affects"


def setting(affects: Affects, description: str, *, expected: str | None = None, **limits: Any) -> Any:
    """Return a field of a section: what it affects, what it means, and pydantic's limits.

    `expected` says in words what it takes, where the limits would not.
    """
    extra: dict[str, Any] = {_KEY: [each.name for each in affects]}
    extra |= {} if expected is None else {"expected": expected}
    return Field(description=description, json_schema_extra=extra, **limits)


def affects_of_field(field: FieldInfo) -> Affects:
    """Return what a field affects; nothing for a field that was not made by `setting`."""
    extra = field.json_schema_extra
    names = extra.get(_KEY, ()) if isinstance(extra, dict) else ()
    assert isinstance(names, list | tuple)
    return functools.reduce(lambda found, name: found | Affects[str(name)], names, NOTHING)


def fields_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Return every field below a section by dotted key; a section that may be null is listed with its fields."""
    for name, field in section.model_fields.items():
        below = [each for each in _types(field.annotation) if isinstance(each, type) and issubclass(each, Section)]
        if field.annotation not in below:
            yield prefix + name, field
        for each in below:
            yield from fields_below(each, f"{prefix}{name}.")


def _types(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, without those of its entries."""
    if get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _types(each)
    elif get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    else:
        yield annotation


class Effects:
    """The settings of a whole schema by dotted key."""

    def __init__(self, section: type[Section]) -> None:
        self.by_key = {key: affects_of_field(field) for key, field in fields_below(section)}

    def of(self, key: str) -> Affects:
        """Return what a key affects.

        An entry of a mapping (`evaluation.files.mbpp`) is as the mapping; a key that the schema does not have, of a run
        of another version, as what all settings of its section have in common.
        """
        if (known := self._known(key)) is not None:
            return known
        return functools.reduce(lambda one, two: one & two, self._below(key.partition(".")[0]) or [NOTHING])

    def reads(self, stage: Affects, key: str) -> bool:
        """Whether `stage`, one of PLAN to EVALUATION, reads a key, or any below it; an unknown one may be read."""
        if (known := self._known(key)) is not None:
            return bool(known & stage)
        below = self._below(key)
        return not below or any(each & stage for each in below)

    def may_change_on_resume(self, key: str) -> bool:
        """Whether a resumed run may change the key: it affects only how or where work is done, or the evaluation."""
        affects = self.of(key)
        return bool(affects & (PACE | ROUNDING | MACHINE)) or affects in (EVALUATION, PLAN | EVALUATION)

    def is_of_training(self, key: str) -> bool:
        """Whether the key distinguishes trainings: no name, no place, nothing of the evaluation alone."""
        affects = self.of(key)
        return affects == NOTHING or bool(affects & TRAINING and not affects & MACHINE)

    def _known(self, key: str) -> Affects | None:
        parts = key.split(".")
        names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        return next((self.by_key[name] for name in names if name in self.by_key), None)

    def _below(self, section: str) -> list[Affects]:
        return [affects for name, affects in self.by_key.items() if name.startswith(f"{section}.")]
