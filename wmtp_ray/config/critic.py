"""Keys of the critic: what it reads, how it learns, how it scores ahead, when it counts as healthy. Holds no values."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from wmtp_ray.config.sampling import Stage1Sampling
from wmtp_ray.config.section import Count, Epochs, Fraction, Positive, Section


class GateLimits(Section):
    """What a healthy critic reaches on held-out problems; chance is 0.5, 0.5 and 0."""

    min_auc_end: Fraction = Field(description="AUC of V at the end of the response.")
    min_pair_accuracy: Fraction = Field(description="Correct above incorrect, within problems, by mean V.")
    min_std_within_response: Annotated[float, Field(ge=0.0)] = Field(description="Spread of V along a response.")
    max_auc_early: Fraction = Field(description="AUC of V at 25 % of the response; above it, something leaks.")


class CriticConfig(Section):
    """The value critic: what it reads, how it learns, how it scores ahead."""

    mode: Literal["async", "sync"] = Field(description="sync: score each batch when it is needed; same weights.")
    source: Literal["policy", "frozen"] = Field(description="policy: published snapshots; frozen: a separate bundle.")
    path: Path | None = Field(description="Bundle of `source: frozen`; also where stage 1 starts from, if given.")
    head: Literal["linear", "mlp"] = Field(description="Value head.")
    value_layer: Annotated[float, Field(gt=0.0, le=1.0)] = Field(description="Depth read, as a fraction of the trunk.")
    features: Literal["none", "surprisal"] = Field(description="Extra inputs of the head, detached.")
    train_trunk: bool = Field(description="Stage 1 also trains the trunk below the head.")
    objective: Literal["value", "pairwise"] = Field(description="Stage 1's loss.")
    value_target: Literal["mc", "lambda"] = Field(description="Target of the value loss: R, or the lambda-return.")
    value_lambda: Fraction = Field(description="Lambda of `value_target: lambda`.")
    value_error: Literal["squared", "huber"] = Field(description="Error inside the value loss.")
    huber_delta: Positive = Field(description="Where `value_error: huber` turns linear.")
    value_clip: Positive = Field(description="Clip of the value's move away from the scoring critic's value.")
    anchor_coef: Annotated[float, Field(ge=0.0)] = Field(description="Weight of mean((v - old)^2).")
    lookahead_steps: Count = Field(description="K: batches in flight; scores of step s use a version <= s - K.")
    publish_every: Count = Field(description="Steps between two published versions.")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(description="EMA over published versions; 0 = off.")
    pool_size: Count = Field(description="Critic actors.")
    gate: Literal["warn", "uniform", "stop"] = Field(description="What stage 2 does when the critic is unhealthy.")
    gate_limits: GateLimits
    health_rows: Count = Field(description="Held-out rows that the critic's health is measured on.")
    drift_every: Annotated[int, Field(ge=0)] = Field(
        description="Steps of stage 2 between two readings of how far the value path has moved; 0: none."
    )
    drift_rows: Count = Field(description="Held-out rows of such a reading, the first of health_rows.")


class CriticStageConfig(Section):
    """Stage 1: pretraining of the critic."""

    epochs: Epochs = Field(description="Passes over the drawn rows; 0.1 is the first tenth of one.")
    max_steps: Count | None = Field(description="Upper bound of optimizer steps.")
    batch_rows: Count = Field(description="Rows of an optimizer step, all ranks together.")
    learning_rate: Positive = Field(description="Peak learning rate.")
    sampling: Stage1Sampling
