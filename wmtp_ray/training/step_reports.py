"""What is reported of a step: its metrics, how fast it was, and what of that outlives a process that dies.

Rank 0 sends a StepReport for each step to a sink without waiting (`ReportSink`). A sink may die with reports that
it has not recorded; so the reports since the last checkpoint are kept in a file beside it, and a start that continues
from that checkpoint sends again what is missing.
"""

from contextlib import suppress
from dataclasses import astuple
from typing import Protocol

import torch

from wmtp_ray.contracts import StepReport
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.saved_records import read_record, write_exact_record
from wmtp_ray.training.estimate.flops import Tokens
from wmtp_ray.training.estimate.run_estimate import stage_flops
from wmtp_ray.training.loop import StepOutcome
from wmtp_ray.training.stage_start import RankStage
from wmtp_ray.training.throughput import tokens_of


class ReportSink(Protocol):
    """Records the reports of a run."""

    def start_from(self, stage: int, step: int) -> None:
        """Forget the reports at or after (stage, step); return when they are forgotten."""
        ...

    def send(self, report: StepReport) -> None:
        """Take a report, in order, without waiting until it is recorded."""
        ...

    def recorded(self) -> list[StepReport]:
        """Return the reports that are recorded by now."""
        ...

    def flush(self) -> None:
        """Wait until every report that was sent is recorded, within a deadline."""
        ...


class StepReports:
    """Makes the reports of a stage. Every rank makes one and calls it: the counts are summed over the ranks.

    `peak_flops` is what the device of one rank can do in a second.
    """

    def __init__(self, stage: RankStage, size: ModelSpec, sink: ReportSink, *, peak_flops: float) -> None:
        self._stage = stage
        self._size = size
        self._sink = sink
        self._peak_flops = peak_flops
        self._kept = StageFolder(stage.directory).kept_reports
        self._since_checkpoint: list[StepReport] = []  # of rank 0

    def start(self) -> None:
        """Have the steps to come forgotten; send those again that the checkpoint holds and that are not recorded."""
        if self._stage.ranks.rank != 0:
            return
        number, first_step = self._stage.recipe.stage, self._stage.first_step
        # Waited for: a sink that dies just now is asked again, and must not forget what was reported in the meantime.
        self._sink.start_from(number, first_step)
        if not self._kept.is_file():
            return
        known = {(report.stage, report.step) for report in self._sink.recorded()}
        for report in read_record(self._kept, list[StepReport], "remove it: metrics.jsonl then lacks these steps"):
            if report.step < first_step and (report.stage, report.step) not in known:
                self._sink.send(report)

    def report(self, outcome: StepOutcome) -> None:
        """Send the report of a step."""
        facts = self._facts(outcome)
        if self._stage.ranks.rank != 0:
            return
        self._since_checkpoint.append(StepReport(self._stage.recipe.stage, outcome.step, outcome.metrics | facts))
        self._sink.send(self._since_checkpoint[-1])

    def keep(self) -> None:
        """Keep the reports since the checkpoint before, for the checkpoint that is written next."""
        if self._stage.ranks.rank != 0:
            return
        with suppress(OSError):  # a full disk is the checkpoint's to name
            write_exact_record(self._kept, self._since_checkpoint)
        self._since_checkpoint.clear()

    def flush(self) -> None:
        """Wait until every report is recorded, within the sink's deadline."""
        if self._stage.ranks.rank == 0:
            self._sink.flush()

    def _facts(self, outcome: StepOutcome) -> dict[str, float]:
        """Return rank 0's waits and times, and the throughput of all ranks."""
        scored, step_s = outcome.scored.batches, outcome.step_s
        counted = tokens_of([each.batch for each in scored], self._size.num_horizons, self._size.attention_window)
        num_supervised = sum(each.batch.num_supervised_tokens for each in scored)
        own = torch.tensor([num_supervised, *astuple(counted)], dtype=torch.float64)
        supervised, *counts = self._stage.ranks.sum(own).tolist()
        tokens = Tokens(*map(int, counts))
        flops = stage_flops(self._stage.config, self._size, self._stage.recipe.stage, tokens).model
        return {
            "score/staleness_steps": float(scored[0].staleness_steps),
            "score/wait_s": scored[0].wait_s,
            "perf/step_s": step_s,
            "perf/data_wait_frac": outcome.scored.data_wait_s / step_s,
            "perf/tokens": float(tokens.tokens),
            "perf/supervised_tokens_per_s": supervised / step_s,
            "perf/mfu": flops / (step_s * self._peak_flops * self._stage.ranks.world_size),
        }
