"""The results of a sweep, written after each trial and at the end: sweep.json, recipe.best.yaml, the table."""

import textwrap
from pathlib import Path
from typing import Any

from wmtp_ray.config.recipe_file import dump_recipe
from wmtp_ray.config.sweep_points import Point, Trial
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.flows.sweep.sweep_plan import SweepPlan
from wmtp_ray.saved_records import decode_record
from wmtp_ray.text_tables import titled_table
from wmtp_ray.tracking.sweep_result import Ranking, TrialRecord, rank, read_trial, rendered, write_sweep


def records_of(plan: SweepPlan) -> list[TrialRecord]:
    """Return a record of every trial that is known: finished ones from their folders, the others as unfinished."""
    known = {each.trial.name: each.trial for each in plan.trials} or {t.name: t for t in _proposed(plan)}
    return [read_trial(plan.directory / name) or _unfinished(trial) for name, trial in known.items()]


def read_points(path: Path) -> list[Point]:
    """Return the points that optuna has proposed so far."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    remedy = "remove the line, and go on with wmtp sweep ... --resume: optuna proposes another point"
    kind = dict[str, Any]
    return [Point(n, decode_record(line, kind, f"{path}:{n + 1}", remedy)) for n, line in enumerate(lines)]


def _proposed(plan: SweepPlan) -> list[Trial]:
    return [Trial(point, seed) for point in read_points(plan.folder.points) for seed in plan.spec.seeds]


def _unfinished(trial: Trial) -> TrialRecord:
    place = (trial.name, trial.point.number, trial.point.values, trial.seed)
    return TrialRecord(*place, status="unfinished", stop_reason=None, steps=0, metrics={}, run_dir=trial.name, notes=())


def write_outcome(plan: SweepPlan) -> tuple[Ranking, list[TrialRecord]]:
    """Rank what is known; write sweep.json and recipe.best.yaml."""
    records = records_of(plan)
    ranking = rank(records, plan.spec.objective)
    write_sweep(plan.directory, plan.spec_values(), records, ranking, plan.shared())
    if ranking.best is not None:
        atomic_write(plan.folder.best_recipe, _best_recipe(plan, ranking).encode())
    return ranking, records


def _best_recipe(plan: SweepPlan, ranking: Ranking) -> str:
    """Write the best point as a recipe: as it was asked for, with the command's own seeds and no shared critic."""
    best = ranking.best
    assert best is not None
    assert best.objective is not None
    asked = plan.best_config(Point(best.point, best.overrides))
    objective = plan.spec.objective
    comment = (
        f"Point {best.point} of the sweep {plan.name}: {Point(best.point, best.overrides).render()}\n"
        f"{objective.metric} ({objective.mode}): {rendered(best.objective)} over {len(best.values)} seeds.\n"
        f"{textwrap.fill(ranking.verdict, 100)}\n"
        "Run it without a preset: what its preset said is written here, and a preset would win over it."
    )
    return dump_recipe(asked, comment, always=tuple(best.overrides))


def table_of(plan: SweepPlan, ranking: Ranking) -> str:
    """Return the points from best to worst, as text."""
    objective = plan.spec.objective
    rows = [["point", *_short_names(plan), f"{objective.metric} ({objective.mode})", "trials"]]
    for point in ranking.points:
        values = [_cell(point.overrides[key]) for key in plan.spec.space]
        found = rendered(point.objective) if point.objective is not None else "-"
        statuses = ", ".join(f"{count} {status}" for status, count in point.statuses.items())
        rows.append([f"{point.point:03d}", *values, found, statuses])
    caption = "Mean over seeds with Student's t interval, 95 %. Only points that finished with every seed compete."
    return titled_table(f"Sweep {plan.name}", rows, caption, left=(0, len(rows[0]) - 2, len(rows[0]) - 1))


def _short_names(plan: SweepPlan) -> list[str]:
    """Return the swept keys without their sections, where that leaves them distinct."""
    keys = list(plan.spec.space)
    leaves = [key.rpartition(".")[2] for key in keys]
    return leaves if len(set(leaves)) == len(leaves) else keys


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
