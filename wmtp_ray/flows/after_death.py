"""End all processes of our own Ray within seconds when its driver is killed.

Most processes of Ray exit when their driver is gone. Two agents first notify the driver that the raylet is gone, for
which Ray 2.60 allows them a minute even if the driver is dead, and a worker can miss the shutdown for longer. So a
watchdog process records what the driver has started, checks whether the driver lives, and after its death ends every
recorded process that still runs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOOK_S = 2.0
_BY_ITSELF_S = 5.0  # for Ray's processes to end by themselves


@contextmanager
def nothing_left_after_death() -> Iterator[None]:
    """If this process is killed inside the block, end what it has started there."""
    command = [sys.executable, "-m", __name__, str(os.getpid())]
    nothing = subprocess.DEVNULL
    # In a session of its own: Ctrl-C and the end of a terminal are the driver's to answer.
    watcher = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()


def _watch(driver: int) -> None:
    import psutil

    family: set[psutil.Process] = set()
    while os.getppid() == driver:
        with suppress(psutil.Error):
            children = psutil.Process(driver).children(recursive=True)
            family = {each for each in family if each.is_running()} | set(children)
        time.sleep(_LOOK_S)
    family = {each for each in family if each.pid != os.getpid()}
    for late in psutil.wait_procs(family, timeout=_BY_ITSELF_S)[1]:
        with suppress(psutil.Error):
            for process in (late, *late.children(recursive=True)):
                process.kill()


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
