"""The one table of arms: what the rest of the system must know of each `weighting.type`. Imports neither torch nor ray.

Schema, driver, estimate, token evidence, report and documents read it; no other file asks which arm a run is. To add an
arm that reads scores that exist: its formula (`wmtp_ray/scoring/scorers.py::FORMULAS`), a row here, its test.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

ScoreSource = Literal["none", "critic", "reference"]
Rows = Literal["correct_only", "mixed"]
Shape = Literal["equal", "beta", "excess", "threshold", "probability", "difference", "mask"]
# rival: another way to weigh; ceiling: what the method would be with a perfect critic, which no run on other rows has;
# placement: a control with the method's weights in other places; other: an arm of another version's run.
Role = Literal["baseline", "method", "rival", "ceiling", "control", "placement", "other"]


@dataclass(frozen=True, kw_only=True)
class WeightingArm:
    """One `weighting.type`.

    `source` says whose scores it reads, beside the policy's own losses where `needs_policy_losses`: these cost one more
    pass without gradient a step. `needs_edits`: it asks what sets a row apart from the nearest of the other class of
    its problem, which is found as rows are read. `shape` says what sharpens its weights: nothing, `weighting.beta` with
    its clips, the keys of `rho1`, `weighting.drop_below`, or `weighting.diff_weight`; a probability is what it is, and
    a mask 0 or 1. `needs_two_references`: one of correct and one of incorrect rows. `has_horizon_reading`:
    `weighting.terminal=horizon` is defined for it. `pushes_down`: it may give a token a negative weight, which makes
    the token less likely. `weighs_pairs`: a token's weight differs from horizon to horizon. A report leaves out the
    `usual_rows`, and calls the arm by the `recipe` that is named after it.
    """

    name: str
    role: Role
    source: ScoreSource
    needs_policy_losses: bool = False
    needs_edits: bool = False
    needs_two_references: bool = False
    shape: Shape
    has_horizon_reading: bool = False
    pushes_down: bool = False
    weighs_pairs: bool = False
    usual_rows: Rows
    recipe: str | None = None
    weight: str

    @property
    def reads(self) -> str:
        """Describe the source of its scores."""
        source = "two references" if self.needs_two_references else f"the {self.source}"
        read = [] if self.source == "none" else [source]
        read += ["the policy's own losses"] if self.needs_policy_losses else []
        read += ["the nearest row of the other class"] if self.needs_edits else []
        return " and ".join(read) or "none"

    @property
    def drops_tokens(self) -> bool:
        """Whether it may give a token the weight 0, which leaves the token out of the loss and of its denominator."""
        return self.shape in ("excess", "threshold", "mask")


# In the order of reports: what others are compared with, the method, its rivals, its ceilings, then the controls.
_ROWS = (
    WeightingArm(
        name="uniform",
        role="baseline",
        source="none",
        shape="equal",
        usual_rows="correct_only",
        recipe="baseline",
        weight="1",
    ),
    WeightingArm(
        name="td",
        role="method",
        source="critic",
        shape="beta",
        usual_rows="mixed",
        recipe="verifiable",
        weight="from the critic's TD error of the token",
        has_horizon_reading=True,
    ),
    WeightingArm(
        name="rho1",
        role="rival",
        source="reference",
        needs_policy_losses=True,
        shape="excess",
        weighs_pairs=True,
        usual_rows="correct_only",
        recipe="rho1_weighted",
        weight="from the policy's loss in excess of the reference's",
    ),
    WeightingArm(
        name="drop",
        role="rival",
        source="critic",
        shape="threshold",
        usual_rows="mixed",
        weight="0 where the critic's TD error is below -`weighting.drop_below`, else 1",
    ),
    WeightingArm(
        name="signed",
        role="rival",
        source="critic",
        needs_policy_losses=True,
        shape="beta",
        pushes_down=True,
        weighs_pairs=True,
        usual_rows="mixed",
        weight="as `td`; an incorrect row's token of negative TD error is made less likely instead",
    ),
    WeightingArm(
        name="dft",
        role="rival",
        source="none",
        needs_policy_losses=True,
        shape="probability",
        weighs_pairs=True,
        usual_rows="correct_only",
        weight="the policy's own probability of the token, at each horizon its own",
    ),
    WeightingArm(
        name="contrast",
        role="rival",
        source="reference",
        needs_two_references=True,
        shape="beta",
        usual_rows="mixed",
        weight="from how much likelier a reference of correct rows finds the token than one of incorrect rows",
    ),
    WeightingArm(
        name="diff",
        role="rival",
        source="none",
        needs_edits=True,
        shape="difference",
        usual_rows="correct_only",
        weight="`weighting.diff_weight` where a correct row differs from the nearest incorrect one, else 1",
    ),
    WeightingArm(
        name="oracle",
        role="ceiling",
        source="none",
        needs_edits=True,
        shape="beta",
        usual_rows="mixed",
        weight="as `td`, from the TD errors of a critic that knows the first token that differs",
    ),
    WeightingArm(
        name="oracle_drop",
        role="ceiling",
        source="none",
        needs_edits=True,
        shape="mask",
        usual_rows="mixed",
        weight="0 where an incorrect row differs from the nearest correct one, else 1",
    ),
    WeightingArm(
        name="sequence_reward",
        role="control",
        source="critic",
        shape="beta",
        usual_rows="mixed",
        weight="from reward - V(prompt), at every token",
    ),
    WeightingArm(
        name="surprisal",
        role="control",
        source="none",
        needs_policy_losses=True,
        shape="beta",
        usual_rows="mixed",
        weight="from the policy's own loss of the token",
    ),
    WeightingArm(
        name="shuffled",
        role="placement",
        source="critic",
        shape="beta",
        usual_rows="mixed",
        weight="the weights of `td`, permuted within each response",
    ),
    WeightingArm(
        name="matched_random",
        role="placement",
        source="critic",
        shape="beta",
        usual_rows="mixed",
        weight="drawn with the mean and standard deviation of the weights of `td`",
    ),
)
ARMS: dict[str, WeightingArm] = {arm.name: arm for arm in _ROWS}

if TYPE_CHECKING:
    WeightingType = str
else:
    WeightingType = Literal[tuple(ARMS)]  # what pydantic accepts


def arms_of(role: Role) -> tuple[WeightingArm, ...]:
    """Return the arms of a role, in the order of reports."""
    return tuple(arm for arm in ARMS.values() if arm.role == role)


(BASELINE,), (METHOD,) = arms_of("baseline"), arms_of("method")


def arm_named(name: str) -> WeightingArm:
    """Return the arm of a saved run; for a name that this version lacks, an arm of unknown properties."""
    unknown = WeightingArm(
        name=name, role="other", source="none", shape="beta", usual_rows="mixed", weight="not known to this version"
    )
    return ARMS.get(name, unknown)


def place_in_reports(name: str) -> int:
    """Return an arm's position in reports; unknown arms come last."""
    return list(ARMS).index(name) if name in ARMS else len(ARMS)


def most_telling_first(names: Iterable[str]) -> list[str]:
    """Order arms by how many weightings their runs can display: with a critic, most arms' weights can be computed."""
    sources: tuple[ScoreSource, ...] = ("critic", "reference", "none")

    def rank(name: str) -> tuple[int, bool, int]:
        arm = arm_named(name)
        return sources.index(arm.source), arm.role in ("baseline", "other"), place_in_reports(name)

    return sorted(names, key=rank)


def arms_table() -> str:
    """Return the table as the documents show it, in Markdown."""
    lines = ["| `weighting.type` | recipe | usual rows | scores from | a token's weight |", "|---|---|---|---|---|"]
    for arm in ARMS.values():
        recipe = f"`{arm.recipe}`" if arm.recipe is not None else ""
        rows = arm.usual_rows.replace("_only", "").replace("mixed", "correct and incorrect")
        lines.append(f"| `{arm.name}` | {recipe} | {rows} | {arm.reads} | {arm.weight} |")
    return "\n".join(lines)
