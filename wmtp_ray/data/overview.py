"""Statistics of a data set from its index: shares, difficulties, lengths, and rows per problem.

Reads no training file and draws nothing; `overview_text` and `overview_picture` show the result. Suffixes: R rows,
P problems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wmtp_ray.config.sampling import DifficultyBins, DifficultySource, Language, ProblemClass
from wmtp_ray.contracts import Bool, Int16, Int32, Int64, RowIndex
from wmtp_ray.plan.candidates import LANGUAGES, rows_in_languages
from wmtp_ray.plan.difficulty import difficulty_of_rows
from wmtp_ray.plan.problem_classes import ClassCounts, count_classes
from wmtp_ray.plan.row_pool import bin_of_rows

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
MOST_ROWS = 10


@dataclass(frozen=True)
class Group:
    """Rows that share a language or a source; difficulties are raw codes above 0, None where none is known."""

    name: str
    num_rows: int
    num_problems: int
    num_correct: int
    num_unknown: int
    difficulty_range: tuple[int, int, int] | None  # least, median, greatest


@dataclass(frozen=True, eq=False)
class Difficulty:
    """The rows under one source: unknown + outside + sum(by_bin) = all. `rows_by_value` leaves 0, unknown, out."""

    source: DifficultySource
    num_unknown: int
    num_outside: int
    rows_by_bin: dict[str, int]
    rows_by_value: dict[int, int]


@dataclass(frozen=True, eq=False)
class Lengths:
    """Lengths of one part of the rows; `quantiles` belong to QUANTILES, ends included."""

    name: str
    values_N: Int32
    quantiles: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ownership:
    """How the rows are shared out over the problems; `rows_P` is sorted, most rows first."""

    rows_P: Int64
    top_names: tuple[str, ...]
    rows_of_top_percent: int


@dataclass(frozen=True, eq=False)
class Overview:
    """Everything that is shown of an index. `lengths` are in `unit`: tokens, or bytes while tokens are not counted.

    `problem_classes` count the rows in `class_languages` alone (None: all rows).
    """

    path: str
    num_rows: int
    num_problems: int
    num_correct: int
    languages: tuple[Group, ...]
    sources: tuple[Group, ...]
    difficulties: tuple[Difficulty, ...]
    unit: str
    lengths: tuple[Lengths, ...]
    max_tokens: int
    num_over_max_tokens: int | None
    ownership: Ownership
    problem_classes: dict[ProblemClass, ClassCounts]
    class_languages: tuple[Language, ...] | None


def overview_of(
    index: RowIndex,
    bins_by_source: Mapping[DifficultySource, DifficultyBins],
    *,
    max_tokens: int,
    languages: tuple[Language, ...] | None = None,
) -> Overview:
    """Measure an index; each source of difficulty against the bins it would be drawn with.

    Problems are classed by their rows in `languages`, as a plan does; None: all rows.
    """
    counted = bool(index.tokenizer_hash)
    return Overview(
        path=index.path,
        num_rows=len(index),
        num_problems=len(index.problem_names),
        num_correct=int(index.is_correct_R.sum()),
        languages=_groups(index, index.language_R, _language_names(index)),
        sources=_groups(index, index.source_R, dict(enumerate(index.source_names))),
        difficulties=tuple(_difficulty(index, source, bins) for source, bins in bins_by_source.items()),
        unit="tokens" if counted else "bytes",
        lengths=_token_lengths(index) if counted else _by_class(index, "line", index.num_bytes_R),
        max_tokens=max_tokens,
        num_over_max_tokens=int((index.num_tokens_R > max_tokens).sum()) if counted else None,
        ownership=_ownership(index),
        problem_classes=count_classes(index, rows_in_languages(index, languages)),
        class_languages=languages,
    )


def _language_names(index: RowIndex) -> dict[int, str]:
    codes = np.unique(index.language_R).tolist()
    return {code: LANGUAGES[code] if 0 <= code < len(LANGUAGES) else f"code {code}" for code in codes}


def _groups(index: RowIndex, code_R: npt.NDArray[np.integer], names: Mapping[int, str]) -> tuple[Group, ...]:
    groups = [_group(index, name, np.flatnonzero(code_R == code)) for code, name in names.items()]
    return tuple(sorted((group for group in groups if group.num_rows), key=lambda group: -group.num_rows))


def _group(index: RowIndex, name: str, row_ids: Int64) -> Group:
    difficulty_N = index.difficulty_R[row_ids]
    known_N = difficulty_N[difficulty_N > 0]
    return Group(
        name=name,
        num_rows=len(row_ids),
        num_problems=int(_is_present(index.problem_R[row_ids], len(index.problem_names)).sum()),
        num_correct=int(index.is_correct_R[row_ids].sum()),
        num_unknown=len(row_ids) - len(known_N),
        difficulty_range=(int(known_N.min()), int(np.median(known_N)), int(known_N.max())) if len(known_N) else None,
    )


def _is_present(problem_N: Int32, num_problems: int) -> Bool:
    present_P = np.zeros(num_problems, np.bool_)
    present_P[problem_N] = True
    return present_P


def _difficulty(index: RowIndex, source: DifficultySource, bins: DifficultyBins) -> Difficulty:
    difficulty_R = difficulty_of_rows(index, source)
    place_R = bin_of_rows(difficulty_R, bins)
    rows_by_bin = {name: int((place_R == place).sum()) for place, name in enumerate(bins)}
    num_unknown = int((difficulty_R == 0).sum())
    return Difficulty(
        source=source,
        num_unknown=num_unknown,
        num_outside=len(index) - num_unknown - sum(rows_by_bin.values()),
        rows_by_bin=rows_by_bin,
        rows_by_value=_rows_by_value(difficulty_R),
    )


def _rows_by_value(difficulty_R: Int16) -> dict[int, int]:
    values, counts = np.unique(difficulty_R[difficulty_R != 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _token_lengths(index: RowIndex) -> tuple[Lengths, ...]:
    return (
        *_by_class(index, "response", index.response_tokens_R),
        _lengths("prompt", index.prompt_tokens_R),
        _lengths("whole example", index.num_tokens_R),
    )


def _by_class(index: RowIndex, part: str, length_R: Int32) -> tuple[Lengths, ...]:
    classes = (("correct", index.is_correct_R), ("incorrect", ~index.is_correct_R))
    return tuple(_lengths(f"{part}, {name}", length_R[is_of_R]) for name, is_of_R in classes if is_of_R.any())


def _lengths(name: str, length_N: Int32) -> Lengths:
    quantiles = np.quantile(length_N, QUANTILES, method="inverted_cdf")
    return Lengths(name, length_N, tuple(int(value) for value in quantiles))


def _ownership(index: RowIndex) -> Ownership:
    num_problems = len(index.problem_names)
    rows_P = np.bincount(index.problem_R, minlength=num_problems)
    order_P = np.argsort(-rows_P, kind="stable")
    sorted_rows_P = rows_P[order_P]
    return Ownership(
        rows_P=sorted_rows_P,
        top_names=_names(index.problem_names, order_P[:MOST_ROWS]),
        rows_of_top_percent=int(sorted_rows_P[: -(-num_problems // 100)].sum()),
    )


def _names(names: Sequence[str], codes: Int64) -> tuple[str, ...]:
    return tuple(names[code] for code in codes.tolist())
