"""The record: what was configured, what differs, and what the runs warned about. Two sections."""

from collections.abc import Sequence
from typing import Any

from wmtp_ray.report.arms import Arm, differing_keys
from wmtp_ray.report.blocks import Block, Bullets, Missing, Section, Table, Words
from wmtp_ray.report.saved_run import SavedRun
from wmtp_ray.tracking.training_difference import SEED_KEYS

_MOST_CHARS = 120


def configuration_section(arms: Sequence[Arm]) -> Section:
    """Return the whole configuration of one run, or what differs between several."""
    runs = [run for arm in arms for run in arm.runs]
    if len(runs) == 1:
        values = tuple((key, _shown(value)) for key, value in runs[0].config.items())
        caption = f"The resolved configuration of {runs[0].name} (config.yaml)."
        whole = Table(caption, ("key", "value"), values, (0, 1))
        return Section("configuration", "Configuration", (whole, *_decided(runs)))
    blocks: list[Block] = []
    first = [arm.runs[0] for arm in arms]
    keys = differing_keys(first)
    if keys:
        rows = tuple((key, *(_shown(run.settings.get(key, "–")) for run in first)) for key in keys)
        columns = tuple(range(len(arms) + 1))
        caption = "What differs between the arms; all other settings are equal. Seeds, names and machine aside."
        blocks.append(Table(caption, ("key", *(arm.name for arm in arms)), rows, columns))
    else:
        blocks.append(Words("The runs differ in their seeds alone."))
    blocks += [_runs_table(arms), *_decided(runs)]
    return Section("configuration", "Configuration", tuple(blocks))


def warnings_section(arms: Sequence[Arm]) -> Section:
    """Return each warning once, with the runs that gave it."""
    runs = [run for arm in arms for run in arm.runs]
    given: dict[str, list[str]] = {}
    for run in runs:
        for text in run.result.warnings if run.result is not None else ():
            given.setdefault(text, []).append(run.name)
    blocks: list[Block] = []
    if given:
        blocks.append(Bullets(tuple(f"{text} — {_who(names, len(runs))}" for text, names in given.items())))
    unfinished = [run.name for run in runs if run.result is None]
    if unfinished:
        what = f"How {', '.join(unfinished)} ended: there is no result.json, the run is going on or was killed"
        command = f"wmtp launch recipe={runs[0].config.get('recipe')} run_name={unfinished[0]} --resume"
        blocks.append(Missing(what, "continue it", command))
    if not blocks:
        blocks.append(Words("The runs gave no warning."))
    return Section("warnings", "Warnings", tuple(blocks))


def _decided(runs: Sequence[SavedRun]) -> list[Table]:
    """What was decided while the runs ran; runs of earlier versions have no record of it."""
    known = {run.name: run.result.decisions.tags() for run in runs if run.result and run.result.decisions}
    names = list(dict.fromkeys(name for told in known.values() for name in told))
    if not names:
        return []
    rows = tuple((run, *(_shown(told.get(name, "–")) for name in names)) for run, told in known.items())
    header = ("run", *(name.removeprefix("ran.").replace("_", " ") for name in names))
    return [Table("What was decided while the runs ran.", header, rows, tuple(range(len(header))))]


def _runs_table(arms: Sequence[Arm]) -> Table:
    rows = []
    for arm in arms:
        for run in arm.runs:
            seeds = dict.fromkeys(str(run.config[key]) for key in SEED_KEYS if key in run.config)
            digest = run.result.policy_sha256 if run.result is not None else None
            rows.append((run.name, arm.name, "/".join(seeds), _status(run), digest[:12] if digest else "–"))
    header = ("run", "arm", "seed", "status", "policy")
    return Table("The runs. The policy is named by the first digits of its hash.", header, tuple(rows), (0, 1, 3, 4))


def _status(run: SavedRun) -> str:
    return "no result" if run.result is None else f"{run.result.status.lower()}, {run.result.steps} steps"


def _who(names: Sequence[str], num_runs: int) -> str:
    return "every run" if len(names) == num_runs > 1 else ", ".join(names)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…"
