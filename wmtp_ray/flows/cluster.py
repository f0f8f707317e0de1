"""Joining Ray: a cluster that runs already (RAY_ADDRESS, a submitted job), or one of our own on this machine.

A cluster that cannot be joined is refused within seconds: Ray itself retries a refused token for twenty seconds and a
closed port for a quarter of an hour.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wmtp_ray.errors import ConfigError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # A `uv run` wrapper around every worker could give it another Python than the driver's.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # The controller polls the ranks this often: it bounds how late an end or a death is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # One more process, started beside the ranks, for advance notice of a node that is drained: a rank that is lost
    # costs its steps since the last checkpoint, announced or not.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OWN_CLUSTER = "local"
_PORT_TIMEOUT_S = 5.0
# How often Ray asks a cluster that refuses the token, once a second.
_CONNECT_ATTEMPTS = {"RAY_gcs_server_port_wait_time_s": "3"}


@contextmanager
def joined(num_cpus: int | None) -> Iterator[None]:
    """Be connected to Ray inside this block; leave it as it was found.

    `num_cpus` is what a cluster of our own declares (None: what Ray finds); one that runs already has its own number.
    Raises ConfigError when RAY_ADDRESS names no cluster, or one that refuses us.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray  # seconds: only once a run starts

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or _OWN_CLUSTER
    if address == _OWN_CLUSTER:
        # Named, since without an address Ray would join whichever cluster was last started on this machine.
        ray.init(
            _OWN_CLUSTER, num_cpus=num_cpus, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
        )
    else:
        _join_running(address)
    try:
        yield
    finally:
        ray.shutdown()


def _join_running(address: str) -> None:
    """Connect to the cluster at HOST:PORT, or at `auto`."""
    import ray
    from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
    from ray.exceptions import RayError

    if address != "auto":
        _require_open_port(address)
    if has_token() and "RAY_AUTH_MODE" not in os.environ:
        # A client with an explicit address does not turn token authentication on by itself (Ray >= 2.59), and Ray has
        # read its environment when it was imported.
        os.environ["RAY_AUTH_MODE"] = "token"
        RayConfig.initialize("")
    for name, value in _CONNECT_ATTEMPTS.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RayError) as error:
        token = "found" if has_token() else "none found"
        raise ConfigError(
            f"The cluster at RAY_ADDRESS={address} did not let us in (token: {token}; RAY_AUTH_MODE: "
            f"{os.environ.get('RAY_AUTH_MODE', 'not set')}): {error}. Copy the token of its head "
            "(`ray get-auth-token` there) to ~/.ray/auth_token, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def has_token() -> bool:
    """Whether this machine has a token to show to a cluster, in one of the places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def _require_open_port(address: str) -> None:
    """Refuse an address of another kind, or one where nothing listens."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"RAY_ADDRESS={address} is not the address of a cluster; expected HOST:PORT as `ray start --head` prints "
            "it, for example 10.0.0.1:6379 (http://... is for the job commands: RAY_API_SERVER_ADDRESS)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PORT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"Nothing answers at RAY_ADDRESS={address} ({error}); start the cluster with `ray start --head`, correct "
            "the address, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def require_resources(*, cpus: float, gpus: float) -> None:
    """Refuse a run that the connected cluster can never place, naming the knobs. Call inside `joined`."""
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, needed, knobs in (
        ("CPU", cpus, "cluster.cpus_per_worker, cluster.cpus_per_critic, critic.pool_size, train.num_workers"),
        ("GPU", gpus, "cluster.gpus_per_worker, cluster.gpus_per_critic, critic.pool_size, train.num_workers"),
    ):
        if needed > found.get(name, 0.0) + 1e-9:
            hint = " (on this machine alone: raise cluster.num_cpus)" if name == "CPU" else ""
            raise ConfigError(
                f"The run asks for {needed:g} {name}s, the cluster has {found.get(name, 0.0):g}. Lower {knobs}{hint}."
            )
