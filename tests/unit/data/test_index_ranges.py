"""However a file is cut, and by however many processes it is read, the index is the same."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data import index_processes, index_ranges
from wmtp_ray.data.index import BuiltIndex, build_index
from wmtp_ray.errors import DataError

MakeLine = Callable[..., bytes]
SameIndex = Callable[[RowIndex, RowIndex], None]
BOM = b"\xef\xbb\xbf"
ENDS = [b"\n", b"\r\n", b"\n\n", b"\r\n \t\n", b"\r\r\n"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranges") / "rows.jsonl"


def built_with(path: Path, range_bytes: int, num_processes: int) -> BuiltIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_processes, "RANGE_BYTES", range_bytes)
        return build_index(path, on_error="skip", num_processes=num_processes)


@st.composite
def contents(draw: st.DrawFn, line: MakeLine) -> bytes:
    """Files of rows of several problems and contests, malformed lines, blank lines and all kinds of line ends."""
    good = st.builds(
        lambda problem, label, contest, text: line(
            task_id=f"{problem}_{label}_0", is_correct=label == "correct", output=text, metadata={"contest": contest}
        ),
        st.sampled_from("abc"),
        st.sampled_from(["correct", "incorrect"]),
        st.sampled_from(["codeforces", "atcoder"]),
        st.sampled_from(["x", "x\r\u2028y", ""]),
    )
    broken = st.sampled_from([b"{", b"[1]", b"\xff", b"x\ry", BOM])
    parts = draw(st.lists(st.tuples(good | good | broken, st.sampled_from(ENDS)), min_size=1, max_size=6))
    last = draw(st.sampled_from([line(), line() + b"\n"]))
    return draw(st.sampled_from([b"", BOM])) + b"".join(text + end for text, end in parts) + last


@settings(max_examples=40, deadline=None)
@given(data=st.data(), range_bytes=st.integers(1, 700))
def test_the_index_does_not_depend_on_where_the_file_is_cut(
    assert_same_index: SameIndex, line: MakeLine, scratch: Path, data: st.DataObject, range_bytes: int
) -> None:
    scratch.write_bytes(data.draw(contents(line)))
    whole, cut = built_with(scratch, 1 << 30, 1), built_with(scratch, range_bytes, 1)
    assert_same_index(cut.index, whole.index)
    assert (cut.num_lines, cut.num_skipped, cut.errors) == (whole.num_lines, whole.num_skipped, whole.errors)


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    """Processes that index for this one; other tests may have left other children."""
    return [child for child in process.children() if "wmtp_ray.data.index_worker" in child.cmdline()]


def write_rows(path: Path, line: MakeLine, num_rows: int) -> Path:
    """Rows of problems that come back, every seventh line malformed."""
    rows = [line(task_id=f"p{n % 5}_correct_{n}", metadata={"difficulty": n % 3}) + b"\n" for n in range(num_rows)]
    path.write_bytes(b"".join(b"{\n" if n % 7 == 3 else row for n, row in enumerate(rows)))
    return path


def test_the_index_does_not_depend_on_the_number_of_processes(
    assert_same_index: SameIndex, line: MakeLine, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "rows.jsonl", line, 300)
    whole, shared = built_with(path, 1 << 30, 1), built_with(path, 1000, 3)
    assert_same_index(shared.index, whole.index)
    assert (shared.num_lines, shared.num_skipped, shared.errors) == (300, 43, whole.errors)
    assert f"{path}:4: " in shared.errors[0]
    assert workers_of(psutil.Process()) == []


def test_a_line_longer_than_ranges_belongs_to_the_range_it_begins_in(line: MakeLine, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line() + b"\n" + line(output="x" * 5000) + b"\n" + line())
    assert len(built_with(path, 100, 1).index) == 3


def test_an_endless_line_is_refused_with_its_number_in_any_range(
    line: MakeLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_ranges, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "array.jsonl"
    path.write_bytes((line() + b"\n") * 7 + b"\n" + line(output="x" * 1000) + b"\n" + line())
    with pytest.raises(DataError, match=r"array\.jsonl:9: found a line of"):
        built_with(path, 300, 1)


def kill_a_worker_as_soon_as_there_is_one() -> None:
    while not (workers := workers_of(psutil.Process())):
        time.sleep(0.001)
    workers[0].kill()


def test_a_killed_process_is_a_data_error_and_leaves_no_other_behind(line: MakeLine, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", line, 10_000)
    killer = threading.Thread(target=kill_a_worker_as_soon_as_there_is_one)
    killer.start()
    with pytest.raises(DataError, match=r"a process that indexed .* ended with exit code -9.*index again"):
        built_with(path, 300, 2)
    killer.join()
    assert workers_of(psutil.Process()) == []


def test_a_process_that_hangs_is_a_data_error_and_is_killed(line: MakeLine, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", line, 1)
    worker = index_processes._Worker(path, False, 0.2)
    [process] = workers_of(psutil.Process())
    process.suspend()
    with pytest.raises(DataError, match=r"rows\.jsonl: no rows of the bytes 0-10 within 0\.2 s"):
        worker.scan(0, 10)
    assert psutil.wait_procs([process], timeout=10)[1] == []
    worker.kill()
    worker.close()


def test_an_interrupted_build_leaves_no_process_behind(line: MakeLine, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", line, 10_000)
    program = (  # whoever starts the tests in the background has SIGINT ignored in all that they start
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from pathlib import Path; from wmtp_ray.data import index, index_processes\n"
        "index_processes.RANGE_BYTES = 200\n"
        "index.build_index(Path(sys.argv[1]), on_error='skip', num_processes=2)\n"
    )
    build = psutil.Popen([sys.executable, "-c", program, str(path)], stderr=subprocess.PIPE)
    while len(workers := workers_of(build)) < 2:
        assert build.poll() is None
        time.sleep(0.005)
    build.send_signal(signal.SIGINT)
    _, stderr = build.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr
    assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_workers_end_with_a_parent_that_was_killed(line: MakeLine, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", line, 1)
    program = (
        "import sys, time; from pathlib import Path; from wmtp_ray.data.index_processes import _Worker\n"
        "worker = _Worker(Path(sys.argv[1]), False, 60.0); worker.scan(0, 10); print(flush=True); time.sleep(60)\n"
    )
    parent = psutil.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"\n"
    workers = workers_of(parent)
    parent.kill()
    parent.communicate()
    assert len(workers) == 1
    assert psutil.wait_procs(workers, timeout=10)[1] == []
