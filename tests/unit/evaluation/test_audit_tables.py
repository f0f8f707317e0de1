"""An audit's tables say what its record holds."""

from wmtp_ray.evaluation.audit_tables import audit_tables
from wmtp_ray.objective.true_values import AuditedPrefix, value_agreement
from wmtp_ray.tracking.critic_audit import AuditSettings, CriticAudit

PREFIXES = (
    AuditedPrefix("p", True, 0, 1, 3, 0.75, 4, 4),
    AuditedPrefix("p", True, 0, 2, 3, 0.25, 1, 4),
    AuditedPrefix("q", False, None, 3, 5, 0.125, 3, 4),
)


def lines_of(text: str, first_word: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(f"  {first_word}")]


def test_tables_show_agreement_pairs_and_calibration_and_warn_of_what_is_missing() -> None:
    strata = {"all": PREFIXES, "at the edit": PREFIXES[:2], "elsewhere": PREFIXES[2:]}
    agreement = {name: found for name, each in strata.items() if (found := value_agreement(each)) is not None}
    text = audit_tables(CriticAudit(AuditSettings(4, 9, 1), "a", "b", 5, 2, 1, 3, agreement, PREFIXES))
    assert text.startswith("3 prefixes of 2 of 5 held-out problems with tests, 1 of them with a minimal pair; 4 cont")
    assert "warning: 1 of the problems have no minimal pair" in text
    assert "warning: 3 continuations are left out, since the judge failed on them" in text
    # V .75 .25 .125 beside 1, .25 and .75: ranks 3 2 1 beside 3 1 2, off by .25, 0 and .625.
    of_all, pairs_of_all = lines_of(text, "all")
    assert of_all[:4] == ["all", "3", "0.375", "0.667"]
    assert (of_all[4], of_all[-1]) == ("0.500", "0.292")
    assert pairs_of_all[:5] == ["all", "1", "0", "0", "1.000"]
    elsewhere, no_pairs = lines_of(text, "elsewhere")
    assert elsewhere == ["elsewhere", "1", "0.125", "0.750", "-", "-", "0.625"]
    assert no_pairs == ["elsewhere", "0", "0", "0", "-", "-", "0", "-", "-"]
    assert ["0.7", "to", "0.8", "1", "0.750", "1.000"] in lines_of(text, "0.7")
