"""What a finished run says of weights that did next to nothing, or left next to nothing to learn from."""

from collections.abc import Sequence
from statistics import fmean

from wmtp_ray.config.arms import BASELINE, Shape
from wmtp_ray.config.schema import WeightingConfig
from wmtp_ray.contracts import StepReport

FLAT_STD = 0.05
MOST_DROPPED = 0.9


def weight_warnings(weighting: WeightingConfig, reports: Sequence[StepReport]) -> list[str]:
    """Warn when the weights were almost uniform, which the default beta can cause with a good critic.

    A threshold may also drop nearly every token, which leaves the standard deviation as small.
    """
    stds, dropped = (_of_stage_2(reports, name) for name in ("weight/std", "weight/dropped_frac"))
    if weighting.arm.shape == "threshold" and dropped and fmean(dropped) > MOST_DROPPED:
        return [
            f"{fmean(dropped):.1%} of the tokens were dropped on average: this run learned from next to nothing. Raise "
            f"weighting.drop_below ({weighting.drop_below}), or train the critic longer"
        ]
    remedy = _remedy(weighting)
    if remedy is None or not stds or fmean(stds) >= FLAT_STD:
        return []
    return [
        f"The token weights' standard deviation was {fmean(stds):.3f} on average, below {FLAT_STD}: this run "
        f"can hardly be told from weighting.type={BASELINE.name}. {remedy}"
    ]


def _remedy(weighting: WeightingConfig) -> str | None:
    """What sharpens the weights; None where no setting does."""
    whiten = "" if weighting.arm.pushes_down else ", or set weighting.advantage_norm=batch"
    remedies: dict[Shape, str] = {
        "beta": f"Lower weighting.beta ({weighting.beta}){whiten}",
        "threshold": f"Lower weighting.drop_below ({weighting.drop_below})",
        "difference": f"Take weighting.diff_weight ({weighting.diff_weight}) further from 1",
    }
    return remedies.get(weighting.arm.shape)


def _of_stage_2(reports: Sequence[StepReport], name: str) -> list[float]:
    found = [report.metrics_of_arm for report in reports if report.stage == 2]
    return [metrics[name] for metrics in found if name in metrics]
