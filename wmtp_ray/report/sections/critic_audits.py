"""The audits of critics: V beside the share of the policy's continuations that pass, and the calibration curve."""

from collections.abc import Iterator, Sequence

from wmtp_ray.intervals import Interval
from wmtp_ray.objective.true_values import ValueAgreement
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Figure, Table, Trace, arm_colour, figures
from wmtp_ray.tracking.critic_audit import CriticAudit

_HEADER = ("run", "prefixes", "rank correlation", "next token", "… clear pairs", "calibration error")
_LARGEST_MARKER = 26  # pixels, of the bin with most prefixes
_SMALLEST_MARKER = 6


def critic_audit_blocks(arms: Sequence[Arm]) -> list[Block]:
    """Return a table and the calibration curves of the runs that were audited; nothing without any."""
    audits = list(_audits(arms))
    if not audits:
        return []
    caption = (
        "V of prefixes of held-out programs beside the share of the policy's own continuations at temperature 1 that "
        "pass all tests (Monte Carlo). Half of the prefixes stand at the first token in which a correct and an "
        "incorrect program, one edit apart, differ. Rank correlation: Spearman's. Next token: of two prefixes that "
        "differ in their last token, how often V is larger for the better one; chance is 0.5. Clear pairs: those "
        "whose shares differ by more than chance. 95 % intervals over problems, and the number of pairs."
    )
    rows = [
        _row(name, stratum, agreement) for name, _, audit in audits for stratum, agreement in audit.agreement.items()
    ]
    return [Table(caption, _HEADER, tuple(rows), text_columns=(0, 1)), _calibration(audits)]


def _audits(arms: Sequence[Arm]) -> Iterator[tuple[str, int, CriticAudit]]:
    for number, arm in enumerate(arms):
        for run in arm.runs:
            if run.audit is not None and run.audit.agreement:
                yield f"{arm.name}, {run.name}", number, run.audit


def _row(name: str, stratum: str, agreement: ValueAgreement) -> tuple[str, ...]:
    pairs = agreement.next_token
    return (
        name,
        f"{agreement.num_prefixes:,} {stratum}",
        _estimate(agreement.rank_correlation),
        f"{_estimate(pairs.accuracy)} of {pairs.num_pairs:,}",
        f"{_estimate(pairs.clear_accuracy)} of {pairs.num_clear:,}",
        figures(agreement.calibration_error),
    )


def _estimate(found: Interval | None) -> str:
    if found is None or found.low is None or found.high is None:
        return figures(None if found is None else found.value)
    return f"{figures(found.value)} [{figures(found.low)}, {figures(found.high)}]"


def _calibration(audits: Sequence[tuple[str, int, CriticAudit]]) -> Figure:
    traces: list[Trace] = []
    for name, number, audit in audits:
        bins = audit.agreement["all"].bins
        most = max(each.num_prefixes for each in bins)
        sizes = [max(_SMALLEST_MARKER, _LARGEST_MARKER * (each.num_prefixes / most) ** 0.5) for each in bins]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": [each.value for each in bins],
                "y": [each.monte_carlo for each in bins],
                "text": [f"{each.num_prefixes} prefixes" for each in bins],
                "line": {"color": arm_colour(number), "width": 1},
                "marker": {"color": arm_colour(number), "size": sizes},
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "calibrated",
            "x": [0, 1],
            "y": [0, 1],
            "hoverinfo": "skip",
            "line": {"color": "@faint", "width": 1, "dash": "dash"},
        }
    )
    caption = (
        "Prefixes in ten bins of V: mean V of a bin, and the mean share of continuations that pass. Larger dots hold "
        "more prefixes. A critic that knows the chances lies on the diagonal."
    )
    return Figure("Calibration of V", caption, tuple(traces), "V", "continuations that pass", {})
