"""The command line `wmtp`: a module for each group of verbs, each verb one call into a flow or a layer.

| module | verbs |
|---|---|
| `training_verbs.py` | launch, sweep, quickstart, doctor |
| `model_verbs.py` | import, export |
| `data_verbs.py` | data index, inspect, sample, validate |
| `evaluation_verbs.py` | evaluate, collect |
| `record_verbs.py` | report, logs, tracking sync |

`command.py` puts their parsers together, `ends.py` says what exit code an end has.
"""

from collections.abc import Sequence
from datetime import datetime


def main(argv: Sequence[str] | None = None, *, now: datetime | None = None) -> int:
    """Run one verb; return the exit code (0 done, 2 refused, 1 failed, 130 interrupted). `now` dates unnamed runs."""
    from wmtp_ray.cli.command import main as run_verb  # most of a second: not for who only wants `cli.ends`

    return run_verb(argv, now=now)
