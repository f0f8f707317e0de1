"""metrics.jsonl: one JSON object for each optimizer step, in order, no step twice. The run's own copy of its numbers.

    {"stage":2,"step":7,"time":1735787045.2,"loss/total":2.31,...}
    {"stage":3,"step":4,"time":1735787045.9,"eval/mbpp/pass@1":0.25,...}

A line of stage 3 is an evaluation of the policy that has made `step` steps of stage 2, written when it is done: it
stands wherever that is among the lines of the stages that train.

Not a number and infinity are written as null, as JSON has neither. One process owns the file; nothing here locks it.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from wmtp_ray.contracts import StepReport
from wmtp_ray.durable_files import append_durably, atomic_write
from wmtp_ray.run_folder import EVALUATION_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.saved_records import decode_record, encode_line, is_json

RESERVED_KEYS = frozenset({"stage", "step", "time"})
NAN = float("nan")
_REMEDY = "take the line out: the report then lacks that step"
Position = tuple[int, int]  # (stage, step)


class JsonlSink:
    """Appends StepReports to `run_dir/metrics.jsonl`, each line flushed to the system before `log` returns.

    Opening drops what a killed process left of its last line. A report of an earlier step than the last written one
    takes its place in the order, instead of the line that may stand there: calls to an actor that was restarted are
    made again, and not in their order. Evaluations have an order of their own.
    """

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.path = RunFolder(run_dir).metrics
        self._last: dict[bool, Position] = {}  # by whether it is an evaluation
        self._rewrite(end=None)
        self._file = self.path.open("ab")

    def log(self, report: StepReport) -> float:
        """Append one line; return its `time`, seconds since the epoch."""
        assert not RESERVED_KEYS & report.metrics.keys(), "a metric may not be named stage, step or time"
        position = (report.stage, report.step)
        now_s = time.time()
        values = {"stage": report.stage, "step": report.step, "time": now_s, **report.metrics}
        line = encode_line(values)
        last = self._last.get(_is_evaluation(position))
        if last is not None and position <= last:
            self._file.close()
            self._rewrite(end=None, added={position: line})
            self._file = self.path.open("ab")
            return now_s
        self._file.write(line)
        self._file.flush()
        self._last[_is_evaluation(position)] = position
        return now_s

    def truncate_from(self, stage: int, step: int) -> None:
        """Drop every line at or after (stage, step), as a run does that resumes there. The file is replaced at once.

        From a step of stage 2 on: of the evaluations those of later policies than the one that it begins with.
        """
        self._file.close()
        self._rewrite(end=(stage, step))
        self._file = self.path.open("ab")

    def close(self) -> None:
        """Flush to the disk and close; the sink takes no more reports."""
        append_durably(self._file, b"")
        self._file.close()

    def _rewrite(self, end: Position | None, added: Mapping[Position, bytes] = MappingProxyType({})) -> None:
        """Keep the whole lines before `end` (all for None) and `added`, in order; leave a file alone that is so."""
        data = self.path.read_bytes() if self.path.exists() else b""
        found = _whole_lines(data, self.path)
        lines = {position: line for line, position in found if end is None or _is_before(position, end)} | dict(added)
        order = _ordered(lines)
        self._last = {_is_evaluation(position): position for position in sorted(lines)}
        new_data = b"".join(lines[position] for position in order)
        if new_data != data:
            atomic_write(self.path, new_data)


def _is_evaluation(position: Position) -> bool:
    return position[0] == EVALUATION_STAGE


def _is_before(position: Position, end: Position) -> bool:
    """Whether a line stays when everything from `end` on is done again."""
    if _is_evaluation(position) and end[0] == TRAIN_STAGE:
        return position[1] <= end[1]
    return position < end


def _ordered(found: Iterable[Position]) -> list[Position]:
    """Sort the steps of training; an evaluation stays behind the latest step that was recorded before it."""
    behind: dict[Position, tuple[Position, Position]] = {}
    latest = (0, 0)
    for position in found:
        if _is_evaluation(position):
            behind[position] = (latest, position)
        else:
            behind[position] = (position, (0, 0))
            latest = max(latest, position)
    return sorted(behind, key=lambda position: behind[position])


class _Line(Struct):
    """What every line of metrics.jsonl has beside its metrics."""

    stage: int
    step: int
    time: float


def _whole_lines(data: bytes, path: Path) -> Iterator[tuple[bytes, Position]]:
    """Every line that was written to its end, with its position; a torn one is skipped."""
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        if line.endswith(b"\n") and is_json(line):
            found = decode_record(line, _Line, f"{path}:{number}", _REMEDY)
            yield line, (found.stage, found.step)


def read_reports(run_dir: Path) -> list[StepReport]:
    """Return all whole lines of a run's metrics.jsonl as reports, null as NaN."""
    return [report for report, _ in read_timed_reports(run_dir)]


def read_training_reports(run_dir: Path) -> list[StepReport]:
    """Return the optimizer steps alone, without the evaluations between them."""
    return [report for report in read_reports(run_dir) if report.stage != EVALUATION_STAGE]


def read_timed_reports(run_dir: Path) -> list[tuple[StepReport, float]]:
    """Return all whole lines as reports, each with its time in seconds since the epoch."""
    path = RunFolder(run_dir).metrics
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return [
        report_of(line, f"{path}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.endswith(b"\n") and is_json(line)
    ]


def report_of(line: bytes, where: object) -> tuple[StepReport, float]:
    """Turn one line into a report, null as NaN, and its time; ArtifactError names `where` and the field."""
    found = decode_record(line, _Line, where, _REMEDY)
    values = decode_record(line, dict[str, float | None], where, _REMEDY)
    metrics = {key: NAN if value is None else value for key, value in values.items() if key not in RESERVED_KEYS}
    return StepReport(stage=found.stage, step=found.step, metrics=metrics), found.time
