"""Peaks of memory, measured: of this process, and of a driver with everything that it has started.

| what      | on a CPU                                                        | on CUDA                            |
|-----------|-----------------------------------------------------------------|------------------------------------|
| a process | VmHWM: the largest resident set, pages shared with others whole | `torch.cuda.max_memory_allocated`  |
| a machine | sum over processes of PSS now + (VmHWM - RSS now), at its worst | not measured                       |

PSS counts a page that n processes share as 1/n in each. Adding how far a process once was above its present resident
set makes short peaks between two looks count, as the estimate does, which adds up the peak of each process.
Linux only: elsewhere there is no PSS, and nothing is measured.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")
TOLERANCE = 0.15


@dataclass(frozen=True)
class Peak:
    """An estimate beside what was measured, bytes; `measured_as` says how. `measured_bytes` None: it could not be."""

    estimated_bytes: int
    measured_bytes: int | None
    measured_as: str

    def warning(self, whose: str) -> str | None:
        """Return a warning if the estimate was off by more than `TOLERANCE`, None otherwise or if that is unknown."""
        measured = self.measured_bytes
        if measured is None or abs(self.estimated_bytes - measured) <= TOLERANCE * measured:
            return None
        return (
            f"Memory of {whose}: {self.estimated_bytes / 2**30:.2f} GiB were estimated, {measured / 2**30:.2f} GiB "
            f"measured ({self.measured_as}), more than {TOLERANCE:.0%} apart: go by the measured number when you "
            "choose train.micro_batch_tokens or a machine"
        )


@dataclass(frozen=True)
class MemoryUse:
    """What result.json keeps: the largest rank of stage 2, and the machine (None: it is not this run's alone)."""

    rank: Peak
    machine: Peak | None

    def warnings(self) -> list[str]:
        """Return what was estimated badly, in sentences."""
        found = [self.rank.warning("a rank"), self.machine.warning("this machine") if self.machine else None]
        return [text for text in found if text is not None]


def own_peak_bytes() -> int | None:
    """Return the largest resident set that this process has had, or None where the system does not tell."""
    status = _status(_PROC / "self")
    return status.get("VmHWM")


class FamilyMemory:
    """The largest memory of this process and its descendants, over all looks."""

    def __init__(self) -> None:
        self.peak_bytes: int | None = None

    def look(self) -> None:
        """Add up all processes once; tens of milliseconds."""
        own = psutil.Process()
        with suppress(psutil.Error):
            held = [_held_bytes(_PROC / str(each.pid)) for each in (own, *own.children(recursive=True))]
            total = sum(held)
            if total > 0:
                self.peak_bytes = max(self.peak_bytes or 0, total)


def _held_bytes(process: Path) -> int:
    """PSS, plus how far the process once was above its present resident set; 0 for one that is gone."""
    with suppress(OSError, ValueError, KeyError):
        status, rollup = _status(process), _numbers(process / "smaps_rollup")
        return rollup["Pss"] + status["VmHWM"] - status["VmRSS"]
    return 0


def _status(process: Path) -> dict[str, int]:
    with suppress(OSError):
        return _numbers(process / "status")
    return {}


def _numbers(path: Path) -> dict[str, int]:
    """The lines `Name:   123 kB` of a file of /proc, in bytes."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}
