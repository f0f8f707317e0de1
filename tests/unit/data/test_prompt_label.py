"""A prompt that names a label: one line, the response's tokens untouched, exact counts for any tokenizer of ours."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.byte_level_tokenizer import write_byte_level
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import build_index
from wmtp_ray.data.prompt_label import label_section, told_in_training, told_label, told_when_asked
from wmtp_ray.data.rows import Row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, read_examples, render_prompt
from wmtp_ray.data.told_index import line_tokens, told_index
from wmtp_ray.errors import ConfigError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def row_of(output: str, *, is_correct: bool, instruction: str = "Add.", input: str = "") -> Row:
    return Row(instruction, input, output, "sum_correct_0", is_correct, "made_up", 1, True, 3, 0, "")


@pytest.fixture(params=["sentencepiece", "byte_level"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: CodeTokenizer, tmp_path: Path) -> CodeTokenizer:
    return tokenizer if request.param == "sentencepiece" else CodeTokenizer(write_byte_level(tmp_path))


def test_the_line_stands_before_the_response_and_is_a_comment_of_python() -> None:
    head = "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n"
    assert render_prompt("Add.", "1 2", "correct") == head + "### Label: correct\n\n### Response:\n"
    assert render_prompt("Add.", "1 2", None) == render_prompt("Add.", "1 2") == head + "### Response:\n"
    compile(label_section("incorrect") + "x = 1", "prompt", "exec")
    assert label_section(None) == ""


@pytest.mark.parametrize(
    ("condition", "training", "asked"),
    [("none", (None, None), (None, None)), ("label", ("correct", "incorrect"), ("correct", "correct"))],
)
def test_training_tells_every_row_its_own_label_and_an_evaluation_asks_for_correct(condition, training, asked) -> None:
    for told, labels in ((told_in_training(condition), training), (told_when_asked(condition), asked)):
        assert tuple(told_label(told, is_correct=each) for each in (True, False)) == labels


def test_the_response_has_the_same_tokens_whatever_the_prompt_tells(any_tokenizer: CodeTokenizer) -> None:
    for output in ("    return 1\n", "x = {1: 2}", "", "\n\n#"):
        row = row_of(output, is_correct=False)
        plain, told = encode_row(row, any_tokenizer, 0), encode_row(row, any_tokenizer, 0, "own")
        assert told.tokens_T[told.prompt_tokens :].tolist() == plain.tokens_T[plain.prompt_tokens :].tolist()
        text = render_prompt("Add.", "", "incorrect") + output
        assert told.tokens_T.tolist()[1:-1] == any_tokenizer.encode(text)


@given(instruction=TEXTS, input=TEXTS, output=TEXTS, is_correct=st.booleans())
def test_counts_are_exact_for_a_sentencepiece_model(
    tokenizer: CodeTokenizer, instruction: str, input: str, output: str, is_correct: bool
) -> None:
    _assert_exact(tokenizer, row_of(output, is_correct=is_correct, instruction=instruction, input=input))


@given(instruction=TEXTS, input=TEXTS, output=TEXTS, is_correct=st.booleans())
def test_counts_are_exact_for_a_byte_level_model(
    byte_level: CodeTokenizer, instruction: str, input: str, output: str, is_correct: bool
) -> None:
    _assert_exact(byte_level, row_of(output, is_correct=is_correct, instruction=instruction, input=input))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    return CodeTokenizer(write_byte_level(tmp_path_factory.mktemp("bytes")))


def _assert_exact(tokenizer: CodeTokenizer, row: Row) -> None:
    plain, told = encode_row(row, tokenizer, 0), encode_row(row, tokenizer, 0, "own")
    added = line_tokens(tokenizer, "correct" if row.is_correct else "incorrect")
    assert len(told.tokens_T) == len(plain.tokens_T) + added
    assert told.prompt_tokens == plain.prompt_tokens + added


@pytest.mark.parametrize("told", ["nothing", "own", "correct"])
def test_the_told_index_counts_what_is_read(
    tmp_path: Path, any_tokenizer: CodeTokenizer, line: Callable[..., bytes], told
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line(output=f"print({n})\n" * (n + 1), is_correct=n % 2 == 0) for n in range(6)))
    index = build_index(path, on_error="fail").index
    rows = list(range(6))
    offsets = index.offset_R.tolist(), index.num_bytes_R.tolist(), rows, any_tokenizer
    plain = read_examples(path, *offsets)
    counted = replace(
        index,
        prompt_tokens_R=np.array([each.prompt_tokens for each in plain], np.int32),
        response_tokens_R=np.array([len(each.tokens_T) - each.prompt_tokens for each in plain], np.int32),
    )
    found = told_index(counted, told, any_tokenizer)
    examples = read_examples(path, *offsets, told=told)
    assert found.prompt_tokens_R.tolist() == [each.prompt_tokens for each in examples]
    assert found.num_tokens_R.tolist() == [len(each.tokens_T) for each in examples]
    assert (found.file_fingerprint, found.tokenizer_hash) == (index.file_fingerprint, index.tokenizer_hash)


def test_uncounted_rows_stay_uncounted(tmp_path: Path, tokenizer: CodeTokenizer, line: Callable[..., bytes]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line())
    index: RowIndex = build_index(path, on_error="fail").index
    assert told_index(index, "own", tokenizer).prompt_tokens_R.tolist() == [-1]


def test_a_tokenizer_that_merges_the_line_with_what_surrounds_it_is_refused(
    tmp_path: Path, train_tokenizer: Callable[..., Path]
) -> None:
    """It has a piece that spans the place where the line goes, for prompts that end in a 2."""
    symbols = ("2\n\n###▁Response",)
    path = train_tokenizer(tmp_path / "tokenizer.model", 390, symbols)
    with pytest.raises(ConfigError, match=r"data.condition=label: .*adds \d+ to \d+ tokens.*data.condition=none"):
        line_tokens(CodeTokenizer(path), "correct")
