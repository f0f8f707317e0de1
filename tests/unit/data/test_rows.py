import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.data import rows as rows_module
from wmtp_ray.data.rows import parse_row, problem_of, read_rows
from wmtp_ray.errors import DataError

PATH = Path("train.jsonl")
MakeLine = Callable[..., bytes]
MakeRecord = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows") / "rows.jsonl"


def message_of(line: bytes) -> str:
    with pytest.raises(DataError) as caught:
        parse_row(line, 12, PATH)
    return str(caught.value)


def test_every_field_of_a_valid_line_is_read(line: MakeLine) -> None:
    row = parse_row(line(output="x = 'é\u2028'", is_correct=False), 1, PATH)
    assert (row.instruction, row.input, row.output) == ("Add two numbers.", "Input: 1 2\nOutput: 3", "x = 'é\u2028'")
    assert (row.task_id, row.is_correct, row.source) == ("1060_A. Phone Numbers_correct_0", False, "made_up")
    assert (row.difficulty, row.has_tests, row.language, row.cf_rating) == (7, True, 3, 800)


@pytest.mark.parametrize("unknown", [{}, {"language": None, "cf_rating": None}])
def test_absent_and_null_language_and_rating_are_unknown(record: MakeRecord, unknown: dict[str, None]) -> None:
    content = record() | {"metadata": {"source": "mbpp", "difficulty": 1, "has_tests": False, **unknown}}
    row = parse_row(json.dumps(content).encode(), 1, PATH)
    assert (row.language, row.cf_rating) == (0, 0)


def test_further_keys_are_ignored(line: MakeLine) -> None:
    assert parse_row(line(split="train", metadata={"bug": "diffuse"}), 1, PATH) == parse_row(line(), 1, PATH)


@pytest.mark.parametrize("key", ["instruction", "input", "output", "task_id", "is_correct", "metadata"])
def test_a_missing_key_is_named(record: MakeRecord, key: str) -> None:
    content = record()
    del content[key]
    assert f'no key "{key}"' in message_of(json.dumps(content).encode())


@pytest.mark.parametrize("key", ["source", "difficulty", "has_tests"])
def test_a_missing_metadata_key_is_named(record: MakeRecord, key: str) -> None:
    content = record()
    metadata = content["metadata"]
    assert isinstance(metadata, dict)
    del metadata[key]
    assert f'no key "metadata.{key}"' in message_of(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("changes", "found", "expected"),
    [
        ({"is_correct": 1}, 'found 1 in "is_correct"', "expected true or false"),
        ({"is_correct": "true"}, 'found a string in "is_correct"', "expected true or false"),
        ({"output": None}, 'found null in "output"', "expected a string"),
        ({"input": ["a"]}, 'found a list in "input"', "expected a string"),
        ({"metadata": {"difficulty": True}}, 'found true in "metadata.difficulty"', "expected an integer"),
        ({"metadata": {"difficulty": 7.0}}, 'found 7.0 in "metadata.difficulty"', "expected an integer"),
        ({"metadata": {"difficulty": 2**15}}, 'found 32768 in "metadata.difficulty"', "expected -32768..32767"),
        ({"metadata": {"language": 2**7}}, 'found 128 in "metadata.language"', "expected -128..127"),
        ({"metadata": {"cf_rating": "800"}}, 'found a string in "metadata.cf_rating"', "expected an integer"),
        ({"metadata": {"has_tests": {}}}, 'found an object in "metadata.has_tests"', "expected true or false"),
    ],
)
def test_a_wrong_type_names_what_was_found_and_expected(
    line: MakeLine, changes: dict[str, object], found: str, expected: str
) -> None:
    message = message_of(line(**changes))
    assert found in message
    assert expected in message


def test_metadata_of_the_wrong_type_is_refused(record: MakeRecord) -> None:
    content = record() | {"metadata": "none"}
    assert 'found a string in "metadata", expected an object' in message_of(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"instruction": "cut', "truncated JSON"),
        (b'{"instruction": "\xff"}', "invalid UTF-8 at byte 17"),
        (b'{"instruction": "\\ud800"}', "invalid or truncated JSON"),
        (b"[1]", "found a list"),
        (b'"text"', "found a string"),
        (b"null", "found null"),
    ],
)
def test_a_line_that_is_no_object_says_where_and_what_to_do(line: bytes, found: str) -> None:
    message = message_of(line)
    assert message.startswith("train.jsonl:12: ")
    assert found in message
    assert "expected a JSON object; fix or delete the line" in message


@pytest.mark.parametrize(
    ("task_id", "problem"),
    [
        ("1060_A. Phone Numbers_correct_0", "1060_A. Phone Numbers"),
        ("brcktsrm_incorrect_17", "brcktsrm"),
        ("the_correct_answer_incorrect_3", "the_correct_answer"),
        ("an_incorrect_sum_correct_3", "an_incorrect_sum"),
        ("HumanEval/7", "HumanEval/7"),
    ],
)
def test_the_problem_is_what_precedes_the_last_solution_suffix(task_id: str, problem: str) -> None:
    assert problem_of(task_id) == problem


def write_lines(path: Path, lines: list[bytes]) -> tuple[list[int], list[int]]:
    path.write_bytes(b"\n".join(lines))
    return [sum(len(earlier) + 1 for earlier in lines[:n]) for n in range(len(lines))], [len(line) for line in lines]


def test_rows_come_back_in_the_order_asked_for(tmp_path: Path, line: MakeLine) -> None:
    path = tmp_path / "rows.jsonl"
    offsets, sizes = write_lines(path, [line(output=f"print({n})") for n in range(5)])
    order = [3, 0, 4, 0]
    rows = read_rows(path, [offsets[n] for n in order], [sizes[n] for n in order])
    assert [row.output for row in rows] == [f"print({n})" for n in order]


@settings(deadline=None)
@given(data=st.data())
def test_rows_are_the_same_however_many_are_read_at_once(data: st.DataObject, line: MakeLine, scratch: Path) -> None:
    offsets, sizes = write_lines(
        scratch, [line(output="x" * n) for n in data.draw(st.lists(st.integers(1, 300), max_size=9))]
    )
    order = data.draw(st.lists(st.integers(0, max(len(offsets) - 1, 0)), max_size=9 if offsets else 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "GAP_BYTES", data.draw(st.integers(0, 900)))
        patch.setattr(rows_module, "SPAN_BYTES", data.draw(st.integers(0, 2000)))
        rows = read_rows(scratch, [offsets[n] for n in order], [sizes[n] for n in order])
    alone = [parse_row(scratch.read_bytes()[offsets[n] : offsets[n] + sizes[n]], 1, PATH) for n in order]
    assert rows == alone


def test_a_file_replaced_under_its_index_is_refused(tmp_path: Path, line: MakeLine) -> None:
    path = tmp_path / "rows.jsonl"
    offsets, sizes = write_lines(path, [line(), line(output="second")])
    write_lines(path, [line(output="another length"), line(output="second")])
    with pytest.raises(DataError, match=f"no whole row at byte {offsets[1]} any more.*wmtp data index"):
        read_rows(path, offsets[1:], sizes[1:])


def test_a_file_cut_short_is_refused(tmp_path: Path, line: MakeLine) -> None:
    path = tmp_path / "rows.jsonl"
    offsets, sizes = write_lines(path, [line()])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=f"ends after {sizes[0] - 10} of its {sizes[0]} bytes"):
        read_rows(path, offsets, sizes)


def test_a_line_that_grew_is_refused(tmp_path: Path, line: MakeLine) -> None:
    path = tmp_path / "rows.jsonl"
    offsets, sizes = write_lines(path, [line()])
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="the line goes on"):
        read_rows(path, offsets, sizes)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "absent.jsonl", [0], [1])
