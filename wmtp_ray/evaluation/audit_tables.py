"""An audit of a critic as tables for a terminal."""

from wmtp_ray.intervals import Interval
from wmtp_ray.objective.true_values import ValueAgreement
from wmtp_ray.text_tables import titled_table
from wmtp_ray.tracking.critic_audit import CriticAudit

_CAPTION = (
    "Monte Carlo: the share of the policy's continuations at temperature 1 that pass all tests. Rank correlation: "
    "Spearman's, of V with it. Next token: of two prefixes that differ in their last token, how often V is larger for "
    "the better one, ties one half; chance is 0.5. Clear: those whose shares differ by more than 1.96 standard errors. "
    "Intervals: 95 % over problems."
)


def audit_tables(audit: CriticAudit) -> str:
    """Return what was found: agreement by stratum, pairs by stratum, calibration."""
    settings = audit.settings
    lines = [
        f"{len(audit.prefixes)} prefixes of {audit.num_problems} of {audit.num_available} held-out problems with "
        f"tests, {audit.num_with_edit} of them with a minimal pair; {settings.rollouts} continuations each, seed "
        f"{settings.seed}"
    ]
    if audit.num_with_edit < audit.num_problems:
        missing = audit.num_problems - audit.num_with_edit
        lines.append(f"warning: {missing} of the problems have no minimal pair, so no prefix at an edit")
    if audit.num_not_judged:
        lines.append(f"warning: {audit.num_not_judged} continuations are left out, since the judge failed on them")
    lines.append(titled_table("V and the Monte-Carlo value", _agreement_rows(audit)))
    lines.append(titled_table("Which of two next tokens is better", _pair_rows(audit), _CAPTION))
    if (every := audit.agreement.get("all")) is not None:
        lines.append(titled_table("Calibration", _calibration_rows(every), "Empty bins are left out."))
    return "\n".join(lines)


def _agreement_rows(audit: CriticAudit) -> list[list[str]]:
    rows = [["prefixes", "number", "mean V", "Monte Carlo", "rank correlation", "95 % interval", "calibration error"]]
    return rows + [
        [
            stratum,
            str(each.num_prefixes),
            f"{each.mean_value:.3f}",
            f"{each.mean_monte_carlo:.3f}",
            *_estimate(each.rank_correlation),
            f"{each.calibration_error:.3f}",
        ]
        for stratum, each in audit.agreement.items()
    ]


def _pair_rows(audit: CriticAudit) -> list[list[str]]:
    rows = [
        ["prefixes", "pairs", "equal", "ties of V", "accuracy", "95 % interval", "clear", "accuracy", "95 % interval"]
    ]
    for stratum, each in audit.agreement.items():
        found = each.next_token
        counts = [str(number) for number in (found.num_pairs, found.num_equal, found.num_ties)]
        clear = [str(found.num_clear), *_estimate(found.clear_accuracy)]
        rows.append([stratum, *counts, *_estimate(found.accuracy), *clear])
    return rows


def _calibration_rows(agreement: ValueAgreement) -> list[list[str]]:
    rows = [["V", "prefixes", "mean V", "Monte Carlo"]]
    return rows + [
        [f"{each.low:.1f} to {each.high:.1f}", str(each.num_prefixes), f"{each.value:.3f}", f"{each.monte_carlo:.3f}"]
        for each in agreement.bins
    ]


def _estimate(found: Interval | None) -> list[str]:
    """A number and its interval; "-" for what does not exist."""
    if found is None:
        return ["-", "-"]
    bounds = "-" if found.low is None or found.high is None else f"[{found.low:.3f}, {found.high:.3f}]"
    return [f"{found.value:.3f}", bounds]
