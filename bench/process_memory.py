"""What each process of a run holds: the numbers behind `wmtp_ray/training/estimate/process_overhead.py`.

    python -m bench.process_memory recipe=verifiable preset=quickstart run_name=measured ...     (words of a launch)

Launches a run on this machine, looks at its processes once a second and prints, for each, MiB of its largest resident
set (VmHWM), proportional set (PSS) and private anonymous memory, and the largest sum of PSS. Linux only.
"""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

MIB = 2**20
LOOK_S = 1.0
_LEAST_MIB = 5


def measure(words: list[str]) -> str:
    """Run the launch and return the table."""
    launch = subprocess.Popen([sys.executable, "-m", "wmtp_ray.launch", *words], stdout=sys.stderr)
    largest: dict[int, tuple[str, list[int]]] = {}
    most = 0
    while launch.poll() is None:
        total = 0
        for process in _family(launch.pid):
            with suppress(psutil.Error, OSError, KeyError, ValueError):
                held = _held(process.pid)
                name, before = largest.get(process.pid, ("", [0, 0, 0]))
                title = " ".join(process.cmdline())[:60] or name
                largest[process.pid] = (title, [max(pair) for pair in zip(held, before, strict=True)])
                total += held[1]
        most = max(most, total)
        time.sleep(LOOK_S)
    lines = ["| process | VmHWM | PSS | anonymous |", "|---|---|---|---|"]
    for title, sizes in sorted(largest.values(), key=lambda each: -each[1][0]):
        if sizes[0] > _LEAST_MIB * MIB:
            lines.append(f"| {title} | {' | '.join(f'{size / MIB:.0f}' for size in sizes)} |")
    return "\n".join([*lines, "", f"Largest sum of PSS: {most / MIB:.0f} MiB; exit code {launch.returncode}"])


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _held(pid: int) -> list[int]:
    status = _numbers(Path(f"/proc/{pid}/status"))
    rollup = _numbers(Path(f"/proc/{pid}/smaps_rollup"))
    return [status["VmHWM"], rollup["Pss"], rollup.get("Anonymous", 0)]


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3 and words[2] == "kB"}


if __name__ == "__main__":
    print(measure(sys.argv[1:]))
