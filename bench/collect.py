"""How many programs a second a collection draws and judges, and whether decoder or judge bounds it.

    python bench/collect.py --checkpoint DIR --problems train_problems.jsonl [--limit 200] [--rounds 3] [--on-ray]

The same answers are decoded alone, judged alone, and both at once as `wmtp collect` does, interleaved in one run, with
workers that have started. `--on-ray` measures two decoders and two judges on Ray beside the one process. Repeated
programs of a problem are judged once by a collection; here all are.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.evaluation.collecting.collect import CollectionPlan
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest
from wmtp_ray.evaluation.evaluation_port import Workers
from wmtp_ray.evaluation.judging import JudgeTask
from wmtp_ray.evaluation.ledger import DecodedAnswers
from wmtp_ray.flows.evaluate.collect_command import CollectionRequest, plan_collection
from wmtp_ray.text_tables import table

ONE_PROCESS = ("evaluation.num_decoders=1", "evaluation.num_judges=2")
ON_RAY = ("evaluation.num_decoders=2", "evaluation.num_judges=2")


class Measured:
    """The answers that a plan asks for, and the seconds of each way of working on them."""

    def __init__(self, plan: CollectionPlan, num_samples: int) -> None:
        problems = [each.problem for each in plan.training.described]
        assert plan.tokenizer is not None, "a decoder has a tokenizer"
        self._answers = DecodedAnswers(plan.training.problems, None, plan.chosen.format, num_samples)
        places = [(each.task_id, sample) for each in problems for sample in range(num_samples)]
        self._requests = self._answers.requests_of(places, plan.tokenizer, plan.origin.seed)
        self._settings = plan.decoding
        self._tasks: list[JudgeTask] = []
        self.num_tokens = 0
        self.seconds: dict[str, list[float]] = {"decode": [], "judge": [], "both": []}

    @property
    def num_programs(self) -> int:
        return len(self._requests)

    def round(self, workers: Workers) -> None:
        """Decode, judge what was decoded, then do both at once; answers are the same every time."""
        decoded = self._timed("decode", workers, self._requests, [], lambda _: None)
        self._tasks = list(map(self._task_of, decoded))
        self.num_tokens = sum(len(each.ids) for each in decoded)
        self._timed("judge", workers, [], self._tasks, self._task_of)
        self._timed("both", workers, self._requests, [], self._task_of)

    def _timed(
        self,
        what: str,
        workers: Workers,
        requests: Sequence[DecodingRequest],
        tasks: Sequence[JudgeTask],
        task_of: Callable[[Decoded], JudgeTask | None],
    ) -> list[Decoded]:
        started = time.perf_counter()
        found = list(workers.work(requests, self._settings, tasks, task_of))
        self.seconds[what].append(time.perf_counter() - started)
        return [decoded for each in found for decoded in each.decoded]

    def _task_of(self, decoded: Decoded) -> JudgeTask:
        return self._answers.task_of(self._answers.sample_of(decoded))


def planned(
    asked: argparse.Namespace, words: tuple[str, ...], out: Path
) -> tuple[CollectionPlan, Callable[[], AbstractContextManager[Workers]]]:
    given = (
        f"evaluation.limit={asked.limit}",
        f"evaluation.num_samples={asked.samples}",
        "evaluation.temperature=1",
        f"evaluation.max_new_tokens={asked.max_new_tokens}",
        f"evaluation.batch_size={asked.batch_size}",
        "cluster.num_cpus=8",
    )
    config = load_config(Arguments("baseline", None, overrides=(*given, *words)), now=datetime.now())
    request = CollectionRequest(
        checkpoint=asked.checkpoint,
        problems=asked.problems,
        out=out,
        tokenizer=None,
        format=None,
        source=None,
        until_both=None,
        max_samples=None,
        max_correct=None,
        max_incorrect=None,
        skips_evaluated=True,
        preset=None,
        words=words,
    )
    return plan_collection(request, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200, help="problems (200)")
    parser.add_argument("--samples", type=int, default=4, help="answers to each (4)")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--on-ray", action="store_true", help="two decoders and two judges on Ray as well")
    asked = parser.parse_args()
    rows = [["workers", "", "seconds", "programs/s", "tokens/s"]]
    ways = {"one process, two judges": ONE_PROCESS}
    if asked.on_ray:
        ways["two decoders, two judges, on Ray"] = ON_RAY
    for name, words in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            plan, start = planned(asked, words, Path(folder) / "rows.jsonl")
            measured = Measured(plan, asked.samples)
            with start() as workers:
                for _ in range(asked.rounds):
                    measured.round(workers)
        for what, seconds in measured.seconds.items():
            median, spread = statistics.median(seconds), f"({min(seconds):.1f}-{max(seconds):.1f})"
            tokens = "" if what == "judge" else f"{measured.num_tokens / median:,.0f}"
            rows.append([name, what, f"{median:.1f} {spread}", f"{measured.num_programs / median:.1f}", tokens])
    print(f"{measured.num_programs} programs, {measured.num_tokens:,} tokens, median of {asked.rounds} rounds")
    print(table(rows))


if __name__ == "__main__":
    main()
