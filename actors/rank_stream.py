"""The stream of one rank: its part of `plan[start_step:]`, through Ray Data, in plan order.

Offset table -> read and tokenise (Ray Data tasks) -> regroup into the planned micro-batches. Ray Data has no seek, so
resuming means building the stream from the plan's tail; it never scans the file. A thread keeps a few steps ready and
every wait has a deadline.

The plan's tail is taken chapter by chapter, whole steps of some thousand rows, each a Ray Data execution of its own:

    steps   0 1 2 3 | 4 5 6 7 | 8 9 ...     the first batch waits for the first chapter's first block, not for tables
    blocks  # # # # | # # # # | # # ...     of the whole plan; and what an execution remembers ends with its chapter

So neither the start nor the memory of a rank depends on how long the run is.
"""

import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.stalls import enter_run, report_stall
from wmtp_ray.config.data import Template
from wmtp_ray.contracts import Example, RowEdits, RowIndex, TokenBatch
from wmtp_ray.data.collate import collate
from wmtp_ray.data.index_file import file_fingerprint
from wmtp_ray.data.prompt_label import Told
from wmtp_ray.data.row_edits import with_edits_of
from wmtp_ray.data.tokenizer import CodeTokenizer, read_examples
from wmtp_ray.errors import DataError, WmtpError
from wmtp_ray.plan.compared_rows import ComparedRows
from wmtp_ray.plan.run_plan import PlannedBatch
from wmtp_ray.preflight.needed_resources import DATA_TASK_CPUS

_STEPS_READY = 2
_BLOCKS_PER_CHAPTER = 64  # an execution takes a fraction of a second to start; its blocks wait in the object store
_READERS = 2  # tasks at once: without a limit Ray Data starts a process for each tenth of a CPU
_END = None

_PLACES = ("offset", "num_bytes", "row_id", "is_correct")  # of a row in its file
_COMPARED, _EDITS = "compared", "edits"  # columns that are there where rows are compared
_ROWS_COMPARED = 64  # at once: with what they are compared with they are in memory together

_NO_EXAMPLE = Example(row_id=-1, tokens_T=np.empty(0, np.int32), prompt_tokens=0, is_correct=False)

PlannedStep = list[PlannedBatch]


class RankStream:
    """Iterates over steps: each item is the list of this rank's micro-batches.

    `planned` is read as it is needed. The labels are the index's; rows need not carry their own. `waited_s` adds up how
    long the rank has waited for its steps. Processes that read are recorded in `run_dir`; None: not part of a run. With
    `compared` every row carries its edits. `told` says what prompts tell of the rows' labels; `template` is that of the
    rows.
    """

    def __init__(
        self,
        planned: Iterable[PlannedBatch],
        index: RowIndex,
        tokenizer_path: Path,
        *,
        rows_per_block: int,
        deadline_s: float,
        run_dir: Path | None,
        compared: ComparedRows | None = None,
        told: Told = "nothing",
        template: Template = "plain",
    ) -> None:
        self._planned = planned
        self._index = index
        self._tokenizer_path = tokenizer_path
        self._rows_per_block = rows_per_block
        self._deadline_s = deadline_s
        self._run_dir = run_dir
        self._compared = compared
        self._told = told
        self._template = template
        self._steps_given = 0
        self.waited_s = 0.0
        self._ready: queue.Queue[list[TokenBatch] | Exception | None] = queue.Queue(maxsize=_STEPS_READY)
        self._thread = threading.Thread(target=self._fill, name="rank-stream", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[TokenBatch]]:
        return self

    def __next__(self) -> list[TokenBatch]:
        asked_s = time.perf_counter()
        try:
            step = self._ready.get(timeout=self._deadline_s)
        except queue.Empty:
            raise self._nothing_came() from None
        self.waited_s += time.perf_counter() - asked_s
        self._steps_given += 1
        if step is _END:
            raise StopIteration
        if isinstance(step, Exception):
            raise step
        return step

    def _nothing_came(self) -> DataError:
        what = (
            f"No rows of {self._index.path} came within {self._deadline_s:.0f} s (deadlines.data_s), behind the "
            f"{self._steps_given} steps that this start of the rank was given"
        )
        if self._run_dir is not None:
            report_stall(self._run_dir, what)
        return DataError(
            f"{what}. Ray Data may have no CPU left: lower cluster.cpus_per_worker or raise cluster.num_cpus; or raise "
            "deadlines.data_s for a slow disk"
        )

    def _fill(self) -> None:
        """Thread: put every step, then the end; an error goes the same way, to be raised where it is waited for."""
        try:
            for chapter in _chapters(self._planned, _BLOCKS_PER_CHAPTER * self._rows_per_block):
                examples = self._examples_of(chapter)
                for step in chapter:
                    self._ready.put([_collate(planned, examples) for planned in step])
            self._ready.put(_END)
        except Exception as error:
            self._ready.put(error)

    def _examples_of(self, chapter: list[PlannedStep]) -> Iterator[Example]:
        row_ids, size = np.concatenate([each.row_ids_N for step in chapter for each in step]), self._rows_per_block
        starts = range(0, len(row_ids), size)
        tables = [_offset_table(row_ids[start : start + size], self._index, self._compared) for start in starts]
        source = (self._index.path, self._index.file_fingerprint)
        others = self._compared.source if self._compared is not None else self._index
        reading = (
            str(self._tokenizer_path),
            self._run_dir,
            self._told,
            others.path,
            others.file_fingerprint,
            self._template,
        )
        for block in _tokenised(tables, (*source, *reading)):
            yield from _rows_of(block)


def _chapters(planned: Iterable[PlannedBatch], num_rows: int) -> Iterator[list[PlannedStep]]:
    """Cut a plan behind each step that reaches `num_rows`: steps of 3, 3 and 3 rows, cut at 5 -> steps [0, 1], [2]."""
    chapter: list[PlannedStep] = []
    rows = 0
    for _, batches in groupby(planned, key=lambda batch: batch.step):
        chapter.append(list(batches))
        rows += sum(len(batch.row_ids_N) for batch in chapter[-1])
        if rows >= num_rows:
            yield chapter
            chapter, rows = [], 0
    if chapter:
        yield chapter


def _collate(planned: PlannedBatch, examples: Iterator[Example]) -> TokenBatch:
    rows = list(islice(examples, len(planned.row_ids_N)))
    assert [row.row_id for row in rows] == planned.row_ids_N.tolist(), "rows came in another order than planned"
    return collate(rows, step=planned.step, micro_step=planned.micro_step)


def _tokenised(tables: list[pa.Table], arguments: tuple[Any, ...]) -> Iterator[pa.Table]:
    """Run one Ray Data execution of `_read_and_tokenise` over offset tables; a block for each, in their order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    tokenised = ray.data.from_blocks(tables).map_batches(
        _read_and_tokenise,
        fn_args=arguments,
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=DATA_TASK_CPUS,
        compute=ray.data.TaskPoolStrategy(size=min(_READERS, len(tables))),  # it warns of more tasks than blocks
    )
    for block in tokenised.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        assert isinstance(block, pa.Table)
        yield block


def _offset_table(row_ids: np.ndarray, index: RowIndex, compared: ComparedRows | None = None) -> pa.Table:
    """Where rows stand in the file; with `compared` also where those stand that each is compared with."""
    table = pa.table({"row_id": row_ids, **_places(row_ids, index)})
    if compared is None:
        return table
    others = [compared.of_row(row) for row in row_ids.tolist()]
    ends = np.cumsum([len(each) for each in others])
    all_others = np.concatenate(others)
    places = {"row_id": all_others, **_places(all_others, compared.source)}
    columns = pa.StructArray.from_arrays([pa.array(column) for column in places.values()], names=list(places))
    return table.append_column(_COMPARED, pa.ListArray.from_arrays(np.insert(ends, 0, 0).astype(np.int32), columns))


def _places(row_ids: np.ndarray, index: RowIndex) -> dict[str, np.ndarray]:
    return {
        "offset": index.offset_R[row_ids],
        "num_bytes": index.num_bytes_R[row_ids],
        "is_correct": index.is_correct_R[row_ids],
    }


def _read_and_tokenise(
    table: pa.Table,
    path: str,
    fingerprint: str,
    tokenizer_path: str,
    run_dir: Path | None,
    told: Told = "nothing",
    compared_path: str = "",
    compared_fingerprint: str = "",
    template: Template = "plain",
) -> pa.Table:
    """Ray Data task: the rows of one block, read at their offsets and tokenised, in the same order.

    What they are compared with, where the table says it, is read in `compared_path`.
    Ray Data would hand on an error of ours as text inside one of its own: it travels as a row instead.
    """
    if run_dir is not None:
        _enter_as_reader(run_dir)
    try:
        tokenizer = _tokenizer(tokenizer_path, template)
        if _COMPARED in table.column_names:
            examples = _compared_examples(table, Path(path), Path(compared_path), tokenizer, told)
            _require_unchanged(compared_path, compared_fingerprint)
        else:
            examples = _read(table.to_pylist(), Path(path), tokenizer, told)
        _require_unchanged(path, fingerprint)  # afterwards: what was read before was the same file
    except WmtpError as error:
        return _block_of([], str(error))
    return _block_of(examples, "")


def _compared_examples(
    table: pa.Table, path: Path, other_path: Path, tokenizer: CodeTokenizer, told: Told
) -> list[Example]:
    """Read the rows of an offset table with what they are compared with, some at a time, and keep their edits."""
    found: list[Example] = []
    for part in table.to_batches(max_chunksize=_ROWS_COMPARED):
        rows: list[dict[str, Any]] = part.to_pylist()
        places = {each["row_id"]: each for row in rows for each in row[_COMPARED]}
        others = dict(zip(places, _read(list(places.values()), other_path, tokenizer, told), strict=True))
        compared = [[each["row_id"] for each in row[_COMPARED]] for row in rows]
        found += with_edits_of(_read(rows, path, tokenizer, told), compared, others, has_copies=other_path != path)
    return found


def _read(rows: list[dict[str, Any]], path: Path, tokenizer: CodeTokenizer, told: Told) -> list[Example]:
    offsets, sizes, ids, labels = ([row[name] for row in rows] for name in _PLACES)
    return read_examples(path, offsets, sizes, ids, tokenizer, is_correct_N=labels, told=told)


def _block_of(examples: list[Example], error: str) -> pa.Table:
    """Examples as columns; an error is a last row without tokens."""
    rows = [*examples, _NO_EXAMPLE] if error else examples
    ends = np.cumsum([len(row.tokens_T) for row in rows])
    # All tokens in one array and where it is cut: from a list of arrays Arrow would take as long as the tokenising.
    tokens_T = np.concatenate([row.tokens_T for row in rows])
    bounds = np.insert(ends, 0, 0).astype(np.int32)
    tokens = pa.ListArray.from_arrays(bounds, tokens_T)
    table = pa.table(
        {
            "row_id": pa.array([row.row_id for row in rows], pa.int64()),
            "tokens": tokens,
            "prompt_tokens": pa.array([row.prompt_tokens for row in rows], pa.int32()),
            "is_correct": pa.array([row.is_correct for row in rows], pa.bool_()),
            "error": pa.array([""] * len(examples) + [error] * (len(rows) - len(examples)), pa.string()),
        }
    )
    edits = [row.edits for row in rows if row.edits is not None]
    if not edits:
        return table
    columns = {
        "differs": pa.ListArray.from_arrays(bounds, pa.array(np.concatenate([each.differs_T for each in edits]))),
        "first": pa.array([each.first for each in edits], pa.int64()),
        "correct_frac": pa.array([each.correct_frac for each in edits], pa.float64()),
    }
    return table.append_column(_EDITS, pa.StructArray.from_arrays(list(columns.values()), names=list(columns)))


def _require_unchanged(path: str, fingerprint: str) -> None:
    """Raise DataError when a file has other content than was indexed; it is read again only when it was touched."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path}: is gone ({error.strerror}); put it back and start again with --resume") from error
    _require_content(path, fingerprint, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=8)
def _require_content(path: str, fingerprint: str, *state: int) -> None:
    """Part of `_require_unchanged`, once for each state that the file was found in."""
    if file_fingerprint(Path(path)) != fingerprint:
        raise DataError(
            f"{path}: the file was replaced while the run was reading it; expected the content that was indexed: put "
            "it back and start again with --resume"
        )


@lru_cache(maxsize=2)
def _enter_as_reader(run_dir: Path) -> None:
    """Record a process that reads for a run, once."""
    enter_run(run_dir, f"reader_{os.getpid()}", is_announced=False)


@lru_cache(maxsize=2)
def _tokenizer(path: str, template: Template) -> CodeTokenizer:
    """Load the tokenizer once a process."""
    return CodeTokenizer(Path(path), template)


def _rows_of(block: pa.Table) -> Iterator[Example]:
    """Raises DataError where the block carries one."""
    if errors := [error for error in block["error"].to_pylist() if error]:
        raise DataError(errors[0])
    tokens = block["tokens"].combine_chunks()
    tokens_BT, bounds = tokens.flatten().to_numpy(), tokens.offsets.to_numpy() - tokens.offsets[0].as_py()
    columns = [block[name].to_pylist() for name in ("row_id", "prompt_tokens", "is_correct")]
    edits = _edits_of(block) if _EDITS in block.column_names else [None] * len(block)
    for start, stop, row_id, prompt_tokens, is_correct, own in zip(
        bounds[:-1], bounds[1:], *columns, edits, strict=True
    ):
        yield Example(row_id, tokens_BT[start:stop], prompt_tokens, is_correct, own)


def _edits_of(block: pa.Table) -> list[RowEdits]:
    columns = block[_EDITS].combine_chunks()
    differs = columns.field("differs")
    differs_BT, bounds = differs.flatten().to_numpy(zero_copy_only=False), differs.offsets.to_numpy()
    bounds = bounds - bounds[0]
    rest = (columns.field(name).to_pylist() for name in ("first", "correct_frac"))
    return [
        RowEdits(differs_BT[start:stop], *each)
        for start, stop, *each in zip(bounds[:-1], bounds[1:], *rest, strict=True)
    ]
