"""Two evaluations of the same problems: what differs in training, then the difference in Pass@K with its interval.

A verdict is always shown with other possible causes: more steps, another start, other settings of decoding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.dotted_leaves import differing_keys, dotted_leaves
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.pass_at_k import Counts, Estimate, compare_pass_at_k
from wmtp_ray.evaluation.results import EvaluationResults, ProblemResult
from wmtp_ray.intervals import RULE
from wmtp_ray.text_tables import table
from wmtp_ray.tracking.training_difference import (
    TrainedPolicy,
    TrainingDifference,
    is_same_policy,
    training_difference,
)
from wmtp_ray.tracking.training_record import training_of

_POLICY_AND_PROBLEMS = {
    "dataset",
    "model",
    "samples_sha256",
    "server",
    "said_to_be",
}  # of an identity: told on their own


@dataclass(frozen=True)
class ChangedProblem:
    """A problem whose share of passing answers changed."""

    task_id: str
    before: ProblemResult
    after: ProblemResult


@dataclass(frozen=True)
class Comparison:
    """What changed from one evaluation to another; `differences` holds after - before by K.

    `training` says what differs in training, `settings` what differs in decoding and judging: name, before, after.
    """

    before: EvaluationResults
    after: EvaluationResults
    differences: dict[str, Estimate]
    changed: tuple[ChangedProblem, ...]
    training: TrainingDifference
    settings: tuple[tuple[str, str, str], ...]

    def render(self) -> str:
        """Describe it as text: what differs in training, Pass@K, the verdict, then the problems that changed."""
        parts = [self._training_words(), *self._settings_words(), self._estimates()]
        parts.append(" ".join([*self.verdicts(), *self.cautions()]))
        better = [each for each in self.changed if _share(each.after) > _share(each.before)]
        worse = [each for each in self.changed if each not in better]
        parts += [f"{title}: {len(found)}\n{_listed(found)}" for title, found in (("better", better), ("worse", worse))]
        return "\n\n".join(part.rstrip() for part in parts)

    def verdicts(self) -> list[str]:
        """State for each K which policy solves more, or that no difference is shown."""
        return [f"Pass@{k}: {_verdict(each)}" for k, each in self.differences.items()]

    def cautions(self) -> list[str]:
        """Name causes other than the method that may explain the difference; empty if there are none."""
        found = [self.training.caution] if self.training.caution is not None else []
        if self.settings:
            names = ", ".join(name for name, _, _ in self.settings)
            found.append(f"The evaluations themselves differ in {names}: evaluate both alike.")
        return found

    def _training_words(self) -> str:
        if is_same_policy(*self._policies()):
            return "Both are evaluations of the same policy: nothing differs in training."
        head = [["What differs in training", "before", "after"]]
        head.append(["policy", *(each.words for each in self._policies())])
        rows = [[row.label, row.before, row.after] for row in self.training.rows]
        return table([*head, *rows], left=(0, 1, 2))

    def _settings_words(self) -> list[str]:
        head = ["What differs in the evaluation", "before", "after"]
        return [table([head, *map(list, self.settings)], left=(0, 1, 2))] if self.settings else []

    def _policies(self) -> tuple[TrainedPolicy, TrainedPolicy]:
        return trained_policy(self.before, "before"), trained_policy(self.after, "after")

    def _estimates(self) -> str:
        rows = [["", "before", "after", "difference", "95 % interval"]]
        for k, each in self.differences.items():
            values = [self.before.pass_at_k[k].value, self.after.pass_at_k[k].value]
            interval = f"[{each.low:+.3f}, {each.high:+.3f}]"
            rows.append([f"Pass@{k}", *(f"{value:.3f}" for value in values), f"{each.value:+.3f}", interval])
        return (
            f"{self.before.sources.dataset}, {self.before.num_problems} problems\n{table(rows)}\n"
            f"intervals: {RULE}; 0 inside one does not prove that nothing changed"
        )


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
    training = training_difference(trained_policy(before, "before"), trained_policy(after, "after"))
    return Comparison(before, after, differences, changed, training, tuple(_differing_settings(before, after)))


def trained_policy(results: EvaluationResults, name: str) -> TrainedPolicy:
    """Return the policy of an evaluation under the name it has in a comparison.

    Results of earlier versions hold no training; what lies where their policy was may still tell. The model of a server
    equals no other, not even one of its name: its weights are unknown.
    """
    answers = results.identity.get("answers", {})
    if (server := answers.get("server")) is not None:
        model = str(server["model"]).rstrip("/").rpartition("/")[2]
        return TrainedPolicy(name, f"{model}, served ({name}, weights not known)", None, None)
    # Given samples are somebody's policy: the file stands for it.
    weights_sha256 = answers.get("model", {}).get("weights_sha256") or answers.get("samples_sha256")
    path = results.sources.answers_path
    training = results.sources.training or training_of(Path(path), weights_sha256)
    return TrainedPolicy(name, path, weights_sha256, training)


def _difference(before: Sequence[ProblemResult], after: Sequence[ProblemResult], k: int) -> Estimate:
    """Compare over the problems that have K judged answers on both sides."""
    pairs = [
        (Counts(one.num_samples, one.num_correct), Counts(two.num_samples, two.num_correct))
        for one, two in zip(before, after, strict=True)
        if min(one.num_samples, two.num_samples) >= k
    ]
    ones, twos = [one for one, _ in pairs], [two for _, two in pairs]
    return compare_pass_at_k(ones, twos, k)


def _verdict(difference: Estimate) -> str:
    bounds = f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    if difference.low > 0.0 or difference.high < 0.0:
        return f"after solves {'more' if difference.value > 0 else 'fewer'} problems than before: {bounds}."
    return f"before and after cannot be told apart: {bounds}."


def _differing_settings(before: EvaluationResults, after: EvaluationResults) -> Iterator[tuple[str, str, str]]:
    """What shapes answers and verdicts beside the policy: decoding, the judge, versions."""
    one, two = dict(dotted_leaves(before.identity)), dict(dotted_leaves(after.identity))
    for name in differing_keys(one, two):
        if not _POLICY_AND_PROBLEMS & set(name.split(".")):
            yield name, _short(one.get(name, "-")), _short(two.get(name, "-"))


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
