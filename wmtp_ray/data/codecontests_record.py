"""One record of code_contests as a Problem: which nulls mean unknown, which records are refused. Reads no file.

    null means unknown    description, source, difficulty, cf_rating, limits, file names, a solution's language or text
    refused               a name that is null or blank, lists of tests or solutions that are null or of two lengths, a
                          null among tests, numbers that a row cannot hold

What becomes of what is unknown is decided where it is used: docs/data.md has the whole table. `source` is numbered as
on the hub, which swaps two sites against the protocol buffers of the original release.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wmtp_ray.data.records import INT16
from wmtp_ray.errors import DataError

CONTESTS = {1: "codechef", 2: "codeforces", 3: "hackerearth", 4: "codejam", 5: "atcoder", 6: "aizu"}
REMEDY = "fix the record or leave it out of the source"

Fields = dict[str, Any]  # a record as Parquet's columns give it


@dataclass(frozen=True)
class StdioTest:
    """What a program reads and what it has to print."""

    input: str
    output: str


@dataclass(frozen=True)
class Solution:
    """A program, "" where the source has none; `language`: 0 unknown, 1 Python 2, 2 C++, 3 Python 3, 4 Java."""

    language: int
    program: str


@dataclass(frozen=True)
class Problem:
    """A problem of the data set.

    `description` and `contest` are "", `difficulty` and `cf_rating` 0, limits and file names None where unknown.
    """

    name: str
    description: str
    public_tests: tuple[StdioTest, ...]
    private_tests: tuple[StdioTest, ...]
    generated_tests: tuple[StdioTest, ...]
    solutions: tuple[Solution, ...]
    incorrect_solutions: tuple[Solution, ...]
    contest: str
    difficulty: int
    cf_rating: int
    time_limit_s: float | None
    memory_limit_bytes: int | None
    input_file: str | None
    output_file: str | None
    is_description_translated: bool


def decode_problem(fields: Fields, place: str) -> Problem:
    """Make a problem of a record; raises DataError that names the problem, or `place` where it has no name."""
    name = fields["name"]
    if name is None or not name.strip():
        raise DataError(f"{place}: found {_shown(name)} in name, expected the problem's name; {REMEDY}")
    place = f"{place.partition(': problem ')[0]}: problem {name!r}"
    return Problem(
        name=name,
        description=fields["description"] or "",
        public_tests=_tests(fields, "public_tests", place),
        private_tests=_tests(fields, "private_tests", place),
        generated_tests=_tests(fields, "generated_tests", place),
        solutions=_solutions(fields, "solutions", place),
        incorrect_solutions=_solutions(fields, "incorrect_solutions", place),
        contest=CONTESTS.get(fields["source"], ""),
        difficulty=_number(fields, "difficulty", place),
        cf_rating=_number(fields, "cf_rating", place),
        time_limit_s=_seconds(fields["time_limit"]),
        memory_limit_bytes=fields["memory_limit_bytes"] or None,
        input_file=fields["input_file"] or None,
        output_file=fields["output_file"] or None,
        is_description_translated=bool(fields["is_description_translated"]),
    )


def _number(fields: Fields, column: str, place: str) -> int:
    """0 where unknown; a row holds 16 bits."""
    value = int(fields[column] or 0)
    if not INT16[0] <= value <= INT16[1]:
        raise DataError(f"{place}: found {value} in {column}, expected {INT16[0]}..{INT16[1]} or null; {REMEDY}")
    return value


def _seconds(limit: Fields | None) -> float | None:
    if limit is None or limit["seconds"] is None:
        return None
    return float(limit["seconds"] + (limit["nanos"] or 0) / 1e9)


def _tests(fields: Fields, column: str, place: str) -> tuple[StdioTest, ...]:
    tests = []
    for number, (given, expected) in enumerate(_pairs(fields, column, "input", "output", place)):
        for part, text in (("input", given), ("output", expected)):
            if text is None:
                raise DataError(f"{place}: found null in {column}.{part}[{number}], expected text; {REMEDY}")
        tests.append(StdioTest(given, expected))
    return tuple(tests)


def _solutions(fields: Fields, column: str, place: str) -> tuple[Solution, ...]:
    pairs = _pairs(fields, column, "language", "solution", place)
    return tuple(Solution(language or 0, program or "") for language, program in pairs)


def _pairs(fields: Fields, column: str, first: str, second: str, place: str) -> Iterator[tuple[Any, Any]]:
    lists = fields[column]
    for part, found in ((column, lists), *((f"{column}.{name}", (lists or {}).get(name)) for name in (first, second))):
        if found is None:
            raise DataError(f"{place}: found null in {part}, expected lists, empty where there are none; {REMEDY}")
    if len(lists[first]) != len(lists[second]):
        raise DataError(
            f"{place}: found {len(lists[first])} {column}.{first} and {len(lists[second])} {column}.{second}, expected "
            f"as many; {REMEDY}"
        )
    return zip(lists[first], lists[second], strict=True)


def _shown(name: str | None) -> str:
    return "null" if name is None else f"{name!r}"
