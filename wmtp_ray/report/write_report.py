"""`wmtp report`: folders of runs and sweeps to one HTML file. Starts nothing, imports neither torch nor Ray."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import ConfigError
from wmtp_ray.report.blocks import names_of
from wmtp_ray.report.document import render_document
from wmtp_ray.report.saved_rounds import is_rounds, read_saved_rounds
from wmtp_ray.report.saved_run import SavedRun, is_run, read_run
from wmtp_ray.report.saved_sweep import is_sweep, read_saved_sweep
from wmtp_ray.run_folder import RunFolder


def write_report(paths: Sequence[Path], out: Path | None, now: datetime) -> Path:
    """Write the report of the runs and sweeps to `out` and return where it is; None: report.html in the one folder.

    Raises ConfigError for a folder that is neither, for several folders without `out` and for an unwritable one,
    ArtifactError for damaged files.
    """
    folders = list(dict.fromkeys(path.resolve() for path in paths))
    if out is None and len(folders) > 1:
        raise ConfigError(f"found {len(folders)} folders and no --out, expected the file to write: add --out FILE")
    sweeps = [read_saved_sweep(path) for path in folders if is_sweep(path)]
    rounds = [read_saved_rounds(path) for path in folders if is_rounds(path)]
    runs = _read_runs([path for path in folders if not is_sweep(path) and not is_rounds(path)])
    made = f"Made {now:%Y-%m-%d %H:%M} by wmtp report from {names_of([path.name for path in folders], 20)}."
    page = render_document(runs, sweeps, made, rounds).encode("utf-8")
    target = RunFolder(folders[0]).report if out is None else out
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(target, page)
    except OSError as error:
        raise ConfigError(f"{target}: it cannot be written ({error.strerror}); name a file with --out") from error
    return target


def _read_runs(folders: Sequence[Path]) -> list[SavedRun]:
    """Runs of one name are told apart by the folders above them."""
    strangers = [path for path in folders if not is_run(path)]
    if strangers:
        raise ConfigError(
            f"{strangers[0]} holds neither config.yaml nor sweep.json, expected the folder of a run, in rounds or not, "
            "or of a sweep: give storage/runs/NAME"
        )
    counts = Counter(path.name for path in folders)
    return [
        read_run(path, path.name if counts[path.name] == 1 else f"{path.parent.parent.name}/{path.name}")
        for path in folders
    ]
