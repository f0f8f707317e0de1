"""Which process is which: a file for each rank and scorer in the run's folder, for a debugger, a test or a user.

runs/<run_name>/processes/rank_1    "<process id> <host name>"
"""

import os
import socket
from pathlib import Path


def record_process(run_dir: Path, role: str) -> None:
    """Write this process's id under its role, replacing that of the process it succeeds."""
    folder = run_dir / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / role).write_text(f"{os.getpid()} {socket.gethostname()}\n")


def process_id(run_dir: Path, role: str) -> int:
    """Return the process id recorded for a role; raises FileNotFoundError before it has started."""
    return int((run_dir / "processes" / role).read_text().split()[0])
