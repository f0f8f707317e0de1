"""Joining Ray: a cluster that runs already (RAY_ADDRESS, a submitted job), or one of our own on this machine.

A cluster that cannot be joined is refused within seconds: Ray itself retries a refused token for twenty seconds and a
closed port for a quarter of an hour.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import psutil

from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.after_death import nothing_left_after_death
from wmtp_ray.interrupts import kept
from wmtp_ray.preflight.needed_resources import Resources
from wmtp_ray.preflight.ray_place import OWN_CLUSTER, check_ray_can_start, has_token, ray_address, temporary_folder

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
_GONE_S = 3.0  # for the processes of a Ray of our own to be gone after its shutdown
# How often Ray asks a cluster that refuses the token, once a second.
_CONNECT_ATTEMPTS = {"RAY_gcs_server_port_wait_time_s": "3"}


@contextmanager
def joined(num_cpus: int | None) -> Iterator[None]:
    """Connect to Ray for this block; afterwards restore the state that was found.

    `num_cpus` is what a cluster of our own declares (None: what Ray finds); one that runs already has its own number.
    Raises ConfigError where RAY_ADDRESS names no cluster, or one that refuses us, or a Ray of our own cannot start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray  # seconds: only once a run starts

    if ray.is_initialized():
        yield
        return
    check_ray_can_start()
    address = ray_address()
    with nothing_left_after_death() if address == OWN_CLUSTER else nullcontext(), _connected(address, num_cpus):
        yield


@contextmanager
def _connected(address: str, num_cpus: int | None) -> Iterator[None]:
    children = {process.pid for process in psutil.Process().children()}
    with kept():
        if address == OWN_CLUSTER:
            _start_own(num_cpus)
        else:
            _join_running(address)
    started = [process for process in psutil.Process().children() if process.pid not in children]
    try:
        yield
    finally:
        _leave(started)


def _start_own(num_cpus: int | None) -> None:
    import ray

    # Named, since without an address Ray would join whichever cluster was last started on this machine.
    start = partial(ray.init, OWN_CLUSTER, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        with _no_port_for_jobs():
            start(num_cpus=num_cpus)
    except Exception as error:  # Ray raises whatever one of its processes ended with, and plain Exception
        with suppress(Exception):
            ray.shutdown()
        logs = temporary_folder() / "ray" / "session_latest" / "logs"
        raise ConfigError(
            f"Ray did not start on this machine: {type(error).__name__}: {error}. Its logs are in {logs}; look there "
            "for a process that ended or had no memory, CPU or port, then give the same command again"
        ) from error


@contextmanager
def _no_port_for_jobs() -> Iterator[None]:
    """Have a Ray of our own take any port for its agent, not the one that `ray start --head` needs to take jobs.

    `ray.init` has no word for it, and the agent of a head that finds the port (52365) taken ends, for good: the head
    answers, and says of every job that there is no agent to submit it to.
    """
    from ray._private import parameter

    theirs = parameter.RayParams

    class AnyAgentPort(theirs):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **words: Any) -> None:
            super().__init__(*arguments, **{"dashboard_agent_listen_port": 0, **words})

    parameter.RayParams = AnyAgentPort  # type: ignore[misc]
    try:
        yield
    finally:
        parameter.RayParams = theirs  # type: ignore[misc]


def _leave(started: list[psutil.Process]) -> None:
    """Disconnect from Ray and end all processes that joining has started: workers can miss Ray's shutdown."""
    import ray

    family = [*started]
    for process in started:
        with suppress(psutil.Error):
            family += process.children(recursive=True)
    ray.shutdown()
    for late in psutil.wait_procs(family, timeout=_GONE_S)[1]:
        with suppress(psutil.Error):
            late.kill()


def _join_running(address: str) -> None:
    """Connect to the cluster at HOST:PORT, or at `auto`."""
    import ray
    from ray._raylet import Config as RayConfig  # type: ignore[attr-defined]
    from ray.exceptions import RayError

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
            f"The cluster at RAY_ADDRESS={address} refused the connection (token: {token}; RAY_AUTH_MODE: "
            f"{os.environ.get('RAY_AUTH_MODE', 'not set')}): {error}. Copy the token of its head "
            "(`ray get-auth-token` there) to ~/.ray/auth_token, or unset RAY_ADDRESS to run on this machine alone"
        ) from error


def require_resources(needed: Resources) -> None:
    """Refuse what the connected cluster can never place, naming the settings to change. Call inside `joined`."""
    import ray

    found = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for name, number in (("CPU", needed.cpus), ("GPU", needed.gpus)):
        if number > found.get(name, 0.0) + 1e-9:
            raise ConfigError(needed.refusal(name, number, "the cluster", found.get(name, 0.0)))
