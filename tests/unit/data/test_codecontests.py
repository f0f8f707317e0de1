import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.code_contests import CPP, PYTHON_2, PYTHON_3, cases_of, record_of, solutions_of, write_parquet
from wmtp_ray.data.codecontests import (
    Problem,
    num_row_groups,
    problem_line,
    read_problems,
    rows_of,
    unique_names,
)
from wmtp_ray.data.kept_rows import RowLimits, keep_rows
from wmtp_ray.data.rows import problem_of
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
SAMPLE = SHARED / "codecontests_sample"
PYTHON = RowLimits(languages=(PYTHON_2, PYTHON_3), max_tokens=2048)


def read(path: Path, *records: dict[str, Any], row_group_size: int = 1000) -> list[Problem]:
    write_parquet(path, records, row_group_size)
    return [problem for group in range(num_row_groups(path)) for problem in read_problems(path, group)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "train-00000-of-00001.parquet"


def test_a_row_shows_two_public_tests_at_most(source: Path) -> None:
    tests = [("1 2\n", "3\n"), ("4 5\n", "9\n"), ("hidden\n", "hidden\n")]
    problems = read(source, *(record_of(f"p{n}", public_tests=cases_of(*tests[:n])) for n in range(4)))
    shown = [next(rows_of(problem)).input for problem in problems]
    assert shown[0] == ""
    assert shown[1] == "Input: 1 2\n\nOutput: 3\n"
    assert shown[2] == shown[3] == "Input: 1 2\n\nOutput: 3\n\n\nInput: 4 5\n\nOutput: 9\n"


def test_the_number_of_a_row_counts_the_solutions_that_are_not_kept(source: Path, tokenizer: CodeTokenizer) -> None:
    [problem] = read(
        source,
        record_of(
            "1060_A. Phone Numbers",
            solutions=solutions_of((CPP, "int main"), (PYTHON_3, "a = 1"), (PYTHON_2, "print 1")),
            incorrect_solutions=solutions_of((PYTHON_3, " \n"), (PYTHON_3, "a = 2")),
        ),
    )
    kept = keep_rows(rows_of(problem), tokenizer, PYTHON)
    records = [json.loads(line) for line in kept.lines]
    assert [(record["task_id"], record["is_correct"], record["output"]) for record in records] == [
        ("1060_A. Phone Numbers_correct_1", True, "a = 1"),
        ("1060_A. Phone Numbers_correct_2", True, "print 1"),
        ("1060_A. Phone Numbers_incorrect_1", False, "a = 2"),
    ]
    assert [record["metadata"]["language"] for record in records] == [PYTHON_3, PYTHON_2, PYTHON_3]
    assert records[0]["instruction"] == "Solve 1060_A. Phone Numbers.\n"
    assert kept.counts.dropped == {"language": 1, "empty": 1}
    assert kept.counts.rows_by_language == {"python3": 2, "python2": 1}


def test_metadata_names_contest_and_rating_only_where_known(source: Path) -> None:
    known, unknown = read(source, record_of("a", source=5), record_of("b", source=0, cf_rating=0))
    assert [(row.source, row.contest, row.cf_rating) for row in rows_of(known)] == [
        ("code_contests", "atcoder", 800)
    ] * 2
    assert [(row.contest, row.cf_rating) for row in rows_of(unknown)] == [("", 0)] * 2


def test_every_site_has_the_hubs_number(source: Path) -> None:
    problems = read(source, *(record_of(f"p{code}", source=code) for code in range(7)))
    names = ["", "codechef", "codeforces", "hackerearth", "codejam", "atcoder", "aizu"]
    assert [problem.contest for problem in problems] == names


def test_a_problem_needs_neither_incorrect_solutions_nor_tests(source: Path) -> None:
    nothing = {name: cases_of() for name in ("public_tests", "private_tests", "generated_tests")}
    [problem] = read(source, record_of("comm3", incorrect_solutions=solutions_of(), **nothing))
    [row] = rows_of(problem)
    assert (row.is_correct, row.has_tests, row.input) == (True, False, "")


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip))
def test_the_problem_of_a_row_is_its_name_whatever_the_name(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    source = tmp_path_factory.mktemp("names") / "train-0.parquet"
    [problem] = read(source, record_of(name))
    assert [problem_of(row.task_id) for row in rows_of(problem)] == [name, name]
    assert json.loads(problem_line(problem))["name"] == name


def test_names_that_imitate_a_solution_suffix_are_kept_whole(source: Path) -> None:
    [problem] = read(source, record_of("日本_correct_0 ё.x"))
    assert {problem_of(row.task_id) for row in rows_of(problem)} == {"日本_correct_0 ё.x"}


def test_an_evaluation_problem_has_all_tests_and_limits_and_no_solutions(source: Path) -> None:
    problems = read(
        source,
        record_of("a", time_limit={"seconds": 1, "nanos": 500_000_000}, input_file="in.txt", output_file="out.txt"),
        record_of("b", time_limit=None, memory_limit_bytes=0, source=0, cf_rating=0, is_description_translated=True),
    )
    first, second = (json.loads(problem_line(problem)) for problem in problems)
    assert first["public_tests"] == [{"input": "1\n", "output": "2\n"}]
    assert first["private_tests"] == [{"input": "3\n", "output": "4\n"}]
    assert [test["input"] for test in first["generated_tests"]] == ["5\n", "7\n"]
    limits = ("time_limit_s", "memory_limit_bytes", "contest", "cf_rating", "input_file", "output_file")
    assert [first[key] for key in limits] == [1.5, 256_000_000, "codeforces", 800, "in.txt", "out.txt"]
    assert [second[key] for key in limits] == [None] * 6
    assert (first["is_description_translated"], second["is_description_translated"]) == (False, True)
    assert not any("solution" in key for key in first)


@pytest.mark.parametrize("row_group_size", [1, 2, 7])
def test_problems_come_in_the_order_of_the_source(source: Path, row_group_size: int) -> None:
    names = [f"p{n}" for n in range(7)]
    problems = read(source, *(record_of(name) for name in names), row_group_size=row_group_size)
    assert [problem.name for problem in problems] == names


def test_missing_and_reshaped_columns_are_named(source: Path) -> None:
    write_parquet(source, [record_of("a")])
    table = pq.read_table(source).drop_columns(["cf_rating"])
    pairs = pa.array([[{"input": "1", "output": "2"}]])
    table = table.set_column(table.schema.get_field_index("public_tests"), "public_tests", pairs)
    pq.write_table(table, source)
    with pytest.raises(DataError, match=r"public_tests \(list<.*cf_rating \(absent, expected int64\)"):
        num_row_groups(source)


def test_wider_lists_and_strings_are_the_same_shape(source: Path) -> None:
    write_parquet(source, [record_of("a")])
    table = pq.read_table(source)
    wide = pa.struct([("input", pa.large_list(pa.large_string())), ("output", pa.large_list(pa.large_string()))])
    column = table.schema.get_field_index("public_tests")
    pq.write_table(table.set_column(column, "public_tests", table["public_tests"].cast(wide)), source)
    assert next(read_problems(source, 0)).public_tests[0].output == "2\n"


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PAR1" + b"\0" * 40 + b"PAR1"]
)
def test_a_file_that_is_no_parquet_is_named(source: Path, content: bytes) -> None:
    source.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000-of-00001\.parquet: found a torn or foreign file"):
        num_row_groups(source)


NO_TESTS = {"input": None, "output": []}
NO_SOLUTIONS = {"language": [3], "solution": None}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("name", None, "problem 1 of row group 0, counted from 0: found null in name"),
        ("name", " \n", r"problem 1 of row group 0, counted from 0: found ' \\n' in name"),
        *((column, None, f"problem 'odd': found null in {column},") for column in ("public_tests", "private_tests")),
        *((column, None, f"problem 'odd': found null in {column},") for column in ("generated_tests", "solutions")),
        ("incorrect_solutions", None, "problem 'odd': found null in incorrect_solutions,"),
        ("private_tests", NO_TESTS, "problem 'odd': found null in private_tests.input"),
        ("solutions", NO_SOLUTIONS, "problem 'odd': found null in solutions.solution"),
        (
            "public_tests",
            {"input": ["1"], "output": []},
            "problem 'odd': found 1 public_tests.input and 0 public_tests.output",
        ),
        (
            "private_tests",
            {"input": ["1", None], "output": ["", ""]},
            r"problem 'odd': found null in private_tests.input\[1\]",
        ),
        (
            "generated_tests",
            {"input": ["1"], "output": [None]},
            r"problem 'odd': found null in generated_tests.output\[0\]",
        ),
        ("difficulty", 40_000, "problem 'odd': found 40000 in difficulty, expected -32768..32767 or null"),
        ("cf_rating", -40_000, "problem 'odd': found -40000 in cf_rating"),
    ],
)
def test_what_cannot_be_a_problem_is_refused_with_problem_and_field(
    source: Path, column: str, value: object, said: str
) -> None:
    with pytest.raises(DataError, match=f"train-00000-of-00001.parquet: {said}.*fix the record or leave it out"):
        read(source, record_of("before"), record_of("odd") | {column: value})


def test_a_null_that_means_unknown_is_read_as_such(source: Path) -> None:
    nulls = ("description", "source", "difficulty", "cf_rating", "is_description_translated", "time_limit")
    nulls = (*nulls, "memory_limit_bytes", "input_file", "output_file")
    [problem, timed] = read(
        source,
        record_of("a", **dict.fromkeys(nulls), solutions=solutions_of((None, "print(1)"), (PYTHON_3, None))),
        record_of("b", time_limit={"seconds": 3, "nanos": None}),
    )
    assert (problem.description, problem.contest, problem.difficulty, problem.cf_rating) == ("", "", 0, 0)
    limits = (problem.time_limit_s, problem.memory_limit_bytes, problem.input_file, problem.output_file)
    assert limits == (None,) * 4
    assert problem.is_description_translated is False
    assert [(each.language, each.program) for each in problem.solutions] == [(0, "print(1)"), (PYTHON_3, "")]
    assert timed.time_limit_s == 3.0


def test_text_that_is_no_utf_8_is_refused_with_its_place(source: Path) -> None:
    write_parquet(source, [record_of("a"), record_of("b")])
    table = pq.read_table(source)
    broken = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("description"), "description", broken), source)
    with pytest.raises(DataError, match="problem 1 of row group 0: found text that is not UTF-8"):
        list(read_problems(source, 0))


def test_names_that_come_again_are_numbered_and_stay_different() -> None:
    assert unique_names(["a", "b", "a", "a (2)", "a", None, None]) == ["a", "b", "a (3)", "a (2)", "a (4)", None, None]


@given(names=st.lists(st.sampled_from(["a", "a (2)", "a (3)", "b", "a (2) (2)"]), max_size=12))
def test_no_two_problems_have_one_name(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    firsts = [n for n, name in enumerate(names) if name not in names[:n]]
    assert [unique[n] for n in firsts] == [names[n] for n in firsts], "who came first keeps the name"


@pytest.mark.skipif(not SAMPLE.exists(), reason="the shared sample is not beside this checkout")
def test_the_sample_of_the_real_data_set_gives_exactly_its_rows(source: Path) -> None:
    """2048 tokens of the tokenizer beside it leave out the four solutions that the sample leaves out."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(SAMPLE.glob("train_*.json"))]
    tokenizer = CodeTokenizer(SHARED / "tokenizer" / "tokenizer.model.v1")
    kept = [keep_rows(rows_of(problem), tokenizer, PYTHON) for problem in read(source, *records, row_group_size=4)]
    rows = [json.loads(line) for each in kept for line in each.lines]
    for row in rows:
        assert row["metadata"].pop("language") in PYTHON.languages
        assert row["metadata"].pop("contest") in ("codechef", "codeforces")
        row["metadata"].pop("cf_rating", None)
    expected = [json.loads(line) for line in (SAMPLE / "alpaca.jsonl").read_bytes().splitlines()]
    assert rows == expected
    assert sum(each.counts.dropped.get("too_long", 0) for each in kept) == 4
