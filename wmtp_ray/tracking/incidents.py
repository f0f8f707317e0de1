"""What went wrong in a run and did not end it: one line each in runs/<run_name>/incidents.txt, whoever noticed.

A file, because those who notice (ranks, driver) may have nobody left who listens. The driver shows new lines as they
come and repeats them as warnings of the result.
"""

import os
import time
from pathlib import Path

_FILE = "incidents.txt"


def note_incident(run_dir: Path, text: str) -> None:
    """Add a line. Several processes may do so at once: a line is written by one call."""
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(text.split())}\n"
    descriptor = os.open(run_dir / _FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


class IncidentReader:
    """Reads the incidents from the moment it was made."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _FILE
        self._seen_bytes = self._path.stat().st_size if self._path.exists() else 0

    def new(self) -> list[str]:
        """Return the whole lines that have come since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._seen_bytes)
            whole = file.read().rpartition(b"\n")[0]
        self._seen_bytes += len(whole) + 1 if whole else 0
        return whole.decode(errors="replace").splitlines()
