"""A run in rounds read from its folder: rounds.json, and the runs of the rounds that have begun."""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.report.saved_run import SavedRun, is_run, read_run
from wmtp_ray.rounds.rounds_record import RoundsRecord, read_rounds
from wmtp_ray.run_folder import RoundsFolder, RunFolder
from wmtp_ray.tracking.training_record import read_settings

_COUNT = "rounds.count"


@dataclass(frozen=True)
class SavedRounds:
    """The rounds that are done, and the runs of all that have begun, in order; `count` rounds were asked for."""

    name: str
    count: int
    record: RoundsRecord
    runs: tuple[SavedRun, ...]


def is_rounds(path: Path) -> bool:
    """Whether a folder belongs to a run in rounds that was started."""
    return is_run(path) and read_settings(RunFolder(path).config).get(_COUNT) is not None


def read_saved_rounds(path: Path) -> SavedRounds:
    """Read the folder of a run in rounds; ArtifactError for damaged files."""
    folder, count = RoundsFolder(path), int(read_settings(RunFolder(path).config)[_COUNT])
    begun = [number for number in range(count) if is_run(folder.run(number).path)]
    runs = tuple(read_run(folder.run(number).path, f"{path.name}/{folder.name_of(number)}") for number in begun)
    return SavedRounds(path.name, count, read_rounds(folder), runs)
