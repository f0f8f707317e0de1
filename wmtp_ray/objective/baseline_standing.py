"""Which of the mandatory baselines a critic beats on held-out problems, in numbers and in words.

The gate asks for little (`gate_limits`: not collapsed, no shortcut, no leak), so passing it says little: a critic may
pass and predict worse than an unordered set of tokens. So every message about a passed gate includes the standing.
Reads the metrics that `CriticHealth.metrics` names, so it works on what a run has saved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Name in the metrics, name for people. The first five are mandatory (objective.md), the sixth counts tokens.
BASELINES = (
    ("length", "length"),
    ("position", "position"),
    ("problem_base_rate", "problem base rate"),
    ("token_identity", "token identity"),
    ("log_likelihood", "the policy's own log-likelihood"),
    ("bag_of_tokens", "bag of tokens"),
)


@dataclass(frozen=True)
class Measure:
    """One measure of critic and baseline; `is_beaten` asks for more than a tie."""

    name: str
    critic: float
    baseline: float

    @property
    def is_beaten(self) -> bool:
        """Whether the critic is above the baseline."""
        return self.critic > self.baseline

    @property
    def words(self) -> str:
        """For example "pair accuracy 0.600 against 0.735"."""
        return f"{self.name} {self.critic:.3f} against {self.baseline:.3f}"


@dataclass(frozen=True)
class BaselineStanding:
    """A critic beside one baseline, in each measure that both have; none where the baseline was not measured."""

    name: str
    measures: tuple[Measure, ...]

    @property
    def lost(self) -> tuple[Measure, ...]:
        """The measures in which the critic is not above it."""
        return tuple(each for each in self.measures if not each.is_beaten)


def baseline_standings(metrics: Mapping[str, float]) -> list[BaselineStanding]:
    """Return the critic's standing beside every baseline, by pair accuracy and AUC of its mean V."""
    return [BaselineStanding(label, tuple(_measures(metrics, name))) for name, label in BASELINES]


def standing_words(metrics: Mapping[str, float]) -> list[str]:
    """Describe which baselines the critic does not beat, beats, and which were not measured, in at most 3 sentences."""
    standings = baseline_standings(metrics)
    lost = [f"{each.name} ({_list(each.lost)})" for each in standings if each.lost]
    beaten = [f"{each.name} ({_list(each.measures)})" for each in standings if each.measures and not each.lost]
    missing = [each.name for each in standings if not each.measures]
    return [
        *([f"It does not beat: {'; '.join(lost)}."] if lost else []),
        *([f"It beats: {'; '.join(beaten)}."] if beaten else []),
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
    ]


def gate_words(failures: Sequence[str], metrics: Mapping[str, float]) -> str:
    """Return the gate's verdict on a critic with its standing beside the baselines, as one paragraph."""
    verdict = f"fails the gate: {'; '.join(failures)}" if failures else "passes the gate (critic.gate_limits)"
    return " ".join([f"The critic {verdict}.", *standing_words(metrics)])


def _measures(metrics: Mapping[str, float], baseline: str) -> list[Measure]:
    # The position's AUC is over all states, so it stands beside the critic's over all states.
    own_auc = "auc_states" if baseline == "position" else "auc_mean"
    found = []
    for suffix, own, label in (("pair_accuracy", "pair_accuracy", "pair accuracy"), ("auc", own_auc, "AUC")):
        critic, other = metrics.get(f"critic/{own}"), metrics.get(f"critic/baseline_{baseline}_{suffix}")
        if critic is not None and other is not None:
            found.append(Measure(label, critic, other))
    return found


def _list(measures: Sequence[Measure]) -> str:
    return ", ".join(each.words for each in measures)
