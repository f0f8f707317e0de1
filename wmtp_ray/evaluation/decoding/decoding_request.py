"""What goes into decoding and what comes out. No torch.

Shape suffix: H draft horizons, 2 first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.decoding.drafting import Drafting
from wmtp_ray.evaluation.served import Served

Finish = Literal["stop", "end", "length"]


@dataclass(frozen=True)
class DecodingSettings:
    """How to decode. Raises ConfigError for invalid values.

    `temperature` 0 takes the likeliest token. `top_p` keeps the smallest set of likeliest tokens that holds this much
    probability. `draft_horizons` n drafts n tokens a forward with the heads of horizons 2..n+1; 0 drafts nothing. With
    `drafting` measured fewer are drafted where that takes less time (`drafting.py`): the counts of forwards and drafts
    then depend on machine and batch. Both change the number of forwards and no token.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    draft_horizons: int
    drafting: Drafting = "fixed"

    def __post_init__(self) -> None:
        problems = {
            f"max_new_tokens is {self.max_new_tokens}, expected 1 or more": self.max_new_tokens < 1,
            f"temperature is {self.temperature}, expected 0 (greedy) or a positive number": not (
                0 <= self.temperature < float("inf")
            ),
            f"top_p is {self.top_p}, expected above 0 and at most 1": not 0 < self.top_p <= 1,
            f"stop is {self.stop!r}, expected a tuple of texts that are not empty": not all(self.stop),
            f"draft_horizons is {self.draft_horizons}, expected 0 (plain) or more": self.draft_horizons < 0,
        }
        if found := [text for text, wrong in problems.items() if wrong]:
            raise ConfigError(f"These settings cannot decode: {'; '.join(found)}.")

    @classmethod
    def of(cls, settings: EvaluationConfig, stop: tuple[str, ...]) -> "DecodingSettings":
        """Return those of an evaluation, with the stop strings of its prompt format."""
        return cls(
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            stop=stop,
            draft_horizons=settings.draft_horizons,
            drafting=settings.drafting,
        )


@dataclass(frozen=True)
class DecodingRequest:
    """One text to continue. `seed` alone decides its draws; `key` names it to the caller.

    `is_finished` is asked after every line whether the continuation so far is all that is wanted; None: it never is.
    `text` is the prompt for a server, which has a tokenizer of its own; `prompt_ids` are then empty.
    """

    key: str
    prompt_ids: tuple[int, ...]
    seed: int
    is_finished: Callable[[str], bool] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Decoded:
    """A continuation, and the number of forward passes and drafts that it took.

    `ids` are without EOS; `raw_text` is what they add to the prompt, decoded with it, `text` the same up to the
    earliest stop string. `finish`: a stop string appeared or the request's `is_finished` said so, the model ended the
    text, or `max_new_tokens` was reached.

    A server gives text and no ids, says nothing of its forwards (0 here), and calls both the end of the text and a stop
    string `stop`; `served` says what it told of the answer.

    `num_forwards` counts the prompt's pass. `drafted_H` counts the drafts fed per horizon, `accepted_H` those that were
    right and so gave one more token of the same forward.
    """

    key: str
    ids: tuple[int, ...]
    raw_text: str
    text: str
    finish: Finish
    num_forwards: int
    drafted_H: tuple[int, ...]
    accepted_H: tuple[int, ...]
    served: Served | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that were decided, EOS included: one a forward and one for each accepted draft; a server's count."""
        if self.served is not None:
            return self.served.num_tokens
        return self.num_forwards + sum(self.accepted_H)


@dataclass(frozen=True)
class DecodingStatistics:
    """What decoding did over many requests of the same settings."""

    num_requests: int
    num_tokens: int
    num_forwards: int
    drafted_H: tuple[int, ...]
    accepted_H: tuple[int, ...]

    @classmethod
    def of(cls, decoded: Iterable[Decoded]) -> "DecodingStatistics":
        """Sum up; the counts of a forward are per request, however many shared a batch."""
        every = list(decoded)
        drafted = zip(*(each.drafted_H for each in every), strict=True)
        accepted = zip(*(each.accepted_H for each in every), strict=True)
        return cls(
            num_requests=len(every),
            num_tokens=sum(each.num_tokens for each in every),
            num_forwards=sum(each.num_forwards for each in every),
            drafted_H=tuple(map(sum, drafted)),
            accepted_H=tuple(map(sum, accepted)),
        )

    @property
    def tokens_per_forward(self) -> float:
        return self.num_tokens / max(self.num_forwards, 1)

    @property
    def acceptance_H(self) -> tuple[float, ...]:
        """Share of each horizon's drafts that were accepted, which needs all drafts before them right too."""
        return tuple(
            accepted / max(drafted, 1) for accepted, drafted in zip(self.accepted_H, self.drafted_H, strict=True)
        )
