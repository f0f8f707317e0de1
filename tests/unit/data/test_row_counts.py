"""Rows that a tokenizer's normaliser would change: refused with their lines, or left out and counted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.byte_level_shapes import write_shape
from wmtp_ray.data.index import build_index, count_tokens, ensure_index, load_built_index
from wmtp_ray.data.kept_rows import RowLimits, drop_reason
from wmtp_ray.data.row_counts import CHANGED, count_rows
from wmtp_ray.data.rows import decode_row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_prompt, read_examples, read_indexed
from wmtp_ray.errors import DataError

MakeLine = Callable[..., bytes]
SPLIT_E = "e\u0301"  # "é" as a letter and its accent
CHANGED_ROWS = (
    {"instruction": f"caf{SPLIT_E}"},
    {"output": f"x = '{SPLIT_E}'"},
    {"output": "\u212b"},
)  # the last one is the sign of the unit


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    return CodeTokenizer(write_shape(tmp_path_factory.mktemp("qwen"), "qwen"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    return CodeTokenizer(write_shape(tmp_path_factory.mktemp("llama"), "llama 3"))


@pytest.fixture
def jsonl(tmp_path: Path, line: MakeLine) -> Path:
    """Rows of two problems, a blank line between them; lines 3, 5 and 6 would be changed."""
    rows = [line(task_id="a_correct_0"), b"", *(line(task_id="b_correct_0", **each) for each in CHANGED_ROWS[:1])]
    rows += [line(task_id="c_correct_0", output="print('é')")]
    rows += [line(task_id=f"a_correct_{n}", **each) for n, each in enumerate(CHANGED_ROWS[1:], 1)]
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def test_rows_that_would_be_changed_are_refused_with_their_lines(jsonl: Path, qwen: CodeTokenizer) -> None:
    with pytest.raises(DataError, match=r"found 3 rows that .* would encode as another text") as caught:
        ensure_index(jsonl, qwen, on_error="fail")
    lines = [text.split(": ")[0].strip() for text in str(caught.value).splitlines() if text.startswith("  ")]
    assert lines == [f"{jsonl}:{number}" for number in (3, 5)] + [f"{jsonl}:6"]
    assert "data.on_error=skip" in str(caught.value)


def test_an_accent_that_opens_a_response_is_seen_with_the_prompt_before_it(qwen: CodeTokenizer, line: MakeLine) -> None:
    """Behind a newline an accent stays; behind a letter it would be composed, and the two are one text."""
    assert len(qwen.encode_pair("x\n", "\u0301")[0]) > 2
    with pytest.raises(ValueError, match=r"U\+0065 U\+0301"):
        qwen.encode_pair("x e", "\u0301")


def test_rows_that_would_be_changed_are_left_out_and_counted_when_asked(
    jsonl: Path, qwen: CodeTokenizer, line: MakeLine
) -> None:
    index = ensure_index(jsonl, qwen, on_error="skip")
    built = load_built_index(jsonl)
    assert (built.num_lines, built.num_skipped, built.num_changed) == (5, 3, 3)
    assert [error.split(": ")[0] for error in built.errors] == [f"{jsonl}:{number}" for number in (3, 5, 6)]
    assert index.problem_names == built.index.problem_names == ("a", "c")
    np.testing.assert_array_equal(index.problem_R, [0, 1])
    for column in ("offset_R", "prompt_tokens_R", "response_tokens_R", "source_R"):
        np.testing.assert_array_equal(getattr(index, column), getattr(built.index, column))
    examples = read_indexed(index, np.arange(2), qwen)
    assert [len(each.tokens_T) for each in examples] == index.num_tokens_R.tolist()
    with pytest.raises(DataError, match="found 3 malformed lines"):
        ensure_index(jsonl, qwen, on_error="fail")


def test_another_tokenizer_gets_the_rows_back(jsonl: Path, qwen: CodeTokenizer, llama: CodeTokenizer) -> None:
    ensure_index(jsonl, qwen, on_error="skip")
    assert len(ensure_index(jsonl, llama, on_error="fail")) == 5
    assert load_built_index(jsonl).num_changed == 0


def test_a_file_of_which_no_row_would_stay_is_refused(tmp_path: Path, line: MakeLine, qwen: CodeTokenizer) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(line(**CHANGED_ROWS[0]))
    with pytest.raises(DataError, match="found 1 rows"):
        ensure_index(path, qwen, on_error="skip")


def test_counts_name_the_rows_that_would_be_changed(jsonl: Path, qwen: CodeTokenizer) -> None:
    index = build_index(jsonl, on_error="fail").index
    counts = count_rows(jsonl, index.offset_R.tolist(), index.num_bytes_R.tolist(), index.is_correct_R.tolist(), qwen)
    assert (counts == CHANGED).tolist() == [[False, True, False, True, True]] * 2


def test_an_index_without_its_counts_reads_no_row_that_would_be_changed(jsonl: Path, qwen: CodeTokenizer) -> None:
    index = build_index(jsonl, on_error="fail").index
    with pytest.raises(DataError, match=r"count the tokens anew: wmtp data index"):
        read_examples(jsonl, index.offset_R.tolist(), index.num_bytes_R.tolist(), range(5), qwen)
    with pytest.raises(DataError, match="found 3 rows"):
        count_tokens(index, qwen)


def test_a_conversion_drops_rows_that_would_be_changed(line: MakeLine, qwen: CodeTokenizer) -> None:
    limits = RowLimits((3,), max_tokens=2048)
    assert drop_reason(decode_row(line(**CHANGED_ROWS[0])), qwen, limits) == "changed_by_tokenizer"
    assert drop_reason(decode_row(line()), qwen, limits) is None


def test_a_prompt_to_continue_is_encoded_in_the_tokenizers_form(qwen: CodeTokenizer) -> None:
    assert encode_prompt(SPLIT_E, "", qwen).tolist() == encode_prompt("é", "", qwen).tolist()


def test_the_fixture_is_read_as_it_was_written(jsonl: Path) -> None:
    assert SPLIT_E in json.loads(jsonl.read_bytes().splitlines()[2])["instruction"]
