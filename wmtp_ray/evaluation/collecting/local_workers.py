"""Decoding and judging in one process: the policy decodes while threads wait for the judge. Starts no Ray."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.evaluation_port import Findings, TaskOf
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import Judgement, JudgeTask, judge_answer

Decode = Callable[[Sequence[DecodingRequest], DecodingSettings], Iterator[Decoded]]


class LocalWorkers:
    """A decoder and an open judge; `num_judges` programs are judged at a time."""

    def __init__(self, decode: Decode, judge: Judge, num_judges: int) -> None:
        self._decode = decode
        self._judge = judge
        self._num_judges = num_judges

    def work(
        self,
        requests: Sequence[DecodingRequest],
        settings: DecodingSettings | None,
        tasks: Sequence[JudgeTask],
        task_of: TaskOf,
    ) -> Iterator[Findings]:
        """Do what `Workers` says."""
        threads = ThreadPoolExecutor(self._num_judges)
        try:
            waiting = {threads.submit(judge_answer, self._judge, task) for task in tasks}
            if requests:
                assert settings is not None
                for decoded in self._decode(requests, settings):
                    if (task := task_of(decoded)) is not None:
                        waiting.add(threads.submit(judge_answer, self._judge, task))
                    yield Findings([decoded], _taken({each for each in waiting if each.done()}, waiting))
            while waiting:
                yield Findings([], _taken(wait(waiting, return_when=FIRST_COMPLETED).done, waiting))
        finally:
            threads.shutdown(cancel_futures=True)


def _taken(done: set[Future[Judgement]], waiting: set[Future[Judgement]]) -> list[Judgement]:
    waiting -= done
    return [each.result() for each in done]
