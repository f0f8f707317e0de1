"""Joining Ray: a cluster that runs already (RAY_ADDRESS, a submitted job), or one of our own on this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from wmtp_ray.errors import ConfigError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # A `uv run` wrapper around every worker could give it another Python than the driver's.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # The controller polls the ranks this often: it bounds how late an end or a death is noticed.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def joined(num_cpus: int | None) -> Iterator[None]:
    """Be connected to Ray inside this block; leave it as it was found.

    `num_cpus` is what a cluster of our own declares (None: what Ray finds); one that runs already has its own number.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray  # seconds: only once a run starts

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        ray.init(num_cpus=num_cpus, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    else:
        # A client with an explicit address does not turn token authentication on by itself (Ray >= 2.59).
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


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
