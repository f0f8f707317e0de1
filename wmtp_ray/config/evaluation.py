"""Keys of the evaluation: which problems, how answers are decoded and judged. Holds no values (`configs/` does)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.effects import EVALUATION, PLAN, setting
from wmtp_ray.config.section import Count, Positive, Section

ProblemKind = Literal["humaneval", "mbpp", "codecontests", "instruction"]
FormatName = Literal["auto", "completion", "completion-stripped", "instruct", "chat", "mbpp-0shot", "mbpp-3shot"]
Isolation = Literal["namespace", "landlock", "landlock-weak", "seatbelt", "rlimits"]


class EvaluationConfig(Section):
    """Stage 3, `wmtp evaluate` and evaluations while stage 2 trains: Pass@K of a policy on problems with tests."""

    engine: Literal["native", "openai"] = setting(
        PLAN | EVALUATION, "Who decodes: native, the policy in our own decoders; openai, the server of engine.url."
    )
    files: dict[str, Path] = setting(PLAN | EVALUATION, "Problems by the name of their data set.")
    datasets: Annotated[tuple[str, ...], Field(min_length=1)] | None = setting(
        PLAN | EVALUATION, "Names in evaluation.files to evaluate in stage 3; None: those whose file exists."
    )
    formats: dict[ProblemKind, FormatName] = setting(
        PLAN | EVALUATION, "Prompt format of each kind of problem; auto: by tokenizer and model."
    )
    limit: Count | None = setting(PLAN | EVALUATION, "Only the first so many problems of a data set; None: all.")
    num_samples: Count = setting(PLAN | EVALUATION, "Answers to each problem.")
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = setting(
        PLAN | EVALUATION, "The K of Pass@K; none above num_samples."
    )
    temperature: Annotated[float, Field(ge=0.0)] = setting(PLAN | EVALUATION, "0: the likeliest token (greedy).")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = setting(
        PLAN | EVALUATION, "Share of probability that is sampled from."
    )
    max_new_tokens: Count = setting(PLAN | EVALUATION, "Longer answers are cut.")
    draft_horizons: Annotated[int, Field(ge=0)] = setting(
        PLAN | EVALUATION, "Tokens that the prediction heads draft for one forward to check; 0: none."
    )
    drafting: Literal["fixed", "measured"] = setting(
        PLAN | EVALUATION,
        "fixed: always draft_horizons drafts; measured: fewer where that takes less time, with the same answers.",
    )
    batch_size: Count = setting(PLAN | EVALUATION, "Answers that one decoder works on at a time.")
    num_decoders: Count = setting(PLAN | EVALUATION, "Actors that each hold the policy.")
    num_judges: Count = setting(PLAN | EVALUATION, "Actors that judge programs, each one at a time.")
    isolation: Literal["auto"] | Isolation = setting(
        PLAN | EVALUATION, "Isolation of programs; auto: the best level that works here."
    )
    isolation_required: Isolation | None = setting(
        PLAN | EVALUATION, "Lowest accepted level; None: that of isolation, or with auto landlock (macOS: seatbelt)."
    )
    timeout_s: Positive = setting(
        PLAN | EVALUATION, "CPU seconds of a program on its tests, where a problem has no limit."
    )
    memory_limit_mb: Positive = setting(PLAN | EVALUATION, "Memory of a program, MiB, where a problem has no limit.")
    every_steps: Annotated[int, Field(ge=0)] | None = setting(
        PLAN | EVALUATION, "Steps of stage 2 between two evaluations of its policy while it trains; 0 or None: none."
    )
    during_dataset: str | None = setting(
        PLAN | EVALUATION, "Name in evaluation.files of the problems of every_steps; None: the first of stage 3."
    )
    during_limit: Count = setting(PLAN | EVALUATION, "Only the first so many problems of during_dataset.")

    @property
    def step_interval(self) -> int:
        """Steps between two evaluations while the policy trains, 0 for none."""
        return self.every_steps or 0

    @model_validator(mode="after")
    def _k_fits_the_samples(self) -> Self:
        if max(self.k) > self.num_samples:
            raise ValueError(
                f"k={list(self.k)} with num_samples={self.num_samples}: Pass@{max(self.k)} cannot be estimated from "
                "fewer samples; raise num_samples or lower k"
            )
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.temperature == 0.0 and self.num_samples > 1:
            raise ValueError(
                f"num_samples={self.num_samples} with temperature=0: all samples of a problem would be the same; "
                "give a temperature above 0, or num_samples=1"
            )
        return self

    @model_validator(mode="after")
    def _datasets_have_files(self) -> Self:
        unknown = [name for name in self.datasets or () if name not in self.files]
        if unknown:
            raise ValueError(
                f"datasets names {', '.join(unknown)}, files has {', '.join(self.files)}: give one of these, or add "
                f"evaluation.files.{unknown[0]}=FILE"
            )
        return self

    @model_validator(mode="after")
    def _during_dataset_has_a_file(self) -> Self:
        if self.during_dataset is not None and self.during_dataset not in self.files:
            raise ValueError(
                f"during_dataset={self.during_dataset}, files has {', '.join(self.files)}: give one of these, or add "
                f"evaluation.files.{self.during_dataset}=FILE"
            )
        return self

    @model_validator(mode="after")
    def _names_are_folders(self) -> Self:
        wrong = [name for name in self.files if not name.replace("_", "").replace("-", "").isalnum()]
        if wrong:
            raise ValueError(f"files has the name {wrong[0]!r}; give letters, digits, dashes and underscores")
        return self


def check_best_by_pass(settings: EvaluationConfig, checkpoint_every: int, keep_best: int) -> None:
    """Raise ValueError for `train.keep_best_by=pass@1` where no checkpoint would have a Pass@1, or none be kept."""
    interval = settings.step_interval
    if interval == 0:
        raise ValueError(
            "train.keep_best_by=pass@1 with evaluation.every_steps=0: no policy is evaluated while it trains; set "
            f"evaluation.every_steps to a multiple of train.checkpoint_every={checkpoint_every}, or "
            "train.keep_best_by=loss"
        )
    if interval % checkpoint_every:
        raise ValueError(
            f"train.keep_best_by=pass@1 with evaluation.every_steps={interval} and train.checkpoint_every="
            f"{checkpoint_every}: policies would be evaluated of which no checkpoint is written; make every_steps a "
            "multiple of checkpoint_every"
        )
    if keep_best == 0:
        raise ValueError(
            "train.keep_best_by=pass@1 with train.keep_best_checkpoints=0: no best checkpoint would be kept; set "
            "train.keep_best_checkpoints=1 or more"
        )
