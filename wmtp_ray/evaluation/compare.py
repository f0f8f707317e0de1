"""Two evaluations of the same problems: the difference in Pass@K with its interval, and which problems changed."""

from collections.abc import Sequence
from dataclasses import dataclass

from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.intervals import RULE
from wmtp_ray.evaluation.pass_at_k import Counts, Estimate, compare_pass_at_k
from wmtp_ray.evaluation.results import BOOTSTRAP_SEED, EvaluationResults, ProblemResult
from wmtp_ray.text_tables import table


@dataclass(frozen=True)
class ChangedProblem:
    """A problem of which another share of answers passes."""

    task_id: str
    before: ProblemResult
    after: ProblemResult


@dataclass(frozen=True)
class Comparison:
    """What changed from one evaluation to another; `differences` holds after - before by K."""

    before: EvaluationResults
    after: EvaluationResults
    differences: dict[str, Estimate]
    changed: tuple[ChangedProblem, ...]

    def render(self) -> str:
        """Describe it as text: a table of Pass@K, then the problems that changed."""
        rows = [["", "before", "after", "difference", "95 % interval"]]
        for k, each in self.differences.items():
            values = [self.before.pass_at_k[k].value, self.after.pass_at_k[k].value]
            interval = f"[{each.low:+.3f}, {each.high:+.3f}]"
            rows.append([f"Pass@{k}", *(f"{value:.3f}" for value in values), f"{each.value:+.3f}", interval])
        better = [each for each in self.changed if _share(each.after) > _share(each.before)]
        worse = [each for each in self.changed if each not in better]
        parts = [f"{self.before.sources.dataset}, {self.before.num_problems} problems\n{table(rows)}"]
        parts.append(f"The intervals are {RULE}: 0 inside one does not prove that nothing changed.")
        parts += [f"{title}: {len(found)}\n{_listed(found)}" for title, found in (("better", better), ("worse", worse))]
        return "\n\n".join(part.rstrip() for part in parts)


def compare(before: EvaluationResults, after: EvaluationResults) -> Comparison:
    """Compare in pairs; raises ConfigError unless both are of the same problems and have the same K."""
    for name, found, expected in (
        ("the problems", _dataset(after), _dataset(before)),
        ("K", list(after.pass_at_k), list(before.pass_at_k)),
        ("the tasks", [each.task_id for each in after.problems], [each.task_id for each in before.problems]),
    ):
        if found != expected:
            raise ConfigError(
                f"The evaluations differ in {name}: {_short(expected)} before, {_short(found)} after; a comparison in "
                "pairs needs the same: evaluate both with the same --dataset, --limit and --k"
            )
    differences = {k: _difference(before.problems, after.problems, int(k)) for k in before.pass_at_k}
    changed = tuple(
        ChangedProblem(one.task_id, one, two)
        for one, two in zip(before.problems, after.problems, strict=True)
        if _share(one) != _share(two)
    )
    return Comparison(before, after, differences, changed)


def _difference(before: Sequence[ProblemResult], after: Sequence[ProblemResult], k: int) -> Estimate:
    """Over the problems that have K judged answers on both sides."""
    pairs = [
        (Counts(one.num_samples, one.num_correct), Counts(two.num_samples, two.num_correct))
        for one, two in zip(before, after, strict=True)
        if min(one.num_samples, two.num_samples) >= k
    ]
    ones, twos = [one for one, _ in pairs], [two for _, two in pairs]
    return compare_pass_at_k(ones, twos, k, seed=BOOTSTRAP_SEED)


def _dataset(results: EvaluationResults) -> object:
    return results.identity["dataset"]


def _share(result: ProblemResult) -> float:
    return result.num_correct / result.num_samples if result.num_samples else 0.0


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _listed(found: Sequence[ChangedProblem]) -> str:
    rows = [[each.task_id, _fraction(each.before), "->", _fraction(each.after)] for each in found]
    return table(rows) if rows else ""


def _fraction(result: ProblemResult) -> str:
    return f"{result.num_correct}/{result.num_samples}"
