"""The actors of an evaluation: decoders and judges that work at the same time, and the wait for what they find.

    requests ── decoder 0..n-1 ──> answers ──> judge 0..m-1 ──> verdicts

Which decoder or judge does what changes no result. Ray restarts an actor that dies. A decoder retries its share a few
times and skips the answers that have arrived; after the last retry the evaluation fails, and the same command continues
it. The client of a server does not retry after a death: what it gives has no order that could be repeated. A judge
retries its answer once; if it dies on the same answer again, the verdict is `error`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from actors.decoder import Decoder
from actors.engine_client import EngineClient
from actors.judge_worker import JudgeWorker
from actors.stalls import report_stall
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import TrainingError, WmtpError
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.engine import api_key
from wmtp_ray.evaluation.evaluation_port import Findings, TaskOf
from wmtp_ray.evaluation.judging import Judgement, JudgeTask, not_judged
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.flows.cluster import require_resources
from wmtp_ray.preflight.needed_resources import evaluation_resources
from wmtp_ray.tracking.processes import drop_empty_stacks, forget_processes

_DECODER_RETRIES = 3
_TASKS_PER_JUDGE = 2  # one that runs and one that waits, so that no judge idles between two
_CLOSE_S = 10.0
_GOES_ON = "the same command goes on"


@contextmanager
def started_workers(
    config: RunConfig, policy: PolicyFiles | ServedModel | None, isolation_level: str, directory: Path
) -> Iterator["EvaluationWorkers"]:
    """Start the actors on the connected cluster, judges alone without a policy, and end them with the block.

    A served model is asked by one client in place of the decoders.

    Their processes are recorded in `directory`. Raises ConfigError for more than the cluster has, TrainingError where
    an actor does not come up.
    """
    require_evaluation_resources(config, with_decoders=policy is not None)
    cluster, settings = config.cluster, config.evaluation
    judge_class = ray.remote(JudgeWorker).options(num_cpus=cluster.cpus_per_judge, max_restarts=-1, max_task_retries=1)
    judges: list[Any] = [
        judge_class.remote(settings, isolation_level, directory, number) for number in range(settings.num_judges)
    ]
    decoders = _decoders(config, policy, directory)
    try:
        signs = [*(each.isolation_level.remote() for each in judges), *(each.ready.remote() for each in decoders)]
        _await_start(signs, config.deadlines.start_s)
        yield EvaluationWorkers(decoders, judges, directory, config.deadlines.evaluation_s)
    finally:
        _end(decoders, judges)
        forget_processes(directory)
        drop_empty_stacks(directory)


def _decoders(config: RunConfig, policy: PolicyFiles | ServedModel | None, directory: Path) -> list[Any]:
    cluster = config.cluster
    if policy is None:
        return []
    if isinstance(policy, ServedModel):
        client_class: Any = ray.remote(EngineClient).options(num_cpus=cluster.cpus_per_decoder)
        return [client_class.remote(config.engine, policy, directory, has_key=api_key(config.engine) is not None)]
    decoder_class: Any = ray.remote(Decoder).options(
        num_cpus=cluster.cpus_per_decoder,
        num_gpus=cluster.gpus_per_decoder,
        max_restarts=-1,
        max_task_retries=_DECODER_RETRIES,
    )
    return [
        decoder_class.remote(policy.model, policy.tokenizer, config, directory, number)
        for number in range(config.evaluation.num_decoders)
    ]


def _await_start(signs: list[Any], deadline_s: float) -> None:
    try:
        ray.get(signs, timeout=deadline_s)
    except GetTimeoutError as error:
        raise TrainingError(
            f"Decoders and judges did not come up within {deadline_s:.0f} s (deadlines.start_s): raise it for a large "
            "model, or see with `ray status` what else the cluster is doing"
        ) from error
    except RayError as error:
        if isinstance(error, RayTaskError) and isinstance(error.cause, WmtpError):
            raise error.cause from error
        raise TrainingError(f"An actor of the evaluation did not start: {_last_line(error)}") from error


class EvaluationWorkers:
    """Actors that have come up; `work` may be called for one set of problems after the other."""

    def __init__(self, decoders: list[Any], judges: list[Any], directory: Path, deadline_s: float) -> None:
        self._decoders = decoders
        self._directory = directory
        self._deadline_s = deadline_s
        self._idle = deque(judge for _ in range(_TASKS_PER_JUDGE) for judge in judges)
        self._streams: list[Any] = []
        self._waiting: deque[JudgeTask] = deque()
        self._running: dict[Any, tuple[Any, JudgeTask]] = {}

    def work(
        self,
        requests: Sequence[DecodingRequest],
        settings: DecodingSettings | None,
        tasks: Sequence[JudgeTask],
        task_of: TaskOf,
    ) -> Iterator[Findings]:
        """Decode `requests`, judge `tasks` and what is decoded, and yield all of it as it comes.

        Raises TrainingError when nothing comes for `deadlines.evaluation_s`, or when a decoder dies again and again.
        """
        self._waiting.extend(tasks)
        if requests:
            assert settings is not None
            shares = _shares(requests, len(self._decoders))
            self._streams = [
                decoder.decode.options(num_returns="streaming").remote(share, settings)
                for decoder, share in zip(self._decoders, shares, strict=True)
            ]
        while self._streams or self._waiting or self._running:
            self._give_to_judges()
            ready = self._await_some()
            decoded = [each for stream in ready if stream in self._streams for each in self._next_of(stream)]
            judgements = [self._verdict(ref) for ref in ready if ref in self._running]
            self._waiting.extend(task for each in decoded if (task := task_of(each)) is not None)
            yield Findings(decoded, judgements)

    def _give_to_judges(self) -> None:
        while self._waiting and self._idle:
            judge, task = self._idle.popleft(), self._waiting.popleft()
            self._running[judge.judge.remote(task)] = (judge, task)

    def _await_some(self) -> list[Any]:
        """Return all streams and verdicts that are ready, at least one."""
        pending = [*self._streams, *self._running]
        ready, _ = ray.wait(pending, num_returns=1, timeout=self._deadline_s)
        if not ready:
            what = f"no answer and no verdict came for {self._deadline_s:.0f} s: {self._what_is_open()}"
            report_stall(self._directory, what)
            raise TrainingError(
                f"Evaluation: {what} (deadlines.evaluation_s). Stacks are in {self._directory}; {_GOES_ON}"
            )
        return list(ray.wait(pending, num_returns=len(pending), timeout=0)[0])

    def _what_is_open(self) -> str:
        judged = ", ".join(f"{task.task_id} sample {task.sample}" for _, task in self._running.values())
        return f"{len(self._streams)} decoders at work; judges at {judged or 'nothing'}"

    def _next_of(self, stream: Any) -> list[Decoded]:
        """Return the next answer of a decoder, none at its end."""
        try:
            return [ray.get(next(stream))]
        except StopIteration:
            self._streams.remove(stream)
            return []
        except RayTaskError as error:
            if isinstance(error.cause, WmtpError):
                raise error.cause from error
            raise TrainingError(f"A decoder failed: {_last_line(error)}; {_GOES_ON}") from error
        except RayError as error:
            raise TrainingError(f"A decoder died again and again: {error}; {_GOES_ON}") from error

    def _verdict(self, ref: Any) -> Judgement:
        """Return a verdict, `error` if the judge's process died twice while judging the answer."""
        judge, task = self._running.pop(ref)
        self._idle.append(judge)
        try:
            judgement: Judgement = ray.get(ref)
        except RayTaskError:
            raise
        except RayError as error:
            return not_judged(task, f"the judge's process died: {_last_line(error)}")
        return judgement


def _shares(requests: Sequence[DecodingRequest], num_decoders: int) -> list[list[DecodingRequest]]:
    """Deal the prompts out in turn, all requests with one prompt to one decoder, which reads it once."""
    prompts = {prompt_ids: number for number, prompt_ids in enumerate(dict.fromkeys(r.prompt_ids for r in requests))}
    shares: list[list[DecodingRequest]] = [[] for _ in range(num_decoders)]
    for request in requests:
        shares[prompts[request.prompt_ids] % num_decoders].append(request)
    return shares


def require_evaluation_resources(config: RunConfig, *, with_decoders: bool) -> None:
    """Raise ConfigError for an evaluation that the connected cluster can never place."""
    require_resources(evaluation_resources(config, with_decoders=with_decoders))


def _end(decoders: list[Any], judges: list[Any]) -> None:
    """End the actors; judges that answer first remove their files from the disk."""
    with suppress(RayError):  # one that hangs or is gone is killed below
        ray.get([judge.close.remote() for judge in judges], timeout=_CLOSE_S)
    for actor in (*decoders, *judges):
        ray.kill(actor)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
