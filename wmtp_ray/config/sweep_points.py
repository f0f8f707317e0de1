"""From a space to points, and from a point and a seed to the command line of one trial. Loads nothing.

A point is one value for each swept key. Points of a grid and of a random search are known beforehand, and the first n
stay the same when more are asked for; those of optuna are proposed one by one (`wmtp_ray.flows.sweep.sweep_search`).
"""

import itertools
import json
import math
import random
from dataclasses import dataclass, replace
from typing import Any

from wmtp_ray.config.arguments import Arguments
from wmtp_ray.config.sweep import SEED_KEYS, Dimension, LogUniform, SweepSpec, Uniform

_MAX_CORNERS = 256


@dataclass(frozen=True)
class Point:
    """One value for each swept key; `number` counts from 0 in the order of the search."""

    number: int
    values: dict[str, Any]

    def render(self) -> str:
        """Write it as on a command line, numbers to four digits."""
        return " ".join(f"{key}={_shown(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class Trial:
    """One point with one seed: one run."""

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """Its folder in the sweep's."""
        return f"point_{self.point.number:03d}-seed_{self.seed}"


def listed_points(spec: SweepSpec) -> list[Point]:
    """Return all points of a grid or a random search, in order; none for optuna, which does not know them yet.

    A grid's last key varies first: beta [1, 2] x clip [3, 4] -> (1, 3), (1, 4), (2, 3), (2, 4).
    """
    if spec.search == "optuna":
        return []
    keys = list(spec.space)
    if all(isinstance(dimension, tuple) for dimension in spec.space.values()):
        combinations = list(itertools.product(*spec.space.values()))
        if spec.search == "random":
            random.Random(spec.search_seed).shuffle(combinations)  # without repetition
        chosen = combinations[: spec.num_points]
    else:
        draw = random.Random(spec.search_seed)
        assert spec.num_points is not None, "the schema asks for it"
        chosen = [tuple(_drawn(each, draw) for each in spec.space.values()) for _ in range(spec.num_points)]
    return [Point(number, dict(zip(keys, values, strict=True))) for number, values in enumerate(chosen)]


def corner_points(spec: SweepSpec) -> list[Point]:
    """Return the points at the ends of every range and at every listed value: what must load before optuna starts.

    All combinations where they are few, else one key at a time.
    """
    ends = {key: _ends(dimension) for key, dimension in spec.space.items()}
    if math.prod(map(len, ends.values())) <= _MAX_CORNERS:
        combinations = [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]
    else:
        first = {key: values[0] for key, values in ends.items()}
        combinations = [first | {key: value} for key, values in ends.items() for value in values]
    return [Point(number, values) for number, values in enumerate(combinations)]


def trial_arguments(base: Arguments, sweep_name: str, name: str, values: dict[str, Any], seed: int | None) -> Arguments:
    """Return the command of one run of a sweep: the base's words, the point's, the seed's (None: the base's seeds)."""
    named = {key: value for key, value in values.items() if key in ("recipe", "preset")}
    words = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in values.items()
        if key not in named
    ]
    words += [f"{key}={seed}" for key in SEED_KEYS if seed is not None]
    words += ["tracking.progress=false"]
    return replace(
        base,
        **named,
        run_name=f"{sweep_name}/{name}",
        overrides=(*base.overrides, *words),
        tags=base.tags | {"sweep": sweep_name, "sweep_trial": name},
        resume=False,
    )


def _drawn(dimension: Dimension, draw: random.Random) -> Any:
    match dimension:
        case Uniform(uniform=(low, high)):
            return draw.uniform(low, high)
        case LogUniform(loguniform=(low, high)):
            return min(max(math.exp(draw.uniform(math.log(low), math.log(high))), low), high)
        case _:
            return draw.choice(dimension)


def _ends(dimension: Dimension) -> tuple[Any, ...]:
    match dimension:
        case Uniform(uniform=ends) | LogUniform(loguniform=ends):
            return ends
        case _:
            return dimension


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value).strip('"')
