"""One Ray Data task for each table: how flows share out work that has nothing to do with training.

Call inside `joined`. Each task has a CPU of its own; errors of ours have to travel as rows, see the tasks in `actors/`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from wmtp_ray.flows.cluster import require_resources


def run_block_tasks(
    tables: Sequence[pa.Table], task: Callable[..., pa.Table], arguments: tuple[Any, ...], *, in_order: bool
) -> Iterator[pa.Table]:
    """Yield `task(table, *arguments)` of every table, as they are finished or in the order of the tables.

    Raises ConfigError when the cluster has no CPU.
    """
    require_resources(cpus=1.0, gpus=0.0)
    import ray.data  # seconds: only where there is work for it

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = in_order
    context.enable_progress_bars = False
    done = ray.data.from_arrow(list(tables)).map_batches(
        task,
        fn_args=arguments,
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=1,
    )
    for block in done.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(block, pa.Table)
        yield block
