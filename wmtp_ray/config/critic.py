"""Keys of the critic: what it reads, how it learns, how it scores ahead, when it counts as healthy. Holds no values."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.effects import PACE, PLAN, STAGE_1, STAGE_2, TRAINING, setting
from wmtp_ray.config.sampling import Stage1Sampling
from wmtp_ray.config.section import Count, Epochs, Fraction, Positive, Section


class GateLimits(Section):
    """What a healthy critic reaches on held-out problems; chance is 0.5, 0.5, 0 and, at the first difference, 0.5."""

    min_auc_end: Fraction = setting(TRAINING, "AUC of V at the end of the response.")
    min_pair_accuracy: Fraction = setting(TRAINING, "Correct above incorrect, within problems, by mean V.")
    min_std_within_response: Annotated[float, Field(ge=0.0)] = setting(TRAINING, "Spread of V along a response.")
    max_auc_early: Fraction = setting(TRAINING, "AUC of V at 25 % of the response; above it, something leaks.")
    min_first_difference: Fraction = setting(
        TRAINING, "Pairs of programs one edit apart where V drops more in the wrong one, at the first differing token."
    )


class CriticConfig(Section):
    """The value critic: what it reads, how it learns, how it scores ahead."""

    mode: Literal["async", "sync"] = setting(STAGE_2 | PACE, "sync: score each batch when it is needed; same weights.")
    source: Literal["policy", "frozen"] = setting(
        PLAN | TRAINING, "policy: published snapshots; frozen: a separate bundle."
    )
    path: Path | None = setting(
        PLAN | TRAINING, "Bundle of `source: frozen`; also where stage 1 starts from, if given."
    )
    head: Literal["linear", "mlp", "attention"] = setting(
        PLAN | TRAINING, "Value head, of the state alone; attention: an mlp that also reads the states before it."
    )
    value_layer: Annotated[float, Field(gt=0.0, le=1.0)] = setting(
        PLAN | TRAINING, "Depth read, as a fraction of the trunk."
    )
    features: Literal["none", "surprisal"] = setting(PLAN | TRAINING, "Extra inputs of the head, detached.")
    train_trunk: bool = setting(PLAN | STAGE_1, "Stage 1 also trains the trunk below the head.")
    ensemble: Count = setting(
        PLAN | TRAINING,
        "Members whose mean is V, each trained on one half of the problems; 1: all problems, one critic.",
    )
    objective: Literal["value", "pairwise"] = setting(PLAN | STAGE_1, "Stage 1's loss.")
    pairs: Literal["length", "edit"] = setting(
        PLAN | STAGE_1, "Which rows of a problem stage 1 pairs: of about equal length, or the fewest token edits apart."
    )
    value_target: Literal["mc", "lambda"] = setting(TRAINING, "Target of the value loss: R, or the lambda-return.")
    value_lambda: Fraction = setting(TRAINING, "Lambda of `value_target: lambda`.")
    value_error: Literal["squared", "huber", "bce", "categorical"] = setting(
        PLAN | TRAINING, "Error inside the value loss; bce: V is a sigmoid, categorical: the mean of bins over [0, 1]."
    )
    value_bins: Annotated[int, Field(ge=2)] = setting(PLAN | TRAINING, "Bins of `value_error: categorical`.")
    bin_target: Literal["two_hot", "gaussian"] = setting(
        TRAINING, "Target of `categorical`: the two bins around G, or a Gaussian over bins (HL-Gauss)."
    )
    huber_delta: Positive = setting(TRAINING, "Where `value_error: huber` turns linear.")
    value_clip: Positive = setting(TRAINING, "Clip of the value's move away from the scoring critic's value.")
    anchor_coef: Annotated[float, Field(ge=0.0)] = setting(STAGE_2, "Weight of mean((v - old)^2).")
    lookahead_steps: Count = setting(STAGE_2, "K: batches in flight; scores of step s use a version <= s - K.")
    publish_every: Count = setting(STAGE_2, "Steps between two published versions.")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(STAGE_2, "EMA over published versions; 0 = off.")
    pool_size: Count = setting(PLAN | STAGE_2 | PACE, "Critic actors.")
    gate: Literal["warn", "uniform", "stop"] = setting(STAGE_2, "What stage 2 does when the critic is unhealthy.")
    gate_limits: GateLimits
    health_rows: Count = setting(TRAINING, "Held-out rows that the critic's health is measured on.")
    drift_every: Annotated[int, Field(ge=0)] = setting(
        STAGE_2, "Steps of stage 2 between two readings of how far the value path has moved; 0: none."
    )
    drift_rows: Count = setting(STAGE_2, "Held-out rows of such a reading, the first of health_rows.")

    @model_validator(mode="after")
    def _pairs_have_a_loss_of_their_own(self) -> Self:
        if self.objective == "pairwise" and self.value_error in ("bce", "categorical"):
            raise ValueError(
                f"objective=pairwise with value_error={self.value_error}: stage 1 would compare mean values of pairs, "
                "which trains no probability; use objective=value, or value_error=squared"
            )
        return self


class CriticStageConfig(Section):
    """Stage 1: pretraining of the critic."""

    epochs: Epochs = setting(PLAN | STAGE_1, "Passes over the drawn rows; 0.1 is the first tenth of one.")
    max_steps: Count | None = setting(PLAN | STAGE_1, "Upper bound of optimizer steps.")
    batch_rows: Count = setting(PLAN | STAGE_1, "Rows of an optimizer step, all ranks together.")
    learning_rate: Positive = setting(STAGE_1, "Peak learning rate.")
    eval_every: Annotated[int, Field(ge=0)] = setting(
        PLAN | STAGE_1, "Steps between two readings of the loss on held-out rows, whose best version is kept; 0: none."
    )
    patience: Count | None = setting(
        STAGE_1, "Readings in a row that are no better than the best, after which the stage ends; None: it never does."
    )
    sampling: Stage1Sampling
