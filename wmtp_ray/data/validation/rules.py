"""What a check can find, and whether it is an error or a warning.

An error makes a result wrong or a claim unprovable: rows that cannot be read, labels that contradict each other,
problems or benchmark texts that are both trained on and measured on, bytes that are not the published ones. A warning
needs a person's judgement: repetition inside the data, benchmark tasks that are not measured on, phrases of everyday
code.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["error", "warning"]


class Rule(Enum):
    """A rule: its severity, and what breaking it is called."""

    NO_ROWS = ("error", "no row in a file")
    MALFORMED = ("error", "malformed lines")
    EMPTY_PROGRAM = ("error", "no program: empty or white space")
    REPEATED_TASK_ID = ("error", "task_id of an earlier row of the file")
    LABEL_AGAINST_TASK_ID = ("error", "is_correct against the suffix of the task_id")
    BOTH_LABELS = ("error", "same instruction and program labelled correct and incorrect")
    PROBLEM_IN_TWO_SPLITS = ("error", "problem in two splits, by name")
    INSTRUCTION_IN_TWO_SPLITS = ("error", "problem in two splits, by its text")
    TEST_TASK = ("error", "text of a task of a benchmark's test split")
    OTHER_BYTES = ("error", "SHA-256 not as in manifest.json")
    REPEATED_ROW = ("warning", "exact repetition of an earlier row")
    REPEATED_PROGRAM = ("warning", "repetition but for comments and layout")
    OTHER_TASK = ("warning", "text of a task of a benchmark's other splits")
    NO_CODE = ("warning", "program of comments or a code fence alone, or with NUL bytes")
    NO_INSTRUCTION = ("warning", "empty instruction")
    COMMON_PHRASE = ("warning", "benchmark phrase in more than 10 problems")

    @property
    def severity(self) -> Severity:
        return self.value[0]

    @property
    def title(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Finding:
    """A rule that was broken, where and how often: `count` of `unit` in `files`, with the first examples."""

    rule: Rule
    files: tuple[str, ...]
    count: int
    unit: str
    examples: tuple[str, ...]
