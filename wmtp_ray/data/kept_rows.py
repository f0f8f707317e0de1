"""Filter rows for a JSONL: which are dropped and why, how the kept ones are encoded, what is counted.

Knows no source and writes no file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import orjson

from wmtp_ray.data.rows import Row
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row

LANGUAGES = {"python2": 1, "cpp": 2, "python3": 3, "java": 4}

DropReason = Literal["language", "empty", "changed_by_tokenizer", "too_long"]


@dataclass(frozen=True)
class RowLimits:
    """Which rows are kept: language codes of the row schema, and at most `max_tokens` tokens, prompt and all."""

    languages: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True)
class Counts:
    """What became of the problems and solutions of a source.

    `problems` were found; of those `problems_left_out`, by reason, gave nothing at all, and `problems_renamed` have a
    name of another problem of the split. `dropped` counts solutions by reason, the others count kept rows.
    """

    problems: int = 0
    problems_without_rows: int = 0
    problems_left_out: dict[str, int] = field(default_factory=dict)
    problems_renamed: int = 0
    rows: int = 0
    correct_rows: int = 0
    incorrect_rows: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    rows_by_language: dict[str, int] = field(default_factory=dict)
    rows_by_contest: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptRows:
    """The kept rows of one problem as lines of JSON without line ends, in the order they came."""

    lines: tuple[bytes, ...]
    counts: Counts


def keep_rows(rows: Iterable[Row], tokenizer: CodeTokenizer, limits: RowLimits) -> KeptRows:
    """Drop and count the rows of one problem."""
    kept: list[Row] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        reason = drop_reason(row, tokenizer, limits)
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    num_correct = sum(row.is_correct for row in kept)
    counts = Counts(
        problems=1,
        problems_without_rows=int(not kept),
        rows=len(kept),
        correct_rows=num_correct,
        incorrect_rows=len(kept) - num_correct,
        dropped=dict(dropped),
        rows_by_language=dict(Counter(_language_name(row.language) for row in kept)),
        rows_by_contest=dict(Counter(row.contest for row in kept if row.contest)),
    )
    return KeptRows(tuple(row_line(row) for row in kept), counts)


def drop_reason(row: Row, tokenizer: CodeTokenizer, limits: RowLimits) -> DropReason | None:
    """Return why a row is dropped, None if it is kept; of several reasons the one that is cheapest to check."""
    if row.language not in limits.languages:
        return "language"
    if not row.output.strip():
        return "empty"
    try:
        num_tokens = len(encode_row(row, tokenizer, row_id=0).tokens_T)
    except ChangedText:
        return "changed_by_tokenizer"
    return "too_long" if num_tokens > limits.max_tokens else None


def row_line(row: Row) -> bytes:
    """Encode a row in the row schema, so that `decode_row` gives it back; metadata that is unknown is left out."""
    metadata = {"source": row.source, "difficulty": row.difficulty, "has_tests": row.has_tests}
    where_known = {"language": row.language, "cf_rating": row.cf_rating, "contest": row.contest}
    record = {
        "instruction": row.instruction,
        "input": row.input,
        "output": row.output,
        "task_id": row.task_id,
        "is_correct": row.is_correct,
        "metadata": metadata | {key: value for key, value in where_known.items() if value},
    }
    return orjson.dumps(record)


def total(counts: Iterable[Counts]) -> Counts:
    """Sum; the keys of the breakdowns are sorted."""
    parts = list(counts)
    return Counts(
        problems=sum(each.problems for each in parts),
        problems_without_rows=sum(each.problems_without_rows for each in parts),
        problems_left_out=_summed(each.problems_left_out for each in parts),
        problems_renamed=sum(each.problems_renamed for each in parts),
        rows=sum(each.rows for each in parts),
        correct_rows=sum(each.correct_rows for each in parts),
        incorrect_rows=sum(each.incorrect_rows for each in parts),
        dropped=_summed(each.dropped for each in parts),
        rows_by_language=_summed(each.rows_by_language for each in parts),
        rows_by_contest=_summed(each.rows_by_contest for each in parts),
    )


def _summed(breakdowns: Iterable[dict[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for breakdown in breakdowns:
        sums.update(breakdown)
    return dict(sorted(sums.items()))


def _language_name(code: int) -> str:
    return next((name for name, each in LANGUAGES.items() if each == code), str(code))
