"""A block of the stream with edits: what the reading task makes of rows and of those they are compared with, no Ray."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from actors import rank_stream
from actors.rank_stream import _offset_table, _read_and_tokenise, _rows_of
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.contracts import Example, RowIndex
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.row_edits import edits_of, read_with_edits
from wmtp_ray.data.rows import parse_row, problem_of
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, render_row
from wmtp_ray.errors import DataError
from wmtp_ray.plan.compared_rows import ComparedRows

TASKS = ListTasks(
    seed=3, num_train_problems=12, num_valid_problems=2, num_correct=2, num_incorrect=3, systematic_frac=0.5
)

DATA = load_config(parse_arguments(["recipe=verifiable"]), now=datetime(2026, 1, 1)).data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All rows as all.jsonl; in scarce.jsonl every second problem has lost its correct ones."""
    root = tmp_path_factory.mktemp("compared")
    train = write_list_tasks(root, TASKS).train
    lines = train.read_bytes().splitlines(keepends=True)
    rows = [parse_row(line.strip(), number, train) for number, line in enumerate(lines, start=1)]
    train_tokenizer([render_row(row) for row in rows], root / "tokenizer.model", 385)
    problems = list(dict.fromkeys(problem_of(row.task_id) for row in rows))
    scarce = [
        line
        for line, row in zip(lines, rows, strict=True)
        if not row.is_correct or problems.index(problem_of(row.task_id)) % 2
    ]
    (root / "all.jsonl").write_bytes(b"".join(lines))
    (root / "scarce.jsonl").write_bytes(b"".join(scarce))
    return root


def indexed(path: Path) -> RowIndex:
    return ensure_index(path, CodeTokenizer(path.parent / "tokenizer.model"), on_error="fail")


def examples_in(path: Path) -> list[Example]:
    tokenizer = CodeTokenizer(path.parent / "tokenizer.model")
    lines = path.read_bytes().splitlines()
    return [encode_row(parse_row(line, n, path), tokenizer, n) for n, line in enumerate(lines)]


def blocks_of(index: RowIndex, compared: ComparedRows, rows: list[int]) -> list[Example]:
    table = _offset_table(np.array(rows, dtype=np.int64), index, compared)
    source = compared.source
    tokenizer = str(Path(index.path).parent / "tokenizer.model")
    block = _read_and_tokenise(
        table, index.path, index.file_fingerprint, tokenizer, None, "nothing", source.path, source.file_fingerprint
    )
    return list(_rows_of(block))


def assert_same(found: list[Example], expected: list[Example]) -> None:
    assert [each.row_id for each in found] == [each.row_id for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.tokens_T.tolist() == other.tokens_T.tolist()
        assert one.edits is not None
        assert other.edits is not None
        assert one.edits.differs_T.tolist() == other.edits.differs_T.tolist()
        assert (one.edits.first, one.edits.correct_frac) == (other.edits.first, other.edits.correct_frac)


def test_rows_carry_the_edits_to_the_nearest_of_their_file(folder, monkeypatch):
    """Whatever the order, the block and how many are compared at once."""
    path = folder / "all.jsonl"
    index, examples = indexed(path), examples_in(path)
    compared = ComparedRows.of_run(index, None, DATA, 42)
    expected = []
    for row, own in enumerate(examples):
        others = [each for each in examples if index.problem_R[each.row_id] == index.problem_R[row] and each is not own]
        expected.append(replace(own, edits=edits_of(own, others)))
    assert_same(blocks_of(index, compared, list(range(len(index)))), expected)
    assert all(each.edits.first >= each.prompt_tokens for each in expected)
    assert {each.edits.correct_frac for each in expected} > {0.5}, "rows share prefixes with more than one other"
    tokenizer = CodeTokenizer(folder / "tokenizer.model")
    assert_same(read_with_edits(np.arange(len(index)), compared, tokenizer), expected)
    monkeypatch.setattr(rank_stream, "_ROWS_COMPARED", 3)
    order = [7, 0, 7, len(index) - 1, 3, 2, 11]
    assert_same(blocks_of(index, compared, order), [expected[row] for row in order])


def test_another_file_gives_the_rows_that_the_own_has_lost(folder):
    """A problem without correct rows has no other row in its own file; the whole file says what its bugs are."""
    path, whole = folder / "scarce.jsonl", folder / "all.jsonl"
    index, source = indexed(path), indexed(whole)
    all_edits = {}
    for each in blocks_of(source, ComparedRows.of_run(source, None, DATA, 42), list(range(len(source)))):
        all_edits[tuple(each.tokens_T.tolist())] = each
    rows = list(range(len(index)))
    own = blocks_of(index, ComparedRows.of_run(index, None, DATA, 42), rows)
    has_other = ComparedRows.of_run(index, None, DATA, 42).has_other(np.arange(len(index)))
    assert [each.edits.first >= 0 for each in own] == has_other.tolist()
    assert 0.3 < has_other.mean() < 0.9
    helped = ComparedRows.of_run(index, source, DATA, 42)
    assert helped.has_other(np.arange(len(index))).all()
    expected = [replace(all_edits[tuple(each.tokens_T.tolist())], row_id=each.row_id) for each in own]
    assert_same(blocks_of(index, helped, rows), expected)
    tokenizer = CodeTokenizer(folder / "tokenizer.model")
    assert_same(read_with_edits(np.array(rows), helped, tokenizer, told="nothing"), expected)


def test_a_compared_file_that_was_replaced_is_refused(folder):
    index, source = indexed(folder / "scarce.jsonl"), indexed(folder / "all.jsonl")
    compared = ComparedRows.of_run(index, replace(source, file_fingerprint="another"), DATA, 42)
    with pytest.raises(DataError, match=r"all.jsonl: the file was replaced"):
        blocks_of(index, compared, [0])


def test_without_compared_rows_a_block_has_no_edits(folder):
    index = indexed(folder / "all.jsonl")
    table = _offset_table(np.arange(4), index)
    block = _read_and_tokenise(table, index.path, index.file_fingerprint, str(folder / "tokenizer.model"), None)
    assert {"edits", "compared"}.isdisjoint(block.column_names)
    assert all(each.edits is None for each in _rows_of(block))
