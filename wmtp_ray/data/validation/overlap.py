"""From passages in rows to findings: which benchmark tasks the training text holds parts of.

Only tasks of a test split are measured on; finding one of another split is a warning, not an error.
A passage that occurs in many problems ("for i in range n for j in range i 1 n ...") is common code, no leak:
above COMMON_PROBLEMS problems it is a warning, unless a problem shares TOO_MANY_COMMON passages with one task, as it
does by 20 words in a row: then the text itself was copied many times.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wmtp_ray.data.validation.findings import KEPT_EXAMPLES, ScannedFile
from wmtp_ray.data.validation.passages import BenchmarkTask, Passages
from wmtp_ray.data.validation.rules import Finding, Rule

COMMON_PROBLEMS = 10
TOO_MANY_COMMON = 8


@dataclass
class _Shared:
    """What a benchmark task and a problem share: passages, and the rows that hold the most frequent one."""

    num_passages: int = 0
    num_common: int = 0
    num_rows: int = 0
    first_row: int = 0
    passage: int = -1

    @property
    def is_leak(self) -> bool:
        return self.num_common < self.num_passages or self.num_common >= TOO_MANY_COMMON


def find_overlap(files: Sequence[ScannedFile], passages: Passages) -> list[Finding]:
    """Report per file each (benchmark task, problem) that share a passage, those that share most first."""
    problems_of: dict[int, set[str]] = defaultdict(set)
    for file in files:
        for problem, passage in file.rows.overlaps:
            problems_of[passage].add(problem)
    common = {passage for passage, problems in problems_of.items() if len(problems) > COMMON_PROBLEMS}
    return [
        *(finding for file in files for finding in _leaks(file, passages, common)),
        *(finding for file in files for finding in _common_phrases(file, passages, common)),
    ]


def _leaks(file: ScannedFile, passages: Passages, common: set[int]) -> Iterator[Finding]:
    shared: dict[tuple[BenchmarkTask, str], _Shared] = defaultdict(_Shared)
    for (problem, passage), overlap in file.rows.overlaps.items():
        for task in passages.tasks[passage]:
            pair = shared[task, problem]
            pair.num_passages += 1
            pair.num_common += passage in common
            if overlap.num_rows > pair.num_rows:
                pair.num_rows, pair.first_row, pair.passage = overlap.num_rows, overlap.first_row, passage
    worst_first = sorted(shared.items(), key=lambda item: (-item[1].num_passages, item[0][0].task_id, item[0][1]))
    for rule, is_test in ((Rule.TEST_TASK, True), (Rule.OTHER_TASK, False)):
        examples = [
            f"{task.task_id} in {problem} ({file.place(pair.first_row)}; rows: {pair.num_rows:,}, passages: "
            f'{pair.num_passages:,}): "{" ".join(passages.words[pair.passage])}"'
            for (task, problem), pair in worst_first
            if pair.is_leak and task.is_test is is_test
        ]
        if examples:
            kept = tuple(examples[:KEPT_EXAMPLES])
            yield Finding(rule, (file.name,), len(examples), "tasks in problems", kept)


def _common_phrases(file: ScannedFile, passages: Passages, common: set[int]) -> Iterator[Finding]:
    num_rows: dict[int, int] = defaultdict(int)
    for (_, passage), overlap in file.rows.overlaps.items():
        if passage in common:
            num_rows[passage] += overlap.num_rows
    if num_rows:
        most_first = sorted(num_rows.items(), key=lambda item: (-item[1], item[0]))
        examples = tuple(
            f'{rows:,} rows: "{" ".join(passages.words[passage])}" of {passages.tasks[passage][0].task_id}'
            for passage, rows in most_first[:KEPT_EXAMPLES]
        )
        yield Finding(Rule.COMMON_PHRASE, (file.name,), len(num_rows), "phrases", examples)
