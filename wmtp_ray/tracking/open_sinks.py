"""The sinks that a configuration asks for. To add one: a name in `config/machine.py`, a TrackerRun, a line here."""

from collections.abc import Callable
from functools import partial

from wmtp_ray.config.dotted_leaves import dotted_leaves
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.tracking import tensorboard_run, trackio_run, wandb_run
from wmtp_ray.tracking.background_sink import BackgroundSink, TrackerKind, TrackerRun
from wmtp_ray.tracking.decisions import read_decisions
from wmtp_ray.tracking.sink import TITLES, Sink, TrackedRun
from wmtp_ray.tracking.sink_packages import install_command


def open_sinks(config: RunConfig) -> list[Sink]:
    """Open the sinks beside MLflow's; each in a thread of its own."""
    return [BackgroundSink(tracker_kind(config, name), config.run_dir) for name in config.tracking.other_sinks]


def tracker_kind(config: RunConfig, name: str) -> TrackerKind:
    """Return how the sink of this name is opened for a run."""
    run = tracked_run(config)
    kinds: dict[str, tuple[Callable[[], TrackerRun], Callable[[BaseException], str]]] = {
        "tensorboard": (partial(tensorboard_run.TensorboardRun, run), tensorboard_run.remedy),
        "wandb": (partial(wandb_run.WandbRun, run, config.tracking.wandb_mode), wandb_run.remedy),
        "trackio": (partial(trackio_run.TrackioRun, run), trackio_run.remedy),
    }
    open_run, remedy = kinds[name]

    def remedy_of(error: BaseException) -> str:
        if isinstance(error, ImportError):
            return f"install it where the run runs: {install_command(name)}"
        return remedy(error)

    if name == "wandb":
        return TrackerKind(TITLES[name], open_run, remedy_of, wandb_run.WHEN_SLOW)
    return TrackerKind(TITLES[name], open_run, remedy_of)


def tracked_run(config: RunConfig) -> TrackedRun:
    """Describe a run to trackers; its tags, and what was decided so far, are no settings."""
    return TrackedRun(
        run_dir=config.run_dir,
        storage_root=config.storage_root,
        project=config.tracking.experiment,
        name=config.run_name,
        params=dict(dotted_leaves(config.model_dump(mode="json", exclude={"tags"}))),
        tags={"recipe": config.recipe, **config.tags, **read_decisions(config.run_dir).tags()},
    )
