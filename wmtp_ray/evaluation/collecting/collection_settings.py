"""How many answers a collection draws of a problem, and how many rows it keeps of them."""

from dataclasses import dataclass

from wmtp_ray.errors import ConfigError


@dataclass(frozen=True)
class CollectionSettings:
    """Raises ConfigError for numbers that contradict each other.

    `num_samples` answers to each problem are drawn first. With `until_both`, as many again are drawn of each problem
    that has fewer different correct or incorrect programs than that, until it has them or `max_samples` are drawn.
    `max_correct` and `max_incorrect` are the most rows of a problem and class; None keeps all.
    """

    num_samples: int
    until_both: int | None = None
    max_samples: int | None = None
    max_correct: int | None = None
    max_incorrect: int | None = None

    def __post_init__(self) -> None:
        least = {"until_both": 1, "max_samples": self.num_samples, "max_correct": 0, "max_incorrect": 0}
        for name, low in {"num_samples": 1, **least}.items():
            found = getattr(self, name)
            if found is not None and found < low:
                raise ConfigError(f"--{_flag(name)} is {found}, expected {low} or more")
        if (self.until_both is None) != (self.max_samples is None):
            has, lacks = ("max_samples", "until_both") if self.until_both is None else ("until_both", "max_samples")
            raise ConfigError(
                f"found --{_flag(has)} without --{_flag(lacks)}, expected both or neither: one says what a problem "
                "should have, the other how many answers may be drawn for it"
            )
        for name in ("max_correct", "max_incorrect"):
            most = getattr(self, name)
            if self.until_both is not None and most is not None and most < self.until_both:
                raise ConfigError(
                    f"--{_flag(name)} is {most} with --until-both {self.until_both}, expected {self.until_both} or "
                    "more: rows would be drawn and thrown away"
                )

    @property
    def most_samples(self) -> int:
        """The most answers of one problem."""
        return self.num_samples if self.max_samples is None else self.max_samples

    def most_rows(self, *, is_correct: bool) -> int | None:
        """The most rows of a problem and class, None for any number."""
        return self.max_correct if is_correct else self.max_incorrect


def _flag(name: str) -> str:
    return name.replace("_", "-")
