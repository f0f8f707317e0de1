"""Which package a sink needs and which extra of wmtp_ray installs it. Imports none of them."""

import importlib.util
from collections.abc import Iterable
from importlib.metadata import version

from wmtp_ray.errors import ConfigError

PACKAGES = {"mlflow": "mlflow", "tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def install_command(sink: str) -> str:
    """Return the command that installs a sink's package; MLflow's comes with wmtp_ray itself."""
    return "pip install wmtp_ray" if sink == "mlflow" else f"pip install 'wmtp_ray[{sink}]'"


def check_packages(sinks: Iterable[str]) -> str:
    """Return the sinks with the versions of their packages; ConfigError for one that is not installed here."""
    missing = [sink for sink in sinks if importlib.util.find_spec(PACKAGES[sink]) is None]
    if missing:
        packages = ", ".join(PACKAGES[sink] for sink in missing)
        commands = "; ".join(install_command(sink) for sink in missing)
        raise ConfigError(
            f"tracking.sinks={','.join(sinks)}: found no package {packages}, expected it installed: {commands}; or "
            f"take {', '.join(missing)} out of tracking.sinks"
        )
    return ", ".join(f"{sink} {version(PACKAGES[sink])}" for sink in sinks) or "metrics.jsonl alone"
