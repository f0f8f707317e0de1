"""Monte-Carlo values: continue prefixes with a policy at temperature 1, and judge what becomes of them.

A continuation is judged as an evaluation in the format `instruct` judges an answer: the prefix of the response and what
was decoded behind it are one answer, of which the program is taken. Equal programs of a problem are judged once.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from vendor.meta_llama.model import Transformer
from wmtp_ray.config.evaluation import ProblemKind
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.audited_prefixes import Prefix
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode, request_seed
from wmtp_ray.evaluation.decoding.stops import cut_at_stop
from wmtp_ray.evaluation.evaluation_progress import EvaluationProgress
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import INFRASTRUCTURE, Judgement, JudgeTask, judge_answer
from wmtp_ray.evaluation.problems import Problem
from wmtp_ray.evaluation.prompts import FORMATS, PromptFormat, goal_of, program_of, sanitise


@dataclass(frozen=True)
class JudgedProblem:
    """A problem with its tests, and the kind of the file that it is from."""

    problem: Problem
    kind: ProblemKind


@dataclass(frozen=True)
class Outcome:
    """How the continuations of one prefix ended; those on which the judge failed are in `num_not_judged` alone."""

    num_passed: int
    num_rollouts: int
    num_not_judged: int


def roll_out(
    prefixes: Sequence[Prefix],
    tests: Mapping[str, JudgedProblem],
    policy: Transformer,
    config: RunConfig,
    progress: EvaluationProgress,
    *,
    rollouts: int,
    seed: int,
) -> list[Outcome]:
    """Continue each prefix `rollouts` times; return the outcomes in the order of the prefixes.

    `tests` are by the rows' name of a problem. A continuation depends on its prefix, its number and the seed alone.
    """
    tokenizer, settings = run_tokenizer(config), config.evaluation
    requests = [
        DecodingRequest(f"{number}", each.tokens, request_seed(seed, f"{each.problem}\x1f{number}", rollout))
        for number, each in enumerate(prefixes)
        for rollout in range(rollouts)
    ]
    decoding = DecodingSettings(settings.max_new_tokens, 1.0, 1.0, _format_of(tokenizer).stop, settings.draft_horizons)
    with (
        Judge(
            settings.isolation,
            settings.timeout_s,
            settings.num_judges,
            isolation_required=settings.isolation_required,
            memory_limit_bytes=int(settings.memory_limit_mb * (1 << 20)),
        ) as judge,
        _Verdicts(judge, settings.num_judges, len(prefixes), progress) as verdicts,
    ):
        for decoded in decode(policy, tokenizer, requests, decoding, batch_size=settings.batch_size):
            number = int(decoded.key)
            verdicts.ask(number, continued(prefixes[number], decoded, tests[prefixes[number].problem], tokenizer))
        return verdicts.outcomes()


def continued(prefix: Prefix, decoded: Decoded, tested: JudgedProblem, tokenizer: CodeTokenizer) -> JudgeTask:
    """Return the program that a prefix and its continuation are together, with its tests."""
    prompt_ids = prefix.tokens[: prefix.prompt_tokens]
    text = tokenizer.decode_continuation(prompt_ids, (*prefix.response, *decoded.ids))
    form = _format_of(tokenizer)
    answer = sanitise(cut_at_stop(text, form.stop), form.sanitiser, goal_of(tested.problem))
    program = program_of(tested.problem, tested.kind, answer)
    return JudgeTask(tested.problem.task_id, 0, program, tested.problem.tests, not answer.strip())


def _format_of(tokenizer: CodeTokenizer) -> PromptFormat:
    """Return the format whose prompts are those of training rows."""
    return FORMATS["chat" if tokenizer.template == "chat" else "instruct"]


class _Verdicts:
    """Judges while the policy decodes, and counts by prefix; a program that was asked for before is not run again."""

    def __init__(self, judge: Judge, num_judges: int, num_prefixes: int, progress: EvaluationProgress) -> None:
        self._judge = judge
        self._threads = ThreadPoolExecutor(num_judges)
        self._known: dict[tuple[str, str], Future[Judgement]] = {}
        self._waiting: deque[tuple[int, Future[Judgement]]] = deque()
        self._counts = [Counter[str]() for _ in range(num_prefixes)]
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def ask(self, prefix: int, task: JudgeTask) -> None:
        """Take the program of one more continuation, and count those whose turn and verdict have come."""
        place = task.task_id, task.program
        if place not in self._known:
            self._known[place] = self._threads.submit(judge_answer, self._judge, task)
        self._waiting.append((prefix, self._known[place]))
        self._progress.advance(1, ())
        while self._waiting and self._waiting[0][1].done():
            self._count_next()

    def outcomes(self) -> list[Outcome]:
        """Wait for the other verdicts; return the outcomes of all prefixes."""
        while self._waiting:
            self._count_next()
        return [
            Outcome(each["pass"], each.total() - each[INFRASTRUCTURE], each[INFRASTRUCTURE]) for each in self._counts
        ]

    def _count_next(self) -> None:
        prefix, verdict = self._waiting.popleft()
        status = verdict.result().status
        self._counts[prefix][status] += 1
        self._progress.advance(0, (status,))
