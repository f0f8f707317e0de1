"""decisions.json: what was decided while a run ran, which its config.yaml therefore lacks.

| decision | written by, and when |
|---|---|
| which weighting stage 2 ran with, and what the critic's gate said | the driver, before stage 2 begins |
| host and versions, settings that config.yaml does not say, stages done before | the driver, at every start |
| the content of the file whose rows stage 2 compares with | the driver, before stage 2 begins |
| which version of its own critic the run kept, and the losses that say so | the driver, after stage 1 |
| device, precision, number of ranks, first step | rank 0, scorers and decoders, at every start of theirs |
| formats and isolation of the evaluation, data sets without a file | the driver, before stage 3 |
| which policies were evaluated while they trained, and the best of them | the driver, after stage 2 |

A decision is taken once: a resumed run reads it. result.json repeats all of it, MLflow has it as tags that begin with
`ran.`. Imports no torch.
"""

import os
import platform
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from wmtp_ray.config.dotted_leaves import differing_keys, dotted_leaves
from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.tags import OF_THE_RUN
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.saved_records import decode_record, encode_line, is_json, read_record, write_record
from wmtp_ray.tracking.kept_critic import KeptCritic

_PACKAGES = ("wmtp_ray", "torch", "ray", "numpy")

GateOutcome = Literal["passed", "warned", "fell back", "stopped", "unhealthy", "not measured"]


@dataclass(frozen=True)
class GateDecision:
    """What `critic.gate` made of the health of a critic.

    unhealthy: there is no stage 2 that this could change; not measured: no health is recorded beside the critic.
    """

    outcome: GateOutcome
    critic: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Start:
    """One start of the run. `changed`: settings of this start that config.yaml, of the first one, says otherwise."""

    began: str
    host: str
    versions: dict[str, str]
    stages: tuple[int, ...]
    done_before: tuple[int, ...]
    changed: dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where one process computes, as it found out itself. Rank 0 records for all ranks: stage, first step, number."""

    role: str
    device: str
    dtype: str
    stage: int | None = None
    step: int | None = None
    num_ranks: int | None = None


@dataclass(frozen=True)
class EvaluatedAs:
    """How stage 3 asked and judged on a data set: what `auto` came to."""

    format: str
    reason: str
    isolation: str


@dataclass(frozen=True)
class EvaluatedSteps:
    """What came of `evaluation.every_steps`: the folder of its set, the step of the highest Pass@1, what was left out.

    `best_step` and `pass_at_1` are None where no evaluation was done.
    """

    key: str
    dataset: str
    best_step: int | None
    pass_at_1: float | None
    left_out: tuple[int, ...]

    @property
    def words(self) -> str:
        """Say which policy was the best."""
        if self.pass_at_1 is None:
            return ""
        return f"after {self.best_step} steps, Pass@1 {self.pass_at_1:.3f} on {self.dataset}"


@dataclass(frozen=True)
class Decisions:
    """All of it. `weighting` and `gate` are None before stage 2 begins, and where no critic's health was asked for."""

    weighting: str | None = None
    gate: GateDecision | None = None
    starts: tuple[Start, ...] = ()
    places: tuple[Place, ...] = ()
    evaluation: dict[str, EvaluatedAs] = field(default_factory=dict)
    not_evaluated: tuple[str, ...] = ()
    critic: KeptCritic | None = None
    compared_with: str | None = None  # fingerprint of weighting.compared_file, where stage 2 reads one
    evaluated_steps: EvaluatedSteps | None = None

    def tags(self) -> dict[str, str]:
        """Return what MLflow is told: names that begin with `ran.`, one for each thing that was decided."""
        ranks = [place for place in self.places if place.num_ranks is not None]
        changed = {key: value for start in self.starts for key, value in start.changed.items()}
        told = {
            "weighting": self.weighting or "",
            "gate": "" if self.gate is None else "; ".join([self.gate.outcome, *self.gate.failures]),
            "critic": "" if self.critic is None else self.critic.words,
            "device": _in_turn(place.device for place in ranks),
            "dtype": _in_turn(place.dtype for place in ranks),
            "num_ranks": _in_turn(str(place.num_ranks) for place in ranks),
            "hosts": _in_turn(start.host for start in self.starts),
            "versions": _in_turn(_spelled(start.versions) for start in self.starts),
            "starts": str(len(self.starts)) if len(self.starts) > 1 else "",
            "changed": _spelled(changed),
            "formats": " ".join(f"{name}={each.format}" for name, each in self.evaluation.items()),
            "isolation": _in_turn(each.isolation for each in self.evaluation.values()),
            "not_evaluated": " ".join(self.not_evaluated),
            "best_step": "" if self.evaluated_steps is None else self.evaluated_steps.words,
        }
        return {f"{OF_THE_RUN}{name}": text for name, text in told.items() if text}


def read_decisions(run_dir: Path) -> Decisions:
    """Read what has been decided so far; ArtifactError for a file of another form."""
    path = RunFolder(run_dir).decisions
    decided = read_record(path, Decisions, "restore the file, or remove it") if path.is_file() else Decisions()
    return replace(decided, places=tuple(_places(run_dir)))


def note_start(config: RunConfig, done_before: tuple[int, ...]) -> None:
    """Add a start of the run."""
    decided = read_decisions(config.run_dir)
    began, host = time.strftime("%Y-%m-%dT%H:%M:%S%z"), socket.gethostname()
    start = Start(began, host, _versions(), config.stages, done_before, _changed(config))
    _write(config.run_dir, replace(decided, starts=(*decided.starts, start)))


def note_gate(run_dir: Path, gate: GateDecision | None) -> None:
    """Record the gate's decision."""
    _write(run_dir, replace(read_decisions(run_dir), gate=gate))


def note_compared_with(run_dir: Path, fingerprint: str) -> None:
    """Record the content of `weighting.compared_file`."""
    _write(run_dir, replace(read_decisions(run_dir), compared_with=fingerprint))


def note_critic(run_dir: Path, kept: KeptCritic) -> None:
    """Record which version of the critic stage 1 kept."""
    _write(run_dir, replace(read_decisions(run_dir), critic=kept))


def note_weighting(run_dir: Path, weighting: str) -> None:
    """Record the weighting that stage 2 begins with."""
    _write(run_dir, replace(read_decisions(run_dir), weighting=weighting))


def note_evaluation(run_dir: Path, evaluation: dict[str, EvaluatedAs], not_evaluated: tuple[str, ...]) -> None:
    """Record the formats and the judge's settings of stage 3."""
    _write(run_dir, replace(read_decisions(run_dir), evaluation=evaluation, not_evaluated=not_evaluated))


def note_evaluated_steps(run_dir: Path, evaluated: EvaluatedSteps) -> None:
    """Record what the evaluations while stage 2 trained found."""
    _write(run_dir, replace(read_decisions(run_dir), evaluated_steps=evaluated))


def note_place(run_dir: Path, place: Place) -> None:
    """Add where this process computes. Several do so at once: a line is written by one call."""
    descriptor = os.open(RunFolder(run_dir).places, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, encode_line(place))
    finally:
        os.close(descriptor)


def _places(run_dir: Path) -> Iterator[Place]:
    """Read the saved places; skip a line that a full disk has cut."""
    path = RunFolder(run_dir).places
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        if is_json(line):
            yield decode_record(line, Place, path, "remove the file")


def _versions() -> dict[str, str]:
    """Return the versions of packages; a checkout without an installation has none of its own."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _changed(config: RunConfig) -> dict[str, Any]:
    saved = config.folder.config
    if not saved.is_file():
        return {}
    before, after = (dict(dotted_leaves(each.model_dump(mode="json"))) for each in (load_resolved(saved), config))
    return {key: after.get(key) for key in differing_keys(before, after)}


def _write(run_dir: Path, decided: Decisions) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    write_record(RunFolder(run_dir).decisions, replace(decided, places=()))


def _spelled(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _in_turn(texts: Iterable[str]) -> str:
    """Join texts in turn, one that repeats the text before it left out: cuda:0, cpu."""
    found: list[str] = []
    for text in texts:
        if not found or found[-1] != text:
            found.append(text)
    return ", ".join(found)
