"""A process is asked for its stacks by another one, whatever its threads do."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wmtp_ray.tracking.stacks import StackAddress, answer_for_stacks, ask_for_stacks, stacks_of_all_threads

PROCESS = """
import ctypes, sys, threading
from pathlib import Path
from wmtp_ray.tracking.stacks import answer_for_stacks

def busy():
    def deeper(n):
        return 1 if n == 0 else deeper(n - 1) + len(str([n]))
    while True:
        deeper(30)

def keeps_the_gil():
    while True:  # a signal ends a sleep
        ctypes.PyDLL(None).sleep(60)

address = answer_for_stacks(Path(sys.argv[1]))
if sys.argv[2] == "busy":
    for _ in range(3):
        threading.Thread(target=busy, daemon=True).start()
print(address.port, address.word, flush=True)
sys.stdin.readline()
keeps_the_gil()
"""


@contextmanager
def running(file: Path, what: str) -> Iterator[tuple[subprocess.Popen[str], StackAddress]]:
    command = [sys.executable, "-c", PROCESS, str(file), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, word = process.stdout.readline().split()
        try:
            yield process, StackAddress(int(port), word)
        finally:
            process.kill()


def test_a_busy_process_survives_being_asked_hundreds_of_times(tmp_path: Path) -> None:
    """faulthandler's handler ends such a process after a few hundred (python/cpython#116008)."""
    file = tmp_path / "stacks.txt"
    with running(file, "busy") as (process, address):
        ask_for_stacks([(process.pid, address, file)])
        assert file.read_text().count("in busy") == 3
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(300):
            asking.sendto(address.word.encode(), ("127.0.0.1", address.port))
        asking.close()
        ask_for_stacks([(process.pid, address, file)])
        assert process.poll() is None


def test_processes_in_which_nothing_gets_the_gil_answer_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wmtp_ray.tracking.stacks._ANSWER_S", 1.0)
    files = [tmp_path / "first.txt", tmp_path / "second.txt"]
    with running(files[0], "blocked") as first, running(files[1], "blocked") as second:
        for process, _ in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        threading.Event().wait(0.3)  # until they sleep in C
        ask_for_stacks([(first[0].pid, first[1], files[0]), (second[0].pid, second[1], files[1])])
        assert ["in keeps_the_gil" in file.read_text() for file in files] == [True, True]
        assert [process.poll() for process, _ in (first, second)] == [None, None]


def test_another_word_is_not_answered_and_a_new_file_replaces_the_old(tmp_path: Path) -> None:
    first = answer_for_stacks(tmp_path / "first.txt")
    second = answer_for_stacks(tmp_path / "second.txt")
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for address, word in ((first, first.word), (second, "another word"), (second, second.word)):
        asking.sendto(word.encode(), ("127.0.0.1", address.port))
    asking.close()
    file = tmp_path / "second.txt"
    give_up = threading.Event()
    while not file.read_text() and not give_up.wait(0.02):
        pass
    assert file.read_text().count("in test_another_word") == 1
    assert (tmp_path / "first.txt").read_text() == ""


def test_a_process_writes_its_own_without_being_asked(tmp_path: Path) -> None:
    file = tmp_path / "stacks.txt"
    address = answer_for_stacks(file)
    ask_for_stacks([(os.getpid(), address, file)])
    assert "test_stacks.py" in file.read_text()
    assert threading.current_thread().name in stacks_of_all_threads()
