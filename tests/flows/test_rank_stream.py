"""The stream of a rank: planned rows in planned order, from any step, and a clear word when the file is another one."""

import json
import shutil
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest

from actors.rank_stream import RankStream, _offset_table, _read_and_tokenise, _rows_of
from tests.flows.world import NUM_STEPS, configured
from wmtp_ray.config.schema import ClusterConfig, RunConfig
from wmtp_ray.contracts import RowIndex, TokenBatch
from wmtp_ray.data.index import build_index
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples
from wmtp_ray.errors import DataError
from wmtp_ray.flows.run.prepare import Prepared, prepare
from wmtp_ray.plan.run_plan import PlannedBatch, rank_batches

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def config(world: Path, cluster: ClusterConfig) -> RunConfig:
    copy = shutil.copy(world / "datasets_local_small" / "list_tasks" / "train.jsonl", world / "stream.jsonl")
    return configured(world, "stream", f"data.train_file={copy}", "train.micro_batch_tokens=256")


@pytest.fixture(scope="module")
def prepared(config: RunConfig) -> Prepared:
    return prepare(config)


def stream(config: RunConfig, prepared: Prepared, *, rank: int, num_ranks: int, start_step: int) -> RankStream:
    planned = rank_batches(
        prepared.plans[2],
        prepared.index,
        rank=rank,
        num_ranks=num_ranks,
        start_step=start_step,
        micro_batch_tokens=config.train.micro_batch_tokens,
    )
    return RankStream(
        list(planned), prepared.index, config.tokenizer.path, rows_per_block=5, deadline_s=120.0, run_dir=None
    )


def tokens_of(index: RowIndex, row: int, tokenizer: CodeTokenizer) -> list[int]:
    [example] = read_examples(
        Path(index.path), [int(index.offset_R[row])], [int(index.num_bytes_R[row])], [row], tokenizer
    )
    return example.tokens_T.tolist()


def same(a: TokenBatch, b: TokenBatch) -> bool:
    return (a.step, a.micro_step) == (b.step, b.micro_step) and bool(
        np.array_equal(a.row_ids_M, b.row_ids_M) and np.array_equal(a.tokens_BT, b.tokens_BT)
    )


def test_two_ranks_read_every_planned_row_once_in_order_and_resume_anywhere(
    config: RunConfig, prepared: Prepared
) -> None:
    tokenizer = CodeTokenizer(config.tokenizer.path)
    ranks = [list(stream(config, prepared, rank=rank, num_ranks=2, start_step=0)) for rank in (0, 1)]
    assert [len(steps) for steps in ranks] == [NUM_STEPS, NUM_STEPS]
    for step in range(NUM_STEPS):
        batches = [batch for steps in ranks for batch in steps[step]]
        assert {batch.step for batch in batches} == {step}
        rows = np.concatenate([batch.row_ids_M for batch in batches]).tolist()
        assert sorted(rows) == sorted(prepared.plans[2].step_row_ids(step).tolist())
        for batch in batches:
            expected = [token for row in batch.row_ids_M for token in tokens_of(prepared.index, int(row), tokenizer)]
            assert batch.tokens_BT[0].tolist() == expected
    resumed = list(stream(config, prepared, rank=1, num_ranks=2, start_step=9))
    assert len(resumed) == NUM_STEPS - 9
    for again, before in zip(resumed, ranks[1][9:], strict=True):
        assert all(same(a, b) for a, b in zip(again, before, strict=True))


def test_an_endless_plan_streams_chapter_by_chapter(config: RunConfig, prepared: Prepared) -> None:
    """64 blocks of a row are a chapter: 20 steps of 8 rows reach into the third, of a plan that has no end."""
    rows = prepared.plans[2].row_ids_P

    def planned() -> Iterator[PlannedBatch]:
        for step in count():
            yield PlannedBatch(step, 0, rows[np.arange(8 * step, 8 * step + 8) % len(rows)])

    tokenizer = CodeTokenizer(config.tokenizer.path)
    steps = RankStream(
        planned(), prepared.index, config.tokenizer.path, rows_per_block=1, deadline_s=120.0, run_dir=None
    )
    for expected, [batch] in islice(zip(planned(), steps, strict=False), 20):
        assert (batch.step, batch.row_ids_M.tolist()) == (expected.step, expected.row_ids_N.tolist())
        row = int(expected.row_ids_N[0])
        assert batch.tokens_BT[0, : batch.document_lengths_M[0]].tolist() == tokens_of(prepared.index, row, tokenizer)


def test_labels_are_those_of_the_index(config: RunConfig, tmp_path: Path) -> None:
    """Rows of an earlier generation carry none; the task of a block is called as Ray Data calls it."""
    lines = config.data.train_file.read_bytes().splitlines()[:6]
    labels = [bool(row % 2) for row in range(len(lines))]
    keys = ("instruction", "input", "output", "task_id")
    unlabelled = [{key: json.loads(line)[key] for key in keys} for line in lines]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    facts = [{"is_correct": label, "difficulty": 1, "problem_id": row} for row, label in enumerate(labels)]
    (tmp_path / "train_metadata.json").write_text(json.dumps({"metadata": facts}))
    index = build_index(path, on_error="fail").index
    table = _offset_table(np.arange(6), index)
    block = _read_and_tokenise(table, str(path), index.file_fingerprint, str(config.tokenizer.path), None)
    assert [example.is_correct for example in _rows_of(block)] == labels


def test_whole_rows_of_another_file_are_refused_and_a_touched_file_is_not(config: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(config.data.train_file.read_bytes())
    index = build_index(path, on_error="fail").index

    def read() -> list[int]:
        arguments = (str(path), index.file_fingerprint, str(config.tokenizer.path), None)
        return [
            example.row_id for example in _rows_of(_read_and_tokenise(_offset_table(np.arange(6), index), *arguments))
        ]

    assert read() == list(range(6))
    path.touch()
    assert read() == list(range(6))
    other = tmp_path / "other.jsonl"
    other.write_bytes(path.read_bytes().replace(b"list", b"tsil"))
    other.replace(path)
    with pytest.raises(DataError, match=r"rows\.jsonl: the file was replaced while the run was reading it"):
        read()
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        read()


def test_a_file_replaced_mid_run_is_named(config: RunConfig, prepared: Prepared) -> None:
    config.data.train_file.write_bytes(config.data.train_file.read_bytes()[7:] + b"\n" * 7)
    with pytest.raises(DataError, match=r"stream\.jsonl"):
        list(stream(config, prepared, rank=0, num_ranks=1, start_step=0))
