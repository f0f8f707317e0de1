"""Judges at every level that confines, and the two shapes that a hostile program is tested in."""

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wmtp_ray.errors import SandboxError
from wmtp_ray.evaluation.judge import Judge, Verdict

TESTS = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-7, 4) == -3\n"


def open_judge(level: str) -> Judge:
    try:
        return Judge(level, timeout_s=1.0, output_limit_bytes=32 << 20, disk_limit_bytes=16 << 20)
    except SandboxError as error:
        pytest.skip(f"this machine does not give {level}: {error}")


@pytest.fixture(scope="session", params=["namespace", "landlock"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """A judge that confines. Its self-test has shown that forking and killing are blocked, or there would be none."""
    with open_judge(request.param) as judge:
        yield judge


@pytest.fixture
def x86_64() -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the numbers in this test are those of x86_64")


@pytest.fixture
def deceive(judge: Judge) -> Callable[[str], Verdict]:
    """Judge a program that is to add two numbers."""
    return lambda program: judge.check_function(program, TESTS, "add")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of somebody else's that a program knows the name of."""
    path = tmp_path / "secret.txt"
    path.write_text("secret", encoding="utf-8")
    return path
