"""The sections that say which rows a stage draws, and what "difficulty" means in them.

The data set's own difficulty is a code, no scale: 0 unknown, 1 to 5 easy to hardest, 6 external, 7 and above the
problem's letter within its contest (7 is A, a contest's easiest). So `data.difficulty_source` chooses what bins and
ranges count in; 0 means unknown in each of them (`wmtp_ray.plan.difficulty` makes the numbers). Draws nothing.
"""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.effects import PLAN, STAGE_1, STAGE_2, setting
from wmtp_ray.config.section import Count, Section

DifficultySource = Literal["raw", "cf_rating", "quantile"]
DifficultyRange = tuple[int, int]
DifficultyBins = dict[str, DifficultyRange]
Language = Literal["unknown", "python2", "cpp", "python3", "java"]  # in the order of the index's codes 0 to 4
ProblemClass = Literal["both", "only_correct", "only_incorrect"]  # by the labels of a problem's rows

UNKNOWN = "unknown"  # the bin of difficulty 0, which every source has without declaring it
GREATEST_RAW_CODE = 28  # the letter V; no Codeforces rating is as low
GREATEST_PERCENTILE = 100


class DifficultyScale(Section):
    """Bins and range in the numbers of one source; only those of `data.difficulty_source` are read."""

    bins: DifficultyBins = setting(PLAN | STAGE_2, "What train.sampling.difficulty_bins is unless it is given.")
    range: DifficultyRange = setting(
        PLAN | STAGE_1, "What critic_stage.sampling.difficulty_range is unless it is given."
    )


class DifficultyScales(Section):
    """One scale for each source, so that choosing the source is enough."""

    raw: DifficultyScale
    cf_rating: DifficultyScale
    quantile: DifficultyScale


class Stage1Sampling(Section):
    """Rows of the critic's pretraining, drawn within problems."""

    n_samples: Count = setting(PLAN | STAGE_1, "Rows to draw at most.")
    balance_correct: bool = setting(PLAN | STAGE_1, "Draw correct and incorrect rows of a problem in `correct_ratio`.")
    correct_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = setting(PLAN | STAGE_1, "Share of correct rows.")
    difficulty_range: DifficultyRange = setting(
        PLAN | STAGE_1, "Inclusive, in numbers of data.difficulty_source; from 0 on it takes unknown ones too."
    )
    max_rows_per_problem: Count = setting(
        PLAN | STAGE_1, "Cap per problem, so that a few problems do not dominate the critic."
    )
    seed: int = setting(PLAN | STAGE_1, "Seed of the draw.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.difficulty_range
        if low > high:
            raise ValueError(f"difficulty_range is [{low}, {high}]: the lower end must not exceed the upper")
        return self


class CurriculumPhase(Section):
    """One phase of the difficulty schedule."""

    epoch_range: tuple[float, float] = setting(PLAN | STAGE_2, "Start and end as fractions of the run, [0, 1].")
    difficulty_weights: dict[str, Annotated[float, Field(ge=0.0)]] = setting(
        PLAN | STAGE_2, "Share of each bin; `unknown` is the bin of rows without a difficulty."
    )


class Stage2Sampling(Section):
    """Rows of the policy's training: a curriculum over difficulty bins."""

    n_samples: Count = setting(PLAN | STAGE_2, "Rows to draw in an epoch at most.")
    max_rows_per_problem: Count | None = setting(
        PLAN | STAGE_2, "Cap per problem, drawn by seed: a few problems own a large share of the rows; None: no cap."
    )
    problem_classes: tuple[ProblemClass, ...] | None = setting(
        PLAN | STAGE_2, "Only rows of problems that have both labels, correct rows only, or incorrect only; None: all."
    )
    correct_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = setting(
        PLAN | STAGE_2, "Share of correct rows in every step, of data.policy_rows=mixed; None: as the rows have it."
    )
    curriculum_learning: bool = setting(PLAN | STAGE_2, "False: one phase, rows drawn uniformly from all of them.")
    difficulty_schedule: tuple[CurriculumPhase, ...] = setting(PLAN | STAGE_2, "Phases, in order, covering [0, 1].")
    difficulty_bins: DifficultyBins = setting(
        PLAN | STAGE_2, "Inclusive ranges in numbers of data.difficulty_source, by name."
    )
    seed: int = setting(PLAN | STAGE_2, "Seed of the draw and of the order.")

    @property
    def drawn_bins(self) -> DifficultyBins:
        """The bins that rows come from: those declared, and `unknown`, last, where a phase gives it a weight."""
        bins = {name: ends for name, ends in self.difficulty_bins.items() if name != UNKNOWN}
        if any(phase.difficulty_weights.get(UNKNOWN, 0.0) > 0.0 for phase in self.difficulty_schedule):
            bins[UNKNOWN] = (0, 0)
        return bins

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_bins(self.difficulty_bins)
        _check_schedule(self.difficulty_schedule, self.difficulty_bins)
        if self.problem_classes == ():
            raise ValueError("problem_classes=[] leaves no row; name the classes to keep, or give null for all")
        return self


def check_difficulties(source: DifficultySource, train: Stage2Sampling, critic: Stage1Sampling) -> None:
    """Raise ValueError when bins or range are numbers of another source than the one chosen."""
    for key, ranges, shown in (
        ("train.sampling.difficulty_bins", train.difficulty_bins.values(), _shown(train.difficulty_bins)),
        ("critic_stage.sampling.difficulty_range", [critic.difficulty_range], str(list(critic.difficulty_range))),
    ):
        misfit = _misfit(source, ranges)
        if misfit:
            raise ValueError(
                f"{key}={shown} with data.difficulty_source={source}: {misfit}. Leave {key} out to take "
                f"data.difficulty_scales.{source}, or choose the source that these numbers are of"
            )


def check_labels(policy_rows: str, train: Stage2Sampling) -> None:
    """Raise ValueError when a share of correct rows is asked for where all rows are correct."""
    if policy_rows == "correct_only" and train.correct_share is not None:
        raise ValueError(
            f"train.sampling.correct_share={train.correct_share} with data.policy_rows=correct_only: all rows are "
            "correct there; set data.policy_rows=mixed for a share, or train.sampling.correct_share=null"
        )


def _misfit(source: DifficultySource, ranges: Collection[DifficultyRange]) -> str:
    """Return why these ranges cannot be numbers of the source; "" when they can."""
    greatest = max((high for _, high in ranges), default=0)
    if source == "cf_rating" and 0 < greatest <= GREATEST_RAW_CODE:
        return f"a rating is about 800 to 3500, and nothing here is above {greatest}, as if it were a raw code"
    if source == "quantile" and greatest > GREATEST_PERCENTILE:
        return f"a percentile is 1 to {GREATEST_PERCENTILE}, and {greatest} is above that"
    return ""


def _check_bins(bins: DifficultyBins) -> None:
    """Bins must be ordered, disjoint and leave 0 to `unknown`, or a row would belong to two."""
    last_name, last_high = "", None
    for name, (low, high) in sorted(bins.items(), key=lambda item: item[1]):
        if low > high:
            raise ValueError(f"difficulty bin {name} is [{low}, {high}]: the lower end must not exceed the upper")
        if name == UNKNOWN and (low, high) != (0, 0):
            raise ValueError(
                f"difficulty bin {UNKNOWN} is [{low}, {high}], but that name is taken: it is the bin [0, 0] of rows "
                "without a difficulty, there without being declared; give this bin another name"
            )
        if name != UNKNOWN and low <= 0:
            raise ValueError(
                f"difficulty bin {name} is [{low}, {high}], but 0 is no difficulty: it means unknown; start {name} at "
                f"1 or above, and give `{UNKNOWN}` a weight in difficulty_schedule if you want those rows"
            )
        if last_high is not None and low <= last_high:
            raise ValueError(f"difficulty bins {last_name} and {name} overlap at {low}; make them disjoint")
        last_name, last_high = name, high


def _check_schedule(schedule: tuple[CurriculumPhase, ...], bins: DifficultyBins) -> None:
    """Phases must cover [0, 1] without gap or overlap and name bins that exist."""
    expected_start = 0.0
    for phase in schedule:
        start, end = phase.epoch_range
        if abs(start - expected_start) > 1e-9 or end <= start:
            raise ValueError(
                f"difficulty_schedule: a phase covers [{start}, {end}] where one from {expected_start} was expected; "
                "phases must follow one another from 0.0 to 1.0"
            )
        undeclared = sorted(set(phase.difficulty_weights) - {*bins, UNKNOWN})
        if undeclared:
            raise ValueError(
                f"difficulty_schedule names the bins {undeclared}, but difficulty_bins is {_shown(bins)}; name only "
                f"those and {UNKNOWN}, or give difficulty_bins whole"
            )
        if sum(phase.difficulty_weights.values()) <= 0.0:
            raise ValueError(f"difficulty_schedule: the phase [{start}, {end}] gives every bin the weight 0")
        expected_start = end
    if abs(expected_start - 1.0) > 1e-9:
        raise ValueError(f"difficulty_schedule ends at {expected_start}; the last phase must end at 1.0")


def _shown(bins: DifficultyBins) -> str:
    return "{" + ", ".join(f"{name}: [{low}, {high}]" for name, (low, high) in bins.items()) + "}"
