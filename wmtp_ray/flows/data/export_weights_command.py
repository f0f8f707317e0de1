"""`wmtp export-weights RUN|FILE`: the weights of a run's folder, or of a run over FILE that is planned here.

Of a FILE the words are those of a launch; it is planned as there and nothing is trained: no folder, no Ray but where
the tokens of a large file are counted for the first time. A critic must be there already (critic.path).
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from wmtp_ray.artifacts.weights_files import WeightsManifest, require_new
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.run.prepare import prepare_rows
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.training.export_weights import Wanted, export_weights
from wmtp_ray.training.weighing_models import PlannedRun


def export_weights_command(source: Path, out: Path, words: Sequence[str], wanted: Wanted, now: datetime) -> str:
    """Write the weights to a new folder `out`; return what was written, for the user. Raises WmtpError."""
    require_new(out)
    return _told(export_weights(_run(source, words, now), out, wanted), out)


def _run(source: Path, words: Sequence[str], now: datetime) -> PlannedRun:
    if source.is_file() and source == RunFolder(source.parent).config:
        source = source.parent
    if source.is_file():
        files = [f"data.train_file={source}", "stages=[2]"]
        config = load_config(parse_arguments([*words, *files]), now=now)
        return PlannedRun(config, prepare_rows(config), source, None)
    if words:
        raise ConfigError(
            f"found {' '.join(words)} with {source}, expected no settings: a run has its own. Give the file of rows to "
            "plan a run over it"
        )
    return PlannedRun.of_folder(source)


def _told(manifest: WeightsManifest, out: Path) -> str:
    steps = f"steps {manifest.first_step} to {manifest.first_step + manifest.num_steps - 1}"
    cut = "" if manifest.whole_steps == manifest.num_steps else ", the last one not with all of its rows"
    lines = [
        f"{out}: {manifest.rows:,} rows of {steps}{cut}, {manifest.targets:,} targets, weighting {manifest.weighting}",
        *(f"note: {note}" for note in manifest.notes),
    ]
    return "\n".join(lines)
