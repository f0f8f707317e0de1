"""Peaks of memory: of this process, of a family of processes, and what is said when an estimate was far off."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from wmtp_ray.tracking.memory_use import FamilyMemory, MemoryUse, Peak, own_peak_bytes
from wmtp_ray.tracking.result import RunResult, read_result, write_result

MIB = 2**20
HOLD = """
import sys
spike = bytearray(150 << 20); spike[::4096] = bytes(len(spike[::4096]))
del spike
kept = bytearray(100 << 20); kept[::4096] = bytes(len(kept[::4096]))
print("ready", flush=True)
sys.stdin.read()
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells, others do not")


@needs_proc
def test_the_peak_of_a_process_outlives_what_it_held():
    before = own_peak_bytes()
    held = bytearray(64 * MIB)
    held[::4096] = bytes(len(held[::4096]))
    del held
    after = own_peak_bytes()
    assert before is not None
    assert after is not None
    assert after >= before


@needs_proc
def test_a_family_counts_each_process_at_its_own_peak():
    """The child once held 150 MiB and holds 100 now: the look comes late and still counts 150."""
    alone = FamilyMemory()
    alone.look()
    child = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        family = FamilyMemory()
        family.look()
        first = family.peak_bytes
    finally:
        child.communicate("")
    family.look()
    assert alone.peak_bytes is not None
    assert first is not None
    assert 140 * MIB < first - alone.peak_bytes < 200 * MIB
    assert family.peak_bytes == first, "the largest of all looks"


@pytest.mark.parametrize(
    ("estimated", "measured", "warns"),
    [(1000, 1000, False), (1150, 1000, False), (1160, 1000, True), (840, 1000, True), (1000, None, False)],
)
def test_an_estimate_more_than_15_percent_off_is_said(estimated, measured, warns):
    use = MemoryUse(Peak(estimated * MIB, measured and measured * MIB, "VmHWM"), None)
    assert len(use.warnings()) == int(warns)
    assert all("estimated" in text and "VmHWM" in text and "a rank" in text for text in use.warnings())


def test_a_result_keeps_peaks_beside_estimates_and_one_without_them_is_read(tmp_path):
    use = MemoryUse(Peak(10, 11, "VmHWM"), Peak(30, None, "PSS"))
    for memory in (use, MemoryUse(Peak(1, None, "VmHWM"), None), None):
        result = RunResult("FINISHED", 1, {}, None, {}, (), memory)
        write_result(tmp_path, result)
        assert read_result(tmp_path) == result
    older = orjson.loads((tmp_path / "result.json").read_bytes())
    del older["memory"]
    (tmp_path / "result.json").write_bytes(orjson.dumps(older))
    assert read_result(tmp_path).memory is None
