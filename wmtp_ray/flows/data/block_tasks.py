"""One Ray Data task for each table: how flows share out work that has nothing to do with training.

Call inside `joined`. Each task has a CPU of its own; errors of ours have to travel as rows, see the tasks in `actors/`.
Ray retries a task whose process dies; when no task finishes within the deadline, the command fails with a message.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from wmtp_ray.errors import DataError
from wmtp_ray.flows.cluster import require_resources
from wmtp_ray.preflight.needed_resources import Resources

DEADLINE_S = 3600.0  # between two finished tasks; these commands have no configuration. A task takes minutes at most
_END = None


def run_block_tasks(
    tables: Sequence[pa.Table],
    task: Callable[..., pa.Table],
    arguments: tuple[Any, ...],
    *,
    in_order: bool,
    deadline_s: float = DEADLINE_S,
) -> Iterator[pa.Table]:
    """Yield `task(table, *arguments)` of every table, as they are finished or in the order of the tables.

    Raises ConfigError when the cluster has no CPU, DataError when no task is finished within `deadline_s`.
    """
    require_resources(Resources("Each task", 1.0, 0.0, "the work of other commands on the cluster"))
    import ray.data  # seconds: only where there is work for it

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = in_order
    context.enable_progress_bars = False
    done = ray.data.from_blocks(list(tables)).map_batches(
        task,
        fn_args=arguments,
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
    )
    blocks = done.iter_batches(batch_size=None, batch_format="pyarrow")
    for number, block in enumerate(_within(blocks, deadline_s)):
        if block is _END:
            free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
            raise DataError(
                f"{task.__name__}: {number} of {len(tables)} tasks are finished and no other in {deadline_s:g} s; "
                f"{free:g} CPUs of the cluster are free. Look for a process that hangs (`ray stack`) or a disk that "
                "does not answer, then give the same command again"
            )
        assert isinstance(block, pa.Table)
        yield block


def _within(blocks: Iterable[Any], deadline_s: float) -> Iterator[Any]:
    """Yield the items of an iterable that may block for ever; _END when the next does not come in time."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    over = object()

    def pull() -> None:
        try:
            for block in blocks:
                ready.put(block)
            ready.put(over)
        except BaseException as error:  # raised again where it is waited for
            ready.put(error)

    threading.Thread(target=pull, name="block-tasks", daemon=True).start()
    while True:
        try:
            block = ready.get(timeout=deadline_s)
        except queue.Empty:
            yield _END
            return
        if block is over:
            return
        if isinstance(block, BaseException):
            raise block
        yield block
