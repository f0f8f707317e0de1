"""The tables that the quickstart ends in, for a terminal of 80 columns. Measures nothing."""

from collections.abc import Mapping

from wmtp_ray.intervals import RULE
from wmtp_ray.objective.baseline_standing import baseline_standings
from wmtp_ray.report.quickstart_summary import CriticFindings, QuickstartArm, Share
from wmtp_ray.text_tables import titled_table
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.training.held_out import HeldOutLosses

_CRITIC_NUMBERS = {
    "auc_100": "AUC at the end of a program",
    "minimal_first_difference_drops": "the first wrong token drops more",
    "pair_accuracy": "correct above incorrect, within a problem",
}
_RUN_NUMBERS = {
    "loss/policy_unweighted": "loss of the last batch, all horizons",
    "weight/mean": "token weights: mean",
    "weight/std": "token weights: standard deviation",
    "weight/ess_frac": "token weights: effective sample size",
    "score/staleness_steps": "critic's version: steps behind",
    "perf/supervised_tokens_per_s": "supervised tokens per second",
}


def critic_table(critic: CriticFindings) -> str:
    """The critic's measures, beside those of baselines that see almost nothing of a program."""
    verdict = "fails" if critic.failures else "passes"
    standings = baseline_standings(critic.metrics)
    lost = [each.name for each in standings if each.lost]
    caption = f"It {verdict} the gate" + (f", and does not beat {', '.join(lost)}." if lost else ".")
    rows = [["on held-out problems", "found", "chance"]]
    for key, label in _CRITIC_NUMBERS.items():
        if f"critic/{key}" in critic.metrics:
            rows.append([label, f"{critic.metrics[f'critic/{key}']:.3f}", "0.5"])
    for standing in standings:
        for measure in standing.measures:
            if measure.name == "pair accuracy":
                rows.append([f"    by {standing.name}", f"{measure.baseline:.3f}", "0.5"])
    return titled_table("The critic before it weighs anything", rows, caption)


def run_table(results: Mapping[str, RunResult]) -> str:
    """How each arm's training went."""
    rows = [["", *results], ["steps", *(str(result.steps) for result in results.values())]]
    for key, label in _RUN_NUMBERS.items():
        rows.append([label, *(_cell(result.metrics.get(key)) for result in results.values())])
    return titled_table("The runs", rows)


def loss_table(losses: Mapping[str, HeldOutLosses]) -> str:
    """How likely each model finds correct and incorrect programs."""
    rows = [["model", "correct programs", "incorrect programs", "margin"]]
    for name, each in losses.items():
        rows.append([name, f"{each.correct:.3f}", f"{each.incorrect:.3f}", f"{each.incorrect - each.correct:+.3f}"])
    caption = (
        "Lower is likelier. A positive margin: correct programs are likelier than incorrect ones. base and baseline "
        "read correct programs alone, the other arms incorrect ones too."
    )
    return titled_table("Loss per token on problems never seen", rows, caption)


def pass_table(arms: Mapping[str, QuickstartArm]) -> str:
    """How many held-out problems each arm solves, beside how much training it had."""
    rows = [["arm", "steps", "tokens", "Pass@1 greedy", "at temperature 1"]]
    for name, arm in arms.items():
        tokens = "-" if arm.supervised_tokens is None else f"{arm.supervised_tokens:,}"
        rows.append([name, str(arm.steps), tokens, _share(arm.greedy), _share(arm.t1)])
    caption = (
        "Every program is run on ten inputs. Steps and supervised tokens are those since the base, from which every "
        f"arm starts. Intervals: {RULE}."
    )
    return titled_table("Held-out problems solved by the program that the model writes", rows, caption)


def _share(share: Share | None) -> str:
    return "-" if share is None else f"{share.estimate:.3f} [{share.low:.3f}, {share.high:.3f}]"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
