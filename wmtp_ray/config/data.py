"""The section `data`: where rows come from, which of them the policy may see, and what its prompts tell."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.effects import EVALUATION, PACE, PLAN, STAGE_2, TRAINING, setting
from wmtp_ray.config.sampling import DifficultyScales, DifficultySource, Language
from wmtp_ray.config.section import Count, Fraction, Section

SUFFIX = r"^[A-Za-z0-9][A-Za-z0-9-]*$"

Condition = Literal["none", "label"]
Template = Literal["plain", "chat"]


class DataConfig(Section):
    """Where rows come from and which of them the policy may see."""

    train_file: Path = setting(PLAN | TRAINING, "JSONL in the row schema.")
    index_file: Path | None = setting(
        PLAN | TRAINING | PACE, "Index of train_file, or a directory for it; None: beside it."
    )
    valid_file: Path | None = setting(
        PLAN | TRAINING, "Held-out JSONL for the critic's health; None: split off by problem."
    )
    valid_problems_frac: Fraction = setting(PLAN | TRAINING, "Share of problems held out when valid_file is None.")
    suffix: Annotated[str, Field(pattern=SUFFIX)] | None = setting(
        PLAN | TRAINING,
        "small: train_small.jsonl is read for train.jsonl, validation_small.jsonl for valid.jsonl.",
        expected="letters, digits and dashes, such as small, or null",
    )
    policy_rows: Literal["correct_only", "mixed"] = setting(PLAN | STAGE_2, "Rows that stage 2 draws from.")
    template: Template = setting(
        PLAN | TRAINING | EVALUATION,
        "chat: rows are chats in the model's own template, and a policy trained on them is asked in it.",
    )
    condition: Condition = setting(
        PLAN | STAGE_2 | EVALUATION,
        "label: a line of stage 2's prompts says whether the program is correct, and prompts of the evaluation ask for "
        "correct.",
    )
    languages: tuple[Language, ...] | None = setting(PLAN | TRAINING, "Only rows in these languages; None: all rows.")
    difficulty_source: DifficultySource = setting(
        PLAN | TRAINING, "What difficulty counts in: the data's own code, the Codeforces rating, or a percentile."
    )
    difficulty_scales: DifficultyScales
    max_tokens: Annotated[int, Field(ge=8)] = setting(
        PLAN | TRAINING, "Longer rows are dropped and counted, never cut."
    )
    on_error: Literal["fail", "skip"] = setting(PLAN | TRAINING, "What the index does with a malformed line.")
    read_ahead_rows: Count = setting(TRAINING | PACE, "Rows in one block of the stream; bounds the memory of a rank.")

    @model_validator(mode="after")
    def _chats_tell_no_labels(self) -> Self:
        if self.template == "chat" and self.condition == "label":
            raise ValueError(
                "template=chat with condition=label: how many tokens a label's line adds to a chat depends on the text "
                "around it, and plans count with one number; give template=plain, or condition=none"
            )
        return self

    @model_validator(mode="after")
    def _languages_leave_rows(self) -> Self:
        if self.languages == ():
            raise ValueError("languages=[] leaves no row; name the languages to keep, or give null for all")
        return self
