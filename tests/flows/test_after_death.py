"""What a driver has started does not outlive it, even what hears no signal."""

import subprocess
import sys
import time
from contextlib import suppress

import psutil

GONE_S = 30.0

DRIVER = """
import subprocess, sys, time
from wmtp_ray.flows.after_death import nothing_left_after_death

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
with nothing_left_after_death():
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {DEAF!r}])"
    subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    time.sleep(600)
"""


def test_a_killed_driver_leaves_nothing() -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER])
    give_up = time.monotonic() + GONE_S
    while len(family := psutil.Process(driver.pid).children(recursive=True)) < 3:  # watcher, child, grandchild
        assert time.monotonic() < give_up, family
        time.sleep(0.1)
    time.sleep(3.0)  # the watcher looks every two
    driver.kill()
    driver.wait()
    try:
        assert psutil.wait_procs(family, timeout=GONE_S)[1] == []
    finally:
        for process in family:
            with suppress(psutil.Error):
                process.kill()
