"""Real processes of a run: one that sleeps, one that is stopped, one that is gone, one whose id is another's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from wmtp_ray.tracking.processes import (
    drop_empty_stacks,
    dump_stacks_here,
    find_process,
    find_processes,
    forget_processes,
    kill_here,
    process_id,
    record_process,
    show_life,
    signs_of_life,
    stack_file,
    state_here,
)

WORKER = """
import sys, time
from pathlib import Path
from wmtp_ray.tracking.processes import record_process

def waiting_for_something():
    time.sleep(60)

record_process(Path(sys.argv[1]), sys.argv[2], node_id="node", is_ready=True)
print(flush=True)
waiting_for_something()
"""

Start = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start_one(role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), role]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline() == b"\n"
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def test_each_process_writes_its_stacks_and_one_that_is_stopped_is_said_to_be(tmp_path: Path, start: Start) -> None:
    start("critic_0")
    stopped = start("rank_0")
    stopped.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, stopped.pid, os.WSTOPPED)
    states = dump_stacks_here(tmp_path, find_processes(tmp_path), "rank 0 waited 5 s")
    assert states == {"critic_0": "sleeping", "rank_0": "stopped"}
    texts = {role: stack_file(tmp_path, role).read_text() for role in states}
    assert "sleeping: rank 0 waited 5 s" in texts["critic_0"]
    assert "in waiting_for_something" in texts["critic_0"]
    assert texts["rank_0"].endswith("No stacks: the process is stopped.\n")
    kill_here(find_processes(tmp_path)[1])
    assert stopped.wait() == -signal.SIGKILL


def test_a_process_that_only_has_the_id_of_one_of_ours_is_left_alone(tmp_path: Path, start: Start) -> None:
    """It may have no handler: the signal for stacks would end it."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    record_process(tmp_path, "rank_0", node_id="node")
    ours = find_process(tmp_path, "rank_0")
    assert ours is not None
    before = replace(ours, pid=bystander.pid, started_s=psutil.Process(bystander.pid).create_time() - 100.0)
    assert state_here(before) == "gone"
    kill_here(before)
    assert dump_stacks_here(tmp_path, [before], "why not") == {"rank_0": "gone"}
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert state_here(replace(before, started_s=before.started_s + 100.0)) == "gone", "a process that has ended"


def test_records_tell_who_is_ready_and_are_forgotten(tmp_path: Path) -> None:
    assert find_process(tmp_path, "critic_0") is None
    record_process(tmp_path, "critic_0", node_id="abc")
    first = find_process(tmp_path, "critic_0")
    record_process(tmp_path, "critic_0", node_id="abc", is_ready=True)
    second = find_process(tmp_path, "critic_0")
    assert first is not None
    assert second == replace(first, is_ready=True)
    assert (first.pid, first.node_id, first.is_ready) == (os.getpid(), "abc", False)
    assert process_id(tmp_path, "critic_0") == os.getpid()
    forget_processes(tmp_path)
    assert find_processes(tmp_path) == []


def test_a_sign_of_life_is_seen_and_none_comes_from_a_forgotten_process(tmp_path: Path) -> None:
    for role in ("rank_0", "rank_1", "metrics"):
        record_process(tmp_path, role, node_id="node")
    for path in (tmp_path / "processes").iterdir():
        os.utime(path, (1.0, 1.0))
    before = signs_of_life(tmp_path, "rank_")
    show_life(tmp_path, "rank_1")
    after = signs_of_life(tmp_path, "rank_")
    assert before.keys() == after.keys() == {"rank_0", "rank_1"}
    assert before["rank_0"] == after["rank_0"]
    assert before["rank_1"] < after["rank_1"]
    forget_processes(tmp_path)
    show_life(tmp_path, "rank_1")
    assert signs_of_life(tmp_path, "rank_") == {}


def test_files_of_those_who_were_never_asked_go(tmp_path: Path) -> None:
    record_process(tmp_path, "driver", node_id="node")
    drop_empty_stacks(tmp_path)
    assert not (tmp_path / "stacks").exists()
    record_process(tmp_path, "driver", node_id="node")
    record_process(tmp_path, "rank_0", node_id="node")
    stack_file(tmp_path, "rank_0").write_text("stacks\n")
    drop_empty_stacks(tmp_path)
    assert [path.name for path in (tmp_path / "stacks").iterdir()] == ["rank_0.txt"]
    drop_empty_stacks(tmp_path / "absent")
