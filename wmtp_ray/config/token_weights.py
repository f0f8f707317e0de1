"""How a token's weight is made: the settings of `weighting`, and which of them contradict each other."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.arms import ARMS, WeightingArm, WeightingType
from wmtp_ray.config.effects import PLAN, STAGE_2, TRAINING, setting
from wmtp_ray.config.section import Fraction, Positive, Section


class WeightingConfig(Section):
    """How a token's weight is made: clip(exp(advantage / beta), clip_min, clip_max)."""

    type: WeightingType = setting(PLAN | STAGE_2, "The arm: the method, its baseline or one of its controls.")
    beta: Positive = setting(STAGE_2, "Temperature of the exponential; smaller is sharper.")
    clip_min: Annotated[float, Field(ge=0.0)] = setting(
        STAGE_2, "Lower clip of a weight; 0 only for an arm that drops tokens, since a weight of 0 drops its token."
    )
    clip_max: Positive = setting(STAGE_2, "Upper clip of a weight.")
    drop_below: Annotated[float, Field(ge=0.0)] = setting(
        STAGE_2, "Type drop: a token whose TD error is below minus this is not trained; in units of V."
    )
    push_below: Annotated[float, Field(ge=0.0)] = setting(
        STAGE_2,
        "Type signed: an incorrect row's token whose TD error is below minus this is pushed down; in units of V.",
    )
    diff_weight: Positive = setting(
        STAGE_2, "Type diff: the weight of a correct row's tokens that differ from the nearest incorrect row's."
    )
    compared_file: Path | None = setting(
        PLAN | STAGE_2,
        "Types that compare rows: JSONL whose rows of a problem they are compared with; None: those of train_file.",
    )
    terminal: Literal["sequence", "horizon"] = setting(STAGE_2, "Where the reward enters: end of text or of window.")
    gamma: Annotated[float, Field(gt=0.0, le=1.0)] = setting(TRAINING, "Discount per token.")
    td_lambda: Fraction = setting(STAGE_2, "0 = TD(0); 1 = Monte Carlo advantage (GAE's lambda).")
    advantage_norm: Literal["none", "batch", "ema"] = setting(STAGE_2, "Whitening over the global batch.")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(STAGE_2, "Decay of `advantage_norm: ema`.")
    weigh_terminal: bool = setting(STAGE_2, "False: the terminal token's weight is 1.")
    max_disagreement: Annotated[float, Field(ge=0.0)] | None = setting(
        STAGE_2,
        "A token whose TD error rests on a V that critic.ensemble disagrees about by more than this weighs 1; in units "
        "of V; None: no token does.",
    )

    @property
    def arm(self) -> WeightingArm:
        """The arm's row in the table of arms."""
        return ARMS[self.type]

    @property
    def needs_values(self) -> bool:
        """Whether the weights are made from a critic's values."""
        return self.arm.source == "critic"

    @property
    def differs_by_horizon(self) -> bool:
        """Whether a token may weigh differently at each horizon that it is predicted from."""
        return self.arm.weighs_pairs or self.terminal == "horizon"

    @model_validator(mode="after")
    def _horizon_reading_is_defined(self) -> Self:
        if self.terminal == "horizon" and (not self.arm.has_horizon_reading or self.td_lambda > 0.0):
            defined = " or ".join(arm.name for arm in ARMS.values() if arm.has_horizon_reading)
            raise ValueError(
                f"terminal=horizon with type={self.type}, td_lambda={self.td_lambda}: it is defined for type={defined} "
                "and td_lambda=0; use terminal=sequence here"
            )
        return self

    @model_validator(mode="after")
    def _terminal_is_one_token(self) -> Self:
        if self.terminal == "horizon" and not self.weigh_terminal:
            raise ValueError(
                "weigh_terminal=false with terminal=horizon: there every window ends in the reward, so it has no one "
                "terminal token; use terminal=sequence here"
            )
        return self

    @model_validator(mode="after")
    def _threshold_is_in_units_of_v(self) -> Self:
        if self.arm.shape == "threshold" and self.advantage_norm != "none":
            raise ValueError(
                f"advantage_norm={self.advantage_norm} with type={self.type}: drop_below={self.drop_below} is in units "
                "of V, which whitening takes away; use advantage_norm=none here"
            )
        return self

    @model_validator(mode="after")
    def _push_follows_the_sign_of_the_error(self) -> Self:
        if self.arm.pushes_down and self.advantage_norm != "none":
            raise ValueError(
                f"advantage_norm={self.advantage_norm} with type={self.type}: a token is pushed down where its TD "
                f"error is below -push_below={-self.push_below}, in units of V, which whitening takes away; use "
                "advantage_norm=none here"
            )
        return self

    @model_validator(mode="after")
    def _disagreement_is_a_critics(self) -> Self:
        if self.max_disagreement is not None and not self.needs_values:
            reading = " or ".join(arm.name for arm in ARMS.values() if arm.source == "critic")
            raise ValueError(
                f"max_disagreement={self.max_disagreement} with type={self.type}: this arm reads no critic, so no "
                f"weight rests on a disagreement; use max_disagreement=null here, or type={reading}"
            )
        return self

    @model_validator(mode="after")
    def _only_dropping_arms_have_no_lower_clip(self) -> Self:
        if self.clip_min == 0.0 and not self.arm.drops_tokens:
            dropping = " or ".join(arm.name for arm in ARMS.values() if arm.drops_tokens)
            raise ValueError(
                f"clip_min=0 with type={self.type}: a weight of 0 drops its token, which this arm does not mean to do; "
                f"give a clip_min above 0 (the default is 0.1), or an arm that drops tokens: type={dropping}"
            )
        return self

    @model_validator(mode="after")
    def _clip_ordered(self) -> Self:
        if self.clip_min >= self.clip_max:
            raise ValueError(
                f"clip_min={self.clip_min} is not below clip_max={self.clip_max}; "
                "give a lower clip_min or a higher clip_max (the defaults are 0.1 and 5.0)"
            )
        return self
