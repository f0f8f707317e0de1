"""The port of who decodes and judges: requests and tasks in, answers and verdicts out as they come."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.judging import Judgement, JudgeTask

TaskOf = Callable[[Decoded], JudgeTask | None]


@dataclass(frozen=True)
class Findings:
    """What has come since the last look."""

    decoded: list[Decoded]
    judgements: list[Judgement]


class Workers(Protocol):
    """Who does what, and in which order, changes no result."""

    def work(
        self,
        requests: Sequence[DecodingRequest],
        settings: DecodingSettings | None,
        tasks: Sequence[JudgeTask],
        task_of: TaskOf,
    ) -> Iterator[Findings]:
        """Decode `requests`, judge `tasks` and what is decoded, and yield all of it; `task_of` None: not judged."""
        ...
