"""Keys of a run in rounds: the policy's own programs become rows, round by round. Holds no values (`configs/` does)."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from wmtp_ray.config.effects import PLAN, setting
from wmtp_ray.config.section import Count, Fraction, Section


def _number_or_word(keep: object) -> str:
    """Return "all", "last", or a number of rounds in digits."""
    text = str(keep)
    if text in ("all", "last") or (text.isdecimal() and int(text) > 0 and not isinstance(keep, bool)):
        return text
    raise ValueError(f"found {keep!r}, expected all, last, or a number of rounds of 1 or more; give one of these")


class RoundsConfig(Section):
    """A run in rounds: collect rows of the policy, mix them with the file's, train on both, and again (docs/rounds.md).

    `collects` and `reads_file` say what a run in rounds needs; an ordinary run has `count` None.
    """

    count: Count | None = setting(PLAN, "Rounds, also given as rounds=R; None: an ordinary run on data.train_file.")
    problems: Path = setting(PLAN, "Training problems with tests that the policy answers in every round.")
    limit: Count | None = setting(PLAN, "Only the first so many problems; None: all.")
    num_samples: Count = setting(PLAN, "Answers to each problem in a round.")
    temperature: Annotated[float, Field(ge=0.0)] = setting(PLAN, "Of these answers.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = setting(PLAN, "Share of probability they are sampled from.")
    until_both: Count | None = setting(
        PLAN, "Draw on until a problem has so many different programs of each class, or max_samples; None: do not."
    )
    max_samples: Count | None = setting(PLAN, "Most answers of a problem in a round, with until_both.")
    max_correct: Annotated[int, Field(ge=0)] | None = setting(
        PLAN, "Most correct rows of a problem in a round; None: all."
    )
    max_incorrect: Annotated[int, Field(ge=0)] | None = setting(
        PLAN, "Most incorrect rows of a problem in a round; None: all."
    )
    keep: Annotated[str, BeforeValidator(_number_or_word)] = setting(
        PLAN,
        "Whose rows a round trains on: all, of every round so far; last, of this one; K, of the last K.",
        expected="all, last, or a number of rounds of 1 or more",
    )
    share_collected: Fraction | None = setting(
        PLAN,
        "Share of a round's training rows that are collected; 0: nothing is collected; None: all rows of both.",
    )

    @property
    def collects(self) -> bool:
        """Whether the policy answers problems at all."""
        return self.count is not None and self.share_collected != 0.0

    @property
    def reads_file(self) -> bool:
        """Whether rows of data.train_file are trained on."""
        return self.count is None or self.share_collected != 1.0

    def kept(self, number: int) -> range:
        """Return the rounds whose rows round `number` trains on: keep=2 in round 5 -> 4 and 5."""
        most = {"all": number + 1, "last": 1}.get(self.keep) or int(self.keep)
        return range(max(0, number + 1 - most), number + 1)

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.count is not None and self.temperature == 0.0 and (self.max_samples or self.num_samples) > 1:
            raise ValueError(
                f"num_samples={self.num_samples} with temperature=0: all answers to a problem would be the same; give "
                "a temperature above 0, or num_samples=1"
            )
        return self

    @model_validator(mode="after")
    def _drawing_on_has_an_end(self) -> Self:
        if (self.until_both is None) != (self.max_samples is None):
            raise ValueError(
                f"until_both={self.until_both} with max_samples={self.max_samples}: one says what a problem should "
                "have, the other how many answers may be drawn for it; give both or neither"
            )
        if self.max_samples is not None and self.max_samples < self.num_samples:
            raise ValueError(
                f"max_samples={self.max_samples} is below num_samples={self.num_samples}, which are drawn first; raise "
                "max_samples"
            )
        for name in ("max_correct", "max_incorrect"):
            most = getattr(self, name)
            if self.until_both is not None and most is not None and most < self.until_both:
                raise ValueError(
                    f"{name}={most} is below until_both={self.until_both}: rows would be drawn and thrown away; raise "
                    f"{name}"
                )
        return self

    def check_of_run(self, run_name: str, engine: str) -> None:
        """Raise ValueError for a run in rounds that a server would answer for, or whose folders have no place."""
        if self.count is not None and engine != "native":
            raise ValueError(
                f"rounds.count={self.count} with evaluation.engine={engine}: no server can hold a policy that a round "
                "has yet to train; set evaluation.engine=native and engine.url=null"
            )
        if self.count is not None and "/" in run_name:
            raise ValueError(
                f"rounds.count={self.count} with run_name={run_name}: the rounds are folders below the run's own; give "
                "a name without a slash (a trial of a sweep cannot run in rounds)"
            )
