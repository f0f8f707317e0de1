"""What one run may use, and the part of it that the kernel enforces by rlimits.

The zygote watches the rest (`watch.py`): rlimits know whole seconds of CPU and address space, not memory in use, and
nothing of the size of a directory.
"""

import math
import resource
import sys
from dataclasses import dataclass

MAX_THREADS = 64
_MAX_OPEN_FILES = 128
_ADDRESS_SPACE_SLACK_BYTES = 1 << 30  # the interpreter, its libraries, and thread stacks of 256 MB that nobody touches
_MAIN_STACK_BYTES = 112 << 20  # the kernel leaves a gap of 128 MB below the stack of every process


@dataclass(frozen=True)
class Limits:
    """The limits of one run.

    `cpu_s` is CPU time of the program; `wall_s` is wall time less the time it waited for a busy CPU; `hard_wall_s` is
    wall time whatever the machine does. `memory_bytes` is memory in use, `disk_bytes` the size of the scratch
    directory, `output_bytes` the size of any one file, standard output among them.
    """

    cpu_s: float
    wall_s: float
    hard_wall_s: float
    memory_bytes: int
    output_bytes: int
    disk_bytes: int


def limits_for(timeout_s: float, memory_bytes: int, output_bytes: int, disk_bytes: int) -> Limits:
    """Return the limits of a run that may compute for `timeout_s`."""
    return Limits(
        cpu_s=timeout_s,
        wall_s=1.25 * timeout_s + 0.25,
        hard_wall_s=4 * timeout_s + 2,
        memory_bytes=memory_bytes,
        output_bytes=output_bytes,
        disk_bytes=disk_bytes,
    )


def apply_rlimits(limits: Limits) -> None:
    """Limit this process permanently: hard limits, which it cannot raise again."""
    cpu_s = math.ceil(limits.cpu_s) + 1
    _lower(resource.RLIMIT_CPU, cpu_s)
    _lower(resource.RLIMIT_FSIZE, limits.output_bytes)
    _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, limits.memory_bytes + _ADDRESS_SPACE_SLACK_BYTES)
        _lower(resource.RLIMIT_MEMLOCK, 0)
        _lower(resource.RLIMIT_MSGQUEUE, 0)
        _lower(resource.RLIMIT_SIGPENDING, 256)
    _grow_main_stack()


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _grow_main_stack() -> None:
    """Raise only the soft limit: contest programs set this limit themselves and must not fail at it."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    soft = _MAIN_STACK_BYTES if hard == resource.RLIM_INFINITY else min(_MAIN_STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
