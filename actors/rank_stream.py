"""The stream of one rank: its part of `plan[start_step:]`, through Ray Data, in plan order.

Offset table -> read and tokenise (Ray Data tasks) -> regroup into the planned micro-batches. Ray Data has no seek, so
resuming means building the stream from the plan's tail; it never scans the file. A thread keeps a few steps ready and
every wait has a deadline.
"""

import queue
import threading
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray

from wmtp_ray.contracts import Example, RowIndex, TokenBatch
from wmtp_ray.data.collate import collate
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples
from wmtp_ray.errors import DataError, WmtpError
from wmtp_ray.plan.run_plan import PlannedBatch

_STEPS_READY = 2
_READERS = 2  # tasks at once: without a limit Ray Data starts a process for each tenth of a CPU
_END = None


class RankStream:
    """Iterates over steps: each item is the list of this rank's micro-batches."""

    def __init__(
        self,
        planned: list[PlannedBatch],
        index: RowIndex,
        tokenizer_path: Path,
        *,
        rows_per_block: int,
        deadline_s: float,
    ) -> None:
        self._planned = planned
        self._examples = _examples_in_order(planned, index, tokenizer_path, rows_per_block)
        self._deadline_s = deadline_s
        self._ready: queue.Queue[list[TokenBatch] | Exception | None] = queue.Queue(maxsize=_STEPS_READY)
        self._thread = threading.Thread(target=self._fill, name="rank-stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[TokenBatch]]:
        return self

    def __next__(self) -> list[TokenBatch]:
        try:
            step = self._ready.get(timeout=self._deadline_s)
        except queue.Empty:
            raise DataError(
                f"No rows came within {self._deadline_s:.0f} s. Ray Data may have no CPU left: lower "
                "cluster.cpus_per_worker or raise cluster.num_cpus; or raise deadlines.data_s for a slow disk."
            ) from None
        if step is _END:
            raise StopIteration
        if isinstance(step, Exception):
            raise step
        return step

    def _fill(self) -> None:
        """Thread: put every step, then the end; an error goes the same way, to be raised where it is waited for."""
        try:
            for _, group in groupby(self._planned, key=lambda batch: batch.step):
                self._ready.put([self._collate(planned) for planned in group])
            self._ready.put(_END)
        except Exception as error:
            self._ready.put(error)

    def _collate(self, planned: PlannedBatch) -> TokenBatch:
        examples = list(islice(self._examples, len(planned.row_ids_N)))
        assert [e.row_id for e in examples] == planned.row_ids_N.tolist(), "rows came in another order than planned"
        return collate(examples, step=planned.step, micro_step=planned.micro_step)


def _examples_in_order(
    planned: list[PlannedBatch], index: RowIndex, tokenizer_path: Path, rows_per_block: int
) -> Iterator[Example]:
    """Build the Ray Data pipeline and iterate over its rows; lazily, so that nothing runs before the first row."""
    if not planned:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    row_ids = np.concatenate([batch.row_ids_N for batch in planned])
    tables = [
        _offset_table(row_ids[start : start + rows_per_block], index)
        for start in range(0, len(row_ids), rows_per_block)
    ]
    examples = ray.data.from_arrow(tables).map_batches(
        _read_and_tokenise,  # type: ignore[arg-type]  # its parameters are typed after batch_format
        fn_args=(index.path, str(tokenizer_path)),
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.1,
        concurrency=_READERS,
    )
    for block in examples.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        yield from _rows_of(block)


def _offset_table(row_ids: np.ndarray, index: RowIndex) -> pa.Table:
    return pa.table({"row_id": row_ids, "offset": index.offset_R[row_ids], "num_bytes": index.num_bytes_R[row_ids]})


def _read_and_tokenise(table: pa.Table, path: str, tokenizer_path: str) -> pa.Table:
    """Ray Data task: the rows of one block, read at their offsets and tokenised, in the same order.

    Ray Data would hand on an error of ours as text inside one of its own: it travels as a row instead.
    """
    try:
        examples = read_examples(
            Path(path),
            table["offset"].to_pylist(),
            table["num_bytes"].to_pylist(),
            table["row_id"].to_pylist(),
            _tokenizer(tokenizer_path),
        )
    except WmtpError as error:
        return _block_of([], str(error))
    return _block_of(examples, "")


def _block_of(examples: list[Example], error: str) -> pa.Table:
    """Examples as columns; an error is a last row without tokens."""
    num_errors = int(bool(error))
    return pa.table(
        {
            "row_id": pa.array([e.row_id for e in examples] + [-1] * num_errors, pa.int64()),
            "tokens": pa.array([e.tokens_T for e in examples] + [[]] * num_errors, pa.list_(pa.int32())),
            "prompt_tokens": pa.array([e.prompt_tokens for e in examples] + [0] * num_errors, pa.int32()),
            "is_correct": pa.array([e.is_correct for e in examples] + [False] * num_errors, pa.bool_()),
            "error": pa.array([""] * len(examples) + [error] * num_errors, pa.string()),
        }
    )


@lru_cache(maxsize=2)
def _tokenizer(path: str) -> CodeTokenizer:
    """Load the tokenizer once a process."""
    return CodeTokenizer(Path(path))


def _rows_of(block: pa.Table) -> Iterator[Example]:
    """Raises DataError where the block carries one."""
    tokens = block["tokens"].combine_chunks()
    for row in range(block.num_rows):
        if error := block["error"][row].as_py():
            raise DataError(error)
        yield Example(
            row_id=block["row_id"][row].as_py(),
            tokens_T=tokens[row].values.to_numpy(zero_copy_only=False),
            prompt_tokens=block["prompt_tokens"][row].as_py(),
            is_correct=block["is_correct"][row].as_py(),
        )
