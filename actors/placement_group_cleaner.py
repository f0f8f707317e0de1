"""Ray Train's cleaner of placement groups, asking the cluster that it runs on whether the controller still lives.

Ray Train 2.60 starts a detached actor that gives the ranks' placement group back when their controller has died. It
asks the state API, at the address that the last `ray start` on this machine has left in Ray's temporary folder: a
head that is gone does not answer, which costs twelve seconds at the end of every stage; another live head answers
that there is no such controller. This one asks the GCS that its own process is connected to, which answers in
milliseconds and needs no dashboard.
"""

from typing import Any

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import placement_group_cleaner

_CHECK_INTERVAL_S = 0.5  # also how long a stage waits at its end for the cleaner to hear of it


def is_alive_here(actor_id: str, timeout: float) -> bool:
    """Return whether an actor of this cluster lives; True where its GCS does not say."""
    from ray._private import state

    try:
        found = state.actors(actor_id)
    except Exception:  # a GCS that is gone takes the cluster and its placement groups with it
        return True
    return bool(found) and found["State"] != "DEAD"


class OwnClusterCleaner(placement_group_cleaner.PlacementGroupCleaner):
    """Ray's cleaner in a process of its own, in which the question is put to this cluster."""

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        placement_group_cleaner.is_actor_alive = is_alive_here  # type: ignore[attr-defined]


class OwnClusterCleanerCallback(PlacementGroupCleanerCallback):
    """Starts that cleaner in the place of Ray's; runs in the controller."""

    def __init__(self) -> None:
        super().__init__(check_interval_s=_CHECK_INTERVAL_S)

    def after_controller_start(self, train_run_context: Any) -> None:
        """Start the cleaner, which outlives the controller and ends itself after it."""
        self._controller_actor_id = ray.get_runtime_context().get_actor_id()
        remote: Any = ray.remote(OwnClusterCleaner).options(
            num_cpus=0,
            lifetime="detached",
            resources={HEAD_NODE_RESOURCE_NAME: 0.001},
            scheduling_strategy="DEFAULT",
        )
        cleaner = remote.remote(
            controller_actor_id=self._controller_actor_id,
            check_interval_s=self._check_interval_s,
            get_actor_timeout_s=self._get_actor_timeout_s,
            stop_timeout=self._stop_timeout,
        )
        cleaner.start_monitoring.remote()
        self._cleaner = cleaner
