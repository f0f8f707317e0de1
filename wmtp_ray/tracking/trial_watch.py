"""What a trial of a sweep is watched for, step by step: its stop rules, and the number that early stopping compares."""

import math
from collections import deque
from collections.abc import Iterator
from statistics import fmean

from wmtp_ray.config.sweep import SweepSpec
from wmtp_ray.contracts import StepReport


class RuleWatch:
    """Counts how many steps in a row each stop rule is broken."""

    def __init__(self, spec: SweepSpec) -> None:
        self._rules = spec.rules
        self._broken = dict.fromkeys(self._rules, 0)
        self._unseen = set(self._rules)

    def broken_by(self, report: StepReport) -> str | None:
        """Return the reason to stop after this step, None to go on."""
        for name, rule in self._rules.items():
            if rule.metric not in report.metrics:
                continue
            self._unseen.discard(name)
            value = report.metrics[rule.metric]
            self._broken[name] = self._broken[name] + 1 if rule.is_broken_by(value) else 0
            if self._broken[name] >= rule.for_steps:
                return f"{name}: {rule.render()}, last {value:.4g} at step {report.step + 1}"
        return None

    def notes(self) -> Iterator[str]:
        """Return which rules had nothing to look at."""
        for name in sorted(self._unseen):
            yield f"the rule {name} never saw its metric {self._rules[name].metric}"


class ComparedWindow:
    """The number that early stopping compares: the mean over the last steps."""

    def __init__(self, spec: SweepSpec) -> None:
        stopping = spec.early_stopping
        self._metric = stopping.metric if stopping is not None else None
        worst = math.inf if stopping is None or stopping.mode == "min" else -math.inf
        self._worst = worst
        self._values: deque[float] = deque(maxlen=stopping.window_steps if stopping is not None else 1)

    def add(self, report: StepReport) -> None:
        """Take in a step; one without the metric, or with a NaN, counts as the worst."""
        if self._metric is not None:
            value = report.metrics.get(self._metric, self._worst)
            self._values.append(self._worst if math.isnan(value) else value)

    @property
    def mean(self) -> float:
        """The mean so far; the worst number before the first step."""
        return fmean(self._values) if self._values else self._worst
