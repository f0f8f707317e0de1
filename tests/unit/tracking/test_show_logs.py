"""`wmtp logs`: the lines that were asked for, in order, until the run has ended; mistakes are named."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp_ray.cli import main

HOST = socket.gethostname()


def line(second: int, process: str, message: str, level: str = "INFO") -> str:
    return f"2026-01-01T00:00:{second:02d}.000Z {level:7s} {process} {message}\n"


def said(run_dir: Path, text: str) -> None:
    """Append a line to the log of the process that says it."""
    process = text.split()[2]
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    with (run_dir / "logs" / f"{process}.log").open("a") as file:
        file.write(text)


def own_time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


@pytest.fixture
def run_dir(tmp_path) -> Path:
    folder: Path = tmp_path / "runs" / "a_run"
    said(folder, line(1, "driver", f"Started: process 1 on {HOST}x"))
    said(folder, line(3, "rank_0", "stage=2 step=3 slow disk", "WARNING"))
    said(folder, line(2, "rank_1", "stage=2 step=3 device cpu"))
    said(folder, line(4, "driver", "Ended: done"))
    return folder


def shown(capsys) -> list[str]:
    return [" ".join(each.split()[2:]) for each in capsys.readouterr().out.splitlines()]


ALL = [
    f"driver Started: process 1 on {HOST}x",
    "rank_1 stage=2 step=3 device cpu",
    "rank_0 stage=2 step=3 slow disk",
    "driver Ended: done",
]


class TestShown:
    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], ALL),
            (["--process", "driver"], [ALL[0], ALL[3]]),
            (["--level", "warning"], [ALL[2]]),
            (["--process", "rank_1", "--level", "ERROR"], []),
            (["--follow"], ALL),
        ],
    )
    def test_the_lines_that_were_asked_for_in_order_of_time(self, run_dir, capsys, flags, expected):
        assert main(["logs", str(run_dir), *flags]) == 0
        assert shown(capsys) == expected

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["other"], "There is no run .*other; runs beside it are a_run. Name a run's folder"),
            (
                ["a_run", "--process", "rank_7"],
                "No process 'rank_7' has a log in .*one of driver, rank_0, rank_1",
            ),
            (["a_run", "--level", "LOUD"], "invalid choice: 'LOUD'"),
        ],
    )
    def test_a_mistake_is_named(self, run_dir, capsys, words, message):
        folder, *flags = words
        assert main(["logs", str(run_dir.with_name(folder)), *flags]) == 2
        assert re.search(message, capsys.readouterr().err)

    def test_a_run_without_logs_is_named(self, tmp_path, capsys):
        assert main(["logs", str(tmp_path)]) == 2
        assert "holds no log: the run has not started" in capsys.readouterr().err


class TestFollowed:
    def follow(self, run_dir: Path, meanwhile: Callable[[], None]) -> int:
        thread = threading.Thread(target=lambda: (time.sleep(0.5), meanwhile()))
        thread.start()
        try:
            return main(["logs", str(run_dir), "--follow"])
        finally:
            thread.join()

    @pytest.mark.timeout(30)
    def test_it_waits_for_a_run_that_starts_and_ends_with_its_last_word(self, tmp_path, capsys):
        run_dir = tmp_path / "new"
        run_dir.mkdir()

        def run() -> None:
            said(run_dir, f"{own_time()} INFO    driver Started: process {os.getpid()} on {HOST}\n")
            time.sleep(0.5)
            said(run_dir, line(1, "rank_0", "at work"))
            said(run_dir, line(2, "driver", "Ended: done"))

        assert self.follow(run_dir, run) == 0
        assert [each.split()[0] for each in shown(capsys)] == ["driver", "rank_0", "driver"]

    @pytest.mark.timeout(30)
    def test_a_resumed_run_is_followed_though_it_has_ended_before(self, run_dir, capsys):
        said(run_dir, f"{own_time()} INFO    driver Started: process {os.getpid()} on {HOST}\n")
        assert self.follow(run_dir, lambda: said(run_dir, line(9, "driver", "Ended: Interrupted: a stop"))) == 0
        assert shown(capsys)[-1] == "driver Ended: Interrupted: a stop"

    @pytest.mark.timeout(30)
    def test_a_driver_that_is_killed_ends_it(self, run_dir, capsys):
        driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        said(run_dir, f"{own_time()} INFO    driver Started: process {driver.pid} on {HOST}\n")

        def kill() -> None:
            driver.kill()
            driver.wait()

        assert self.follow(run_dir, kill) == 0

    @pytest.mark.timeout(30)
    def test_another_process_under_the_id_of_the_driver_is_not_taken_for_it(self, run_dir):
        said(run_dir, line(5, "driver", f"Started: process {os.getpid()} on {HOST}"))
        assert main(["logs", str(run_dir), "--follow"]) == 0

    @pytest.mark.timeout(60)
    def test_ctrl_c_ends_it_with_130_and_a_closed_pipe_with_0(self, run_dir):
        said(run_dir, f"{own_time()} INFO    driver Started: process {os.getpid()} on {HOST}\n")
        command = [sys.executable, "-m", "wmtp_ray.cli", "logs", str(run_dir)]
        followed = subprocess.Popen([*command, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert "Started: process 1 " in followed.stdout.readline()
        followed.send_signal(signal.SIGINT)
        assert followed.wait() == 130
        assert "Traceback" not in followed.stderr.read()
        for number in range(3000):
            said(run_dir, line(6, "rank_0", f"line {number} of more than fits into a pipe"))
        piped = subprocess.run(f"set -o pipefail; {' '.join(command)} | head -1", **SHELL)
        assert (piped.returncode, piped.stderr) == (0, "")


SHELL = {"shell": True, "executable": "/bin/bash", "capture_output": True, "text": True}
