"""What differs in the training of the arms: it stands before any verdict, since it may be the reason for it."""

from collections.abc import Sequence

from wmtp_ray.report.arms import Arm, differing_keys
from wmtp_ray.report.blocks import Table
from wmtp_ray.tracking.training_difference import SEED_KEYS, training_cells

_MOST_KEYS = 12
_MOST_VALUES = 3
_MOST_CHARS = 40
_TOLD = {"recipe", "model.path", "data.policy_rows", "weighting.type", "train.max_steps", *SEED_KEYS}


def training_table(arms: Sequence[Arm]) -> Table:
    """Return the table: start, steps, tokens, rows, weighting and seeds of every arm, then the settings that differ."""
    cells = [[training_cells(run.training) for run in arm.runs] for arm in arms]
    rows = [(label, *(_joined([each[label] for each in of_arm]) for of_arm in cells)) for label in cells[0][0]]
    keys = [key for key in differing_keys([arm.runs[0] for arm in arms]) if key not in _TOLD]
    for key in keys[:_MOST_KEYS]:
        rows.append((key, *(_joined([_shown(run.settings.get(key)) for run in arm.runs]) for arm in arms)))
    more = f" {len(keys) - _MOST_KEYS} more settings differ: see Configuration." if len(keys) > _MOST_KEYS else ""
    caption = (
        'What differs in training. Steps and tokens are those of a run itself; "60 after 240": its start had been '
        f"trained for 240.{more}"
    )
    return Table(caption, ("", *(arm.name for arm in arms)), tuple(rows), tuple(range(len(arms) + 1)))


def _shown(value: object) -> str:
    """Shorten a long value to its end: of a path the part that distinguishes it."""
    text = "–" if value is None else str(value)
    return text if len(text) <= _MOST_CHARS else f"…{text[1 - _MOST_CHARS :]}"


def _joined(values: Sequence[str]) -> str:
    """Join the values of an arm's runs, each once: an arm's seeds may differ in their steps."""
    different = list(dict.fromkeys(values))
    return ", ".join(different[:_MOST_VALUES]) + (", …" if len(different) > _MOST_VALUES else "")
