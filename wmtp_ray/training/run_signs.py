"""Messages between ranks and driver while a stage runs, as files of the run's folder: stop request and heartbeat."""

from pathlib import Path

import torch

from wmtp_ray.ranks import Ranks
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.processes import show_life


class StopFile:
    """The driver's request to stop. Rank 0 looks for it and all ranks hear of it at the same step."""

    def __init__(self, run_dir: Path, ranks: Ranks) -> None:
        self._file = RunFolder(run_dir).stop_request
        self._ranks = ranks

    def is_asked(self) -> bool:
        """Return whether the run is to stop, the same on every rank."""
        is_there = self._ranks.rank == 0 and self._file.exists()
        return bool(self._ranks.sum(torch.tensor([float(is_there)])) > 0)


class LifeFile:
    """A rank's heartbeat: a file; the driver reads its time."""

    def __init__(self, run_dir: Path, role: str) -> None:
        self._run_dir = run_dir
        self._role = role

    def show(self) -> None:
        """Update the heartbeat."""
        show_life(self._run_dir, self._role)
