"""Publishing the critic: rank 0 writes the policy's value path as a file, at the steps that the schedule names.

With `critic.ema_decay` d > 0 a version is the moving average d * (version before) + (1 - d) * (value path now). Which
version scores which step is in `plan/versions.py`, the files are in `artifacts/snapshots.py`.
"""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.snapshots import SnapshotDirectory, open_attempt, version_of_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.plan.versions import VersionSchedule
from wmtp_ray.ranks import Ranks
from wmtp_ray.training.block_limit import Limit
from wmtp_ray.training.sharding import whole_tensors

_LOG = logging.getLogger(__name__)


class NoVersions:
    """The port of a stage in which no scorer follows the policy: it publishes nothing."""

    directory: Path | None = None

    def publish(self, done: int) -> None:
        """Do nothing."""

    def needed_after(self, done: int) -> list[Path]:
        """Return no files."""
        return []


class PublishedPolicy:
    """The versions that this start of the ranks publishes. Every rank makes one and calls it."""

    def __init__(
        self,
        policy: Policy,
        snapshots: SnapshotDirectory,
        schedule: VersionSchedule,
        config: RunConfig,
        ranks: Ranks,
        limit: Limit,
    ) -> None:
        self.directory: Path | None = snapshots.path
        self._snapshots = snapshots
        self._policy = policy
        self._schedule = schedule
        self._decay = config.critic.ema_decay
        self._deadline_s = config.deadlines.publish_s
        self._ranks = ranks
        self._limit = limit

    def publish(self, done: int) -> None:
        """Publish the value path as version `done` where the schedule says so; drop versions that no step needs."""
        if not self._schedule.is_published_at(done):
            return
        current = whole_tensors(value_path_state(self._policy), self._ranks)
        if self._ranks.rank != 0:
            return
        what = f"Publishing version {done} of the critic (deadlines.publish_s)"
        with self._limit(what, self._deadline_s):
            self._snapshots.put(done, self._averaged(current))
            self._snapshots.drop_before(self._schedule.version_of(done))
        _LOG.info("Version %d of the critic published", done)

    def needed_after(self, done: int) -> list[Path]:
        """Return the files of the versions that score the steps from `done` on."""
        return self._snapshots.files(self._schedule.version_of(done))

    def _averaged(self, current: dict[str, Tensor]) -> dict[str, Tensor]:
        previous = self._snapshots.files()
        if self._decay == 0.0 or not previous:
            return current
        last = self._snapshots.get(version_of_file(previous[-1]), self._deadline_s)
        return {name: self._decay * last[name] + (1.0 - self._decay) * tensor for name, tensor in current.items()}


def open_snapshots(root: Path, carried: list[Path], ranks: Ranks) -> SnapshotDirectory:
    """Agree with all ranks on a directory of this start; rank 0 makes it, with the versions that a checkpoint carried.

    When it returns the directory is there.
    """
    proposal = torch.tensor([int.from_bytes(os.urandom(4), "big")], dtype=torch.int64)
    attempt = f"attempt_{int(ranks.gather(proposal)[0]):08x}"
    if ranks.rank == 0:
        open_attempt(root, attempt, carried)
    ranks.sum(torch.zeros(1))
    return SnapshotDirectory(root / attempt)
