"""What a sweep tries and how it judges: `configs/sweep.NAME.yaml` over `configs/sweep_defaults.yaml`.

Holds no values, as the run's own schema. Which points follow from a space: `wmtp_ray.config.sweep_points`. Whether the
swept keys exist is found out by loading the configuration of every point.
"""

import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from wmtp_ray.config.explain import dotted
from wmtp_ray.config.layers import Key, config_dirs, default_layers, merge, named_layer, override_layer
from wmtp_ray.config.schema_nodes import TYPES, Node, Schema, run_schema
from wmtp_ray.config.section import Count, Section
from wmtp_ray.errors import ConfigError

SEED_KEYS = ("seed", "train.sampling.seed", "critic_stage.sampling.seed")
_NOT_SWEPT = {
    "run_name": "every trial has a folder of its own",
    "storage_root": "all trials share one storage",
    "tags": "the sweep tags its trials itself",
    **dict.fromkeys(SEED_KEYS, "give sweep.seeds=[...], which sets all seeds of a trial"),
}
_WEIGHTED_LOSSES = ("loss/policy", "loss/total")
_FAMILIES = ("held_out", "eval", "stage2", "loss", "weight", "critic", "score", "perf", "train")
HELD_OUT_METRICS = ("held_out/loss_correct", "held_out/loss_incorrect", "held_out/margin")
Mode = Literal["min", "max"]


class Uniform(Section):
    """A number drawn evenly between two."""

    uniform: tuple[float, float] = Field(description="Lower and upper end.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.uniform[0] >= self.uniform[1]:
            raise ValueError(f"uniform: {list(self.uniform)}: the lower end must be below the upper")
        return self


class LogUniform(Section):
    """A number whose logarithm is drawn evenly."""

    loguniform: tuple[float, float] = Field(description="Lower and upper end, both above 0.")

    @model_validator(mode="after")
    def _ordered_above_zero(self) -> Self:
        low, high = self.loguniform
        if low <= 0.0 or low >= high:
            raise ValueError(f"loguniform: {[low, high]}: the ends must be above 0 and in order")
        return self


def _without_choice(value: Any) -> Any:
    """{choice: [a, b]} is another way to write [a, b]."""
    return value["choice"] if isinstance(value, dict) and list(value) == ["choice"] else value


def _kind(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return "choice"
    if isinstance(value, Uniform | LogUniform):
        return next(iter(type(value).model_fields))
    return next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None


Values = tuple[Any, ...]
_OneKind = (
    Annotated[Values, Tag("choice")] | Annotated[Uniform, Tag("uniform")] | Annotated[LogUniform, Tag("loguniform")]
)
Dimension = Annotated[_OneKind, Discriminator(_kind), BeforeValidator(_without_choice)]


class Objective(Section):
    """The number by which points are ranked; it must mean the same at every point."""

    metric: str = Field(description="held_out/..., eval/<data set>/pass@<k>, stage2/critic/..., or of metrics.jsonl.")
    mode: Mode = Field(description="Whether lower or higher is better.")

    @model_validator(mode="after")
    def _is_comparable(self) -> Self:
        _require_comparable(self.metric)
        if self.metric.startswith("held_out/") and self.metric not in HELD_OUT_METRICS:
            raise ValueError(f"metric={self.metric} is not measured; expected one of {', '.join(HELD_OUT_METRICS)}")
        return self


class EarlyStopping(Section):
    """ASHA: at grace_steps, and reduction_factor times as many again, only the best of each reduction_factor go on."""

    metric: str = Field(description="Of metrics.jsonl, stage 2; comparable between points at the same step.")
    mode: Mode = Field(description="Whether lower or higher is better.")
    window_steps: Count = Field(description="The mean over so many last steps is compared.")
    grace_steps: Count = Field(description="No trial is stopped before.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(description="One in so many goes on.")

    @model_validator(mode="after")
    def _is_comparable(self) -> Self:
        _require_comparable(self.metric)
        return self


class StopRule(Section):
    """Stops a trial when a metric of stage 2 is beyond a limit for so many steps without a break."""

    metric: str = Field(description="Of metrics.jsonl, for example critic/explained_variance.")
    below: float | None = Field(description="Limit; None: no lower one.")
    above: float | None = Field(description="Limit; None: no upper one.")
    for_steps: Count = Field(description="Steps in a row.")

    def is_broken_by(self, value: float) -> bool:
        """Whether a step's value is beyond the limit; NaN counts as beyond it."""
        if math.isnan(value):
            return True
        return (self.below is not None and value < self.below) or (self.above is not None and value > self.above)

    def render(self) -> str:
        """Describe what the rule forbids."""
        limits = {"below": self.below, "above": self.above}
        beyond = " or ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)
        return f"{self.metric} {beyond} for {self.for_steps} steps"

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.below is None and self.above is None:
            raise ValueError(f"the rule for {self.metric} has neither below nor above; give one of them a number")
        return self


class SweepSpec(Section):
    """A whole sweep, resolved; the configuration it varies comes from the command line."""

    search: Literal["grid", "random", "optuna"] = Field(description="Every combination, draws, or TPE.")
    space: Annotated[dict[str, Dimension], Field(min_length=1)] = Field(description="Values by configuration key.")
    num_points: Count | None = Field(description="Points that random and optuna try; None: all of a grid.")
    search_seed: int = Field(description="Seed of random and optuna.")
    startup_points: Count = Field(description="Random points before TPE begins to learn.")
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = Field(description="Every point runs with each of them.")
    objective: Objective
    early_stopping: EarlyStopping | None = Field(description="None: every trial trains to its end.")
    stop_when: dict[str, StopRule | None] = Field(description="Rules by name; None: switched off.")
    max_concurrent: Count | None = Field(
        description="Trials at once; None: as many as the cluster's CPUs and GPUs hold."
    )

    @property
    def rules(self) -> dict[str, StopRule]:
        """The rules that are not switched off."""
        return {name: rule for name, rule in self.stop_when.items() if rule is not None}

    @model_validator(mode="after")
    def _keys_may_be_swept(self) -> Self:
        wrong = [f"{key} cannot be swept: {_NOT_SWEPT[key]}" for key in self.space if key in _NOT_SWEPT]
        wrong += [
            f"{key} has no values; list some, or leave it out" for key, values in self.space.items() if values == ()
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} names a seed twice; the same seed is the same run")
        return self

    @model_validator(mode="after")
    def _search_fits_the_space(self) -> Self:
        ranges = [key for key, dimension in self.space.items() if not isinstance(dimension, tuple)]
        if self.search == "grid" and ranges:
            raise ValueError(f"search=grid with a range for {', '.join(ranges)}: list its values, or set search=random")
        if self.search == "grid" and self.num_points is not None:
            raise ValueError(f"search=grid tries every point; set num_points=null (found {self.num_points})")
        if self.search != "grid" and self.num_points is None:
            raise ValueError(f"search={self.search} needs num_points: how many points to try")
        size = math.prod(len(d) if isinstance(d, tuple) else math.inf for d in self.space.values())
        if self.num_points is not None and self.num_points > size:
            raise ValueError(f"num_points={self.num_points}, but the space has {size:.0f} points: lower it")
        return self


class _SweepSchema(Schema):
    """The schema of a sweep, in which the values of a swept key have the type of that key."""

    def child(self, node: Node, part: str | int) -> Node | None:
        if node is not self.root["properties"]["space"] or isinstance(part, int):
            return super().child(node, part)
        run = run_schema()
        values = {"type": "array", "items": {TYPES: sorted(run.types(run.node_at(tuple(part.split(".")))))}}
        return {"anyOf": [values, {"type": "object", "properties": {"choice": values}, "additionalProperties": {}}]}


def load_sweep(name: str, words: Sequence[str], *, own_dir: Path | None = None) -> SweepSpec:
    """Resolve a sweep: defaults <- `sweep.NAME.yaml` (or a path) <- `key=value` words without their `sweep.`.

    Files of `own_dir` come before the packaged ones.
    Raises one ConfigError that lists every problem.
    """
    schema = _SweepSchema(SweepSpec)
    dirs = config_dirs(own_dir)
    layers = [*default_layers("sweep_defaults.yaml", dirs, schema), named_layer("sweep", name, dirs, schema)]
    values, unresolved = merge([*layers, *(override_layer(word, schema) for word in words)])
    try:
        spec = SweepSpec.model_validate(values)
    except ValidationError as error:
        problems = {tuple(item["loc"]): _in_words(tuple(item["loc"]), item) for item in error.errors(include_url=False)}
        unresolved |= problems
    if unresolved:
        lines = "".join(f"\n  {dotted(('sweep', *key))}: {text}" for key, text in unresolved.items())
        raise ConfigError(f"sweep={name} cannot be run:{lines}")
    return spec


def _require_comparable(metric: str) -> None:
    if metric in _WEIGHTED_LOSSES:
        raise ValueError(
            f"metric={metric} is weighted by what is swept, so its numbers do not compare; use loss/policy_unweighted "
            f"(training), {HELD_OUT_METRICS[0]} (held-out problems) or eval/<data set>/pass@1 (stage 3)"
        )
    family = metric.partition("/")[0]
    if family not in _FAMILIES:
        nearest = difflib.get_close_matches(family, _FAMILIES, n=1)
        hint = f"; did you mean {nearest[0]}/...?" if nearest else ""
        raise ValueError(f"metric={metric} is of no family that a run has: {', '.join(_FAMILIES)}{hint}")


def _in_words(key: Key, item: Any) -> str:
    if item["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(key[-1]), _field_names(), n=1)
        return f"there is no such key; {f'did you mean {nearest[0]}?' if nearest else 'docs/sweep.md lists them'}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "missing":
        return "no value was given"
    if item["type"].startswith("union_tag"):
        expected = "[values], {choice: [values]}, {uniform: [low, high]} or {loguniform: [low, high]}"
        return f"found {json.dumps(item['input'], default=str)}, expected {expected}"
    return f"found {json.dumps(item['input'], default=str)}, {item['msg'].replace('Input should be', 'expected')}"


def _field_names() -> list[str]:
    sections = (SweepSpec, Objective, EarlyStopping, StopRule, Uniform, LogUniform)
    return [name for section in sections for name in section.model_fields]
