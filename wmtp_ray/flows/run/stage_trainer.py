"""The Ray Train run of one stage: how many ranks, with which resources, and how they are cleaned up."""

import uuid
from typing import Any

import ray
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from actors.placement_group_cleaner import OwnClusterCleanerCallback
from actors.policy_worker import RankJob, run_rank
from wmtp_ray.config.schema import RunConfig


def stage_trainer(config: RunConfig, job: RankJob) -> TorchTrainer:
    """Return the trainer of one stage; its name is new each time, since Ray would resume a name that it knows."""
    cluster = config.cluster
    use_gpu = cluster.gpus_per_worker > 0
    resources = {"CPU": cluster.cpus_per_worker} | ({"GPU": cluster.gpus_per_worker} if use_gpu else {})
    return _StageTrainer(
        run_rank,
        train_loop_config={"job": ray.put(job), "start_s": config.deadlines.start_s},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=int(config.deadlines.collective_s)),
        scaling_config=ScalingConfig(
            num_workers=config.train.num_workers, use_gpu=use_gpu, resources_per_worker=resources
        ),
        run_config=RayRunConfig(
            name=f"stage_{job.recipe.stage}_{uuid.uuid4().hex[:8]}",
            storage_path=str(config.folder.ray),
            failure_config=FailureConfig(max_failures=config.train.max_restarts),
        ),
    )


class _StageTrainer(TorchTrainer):
    """A TorchTrainer whose placement group is watched over on its own cluster."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # of V2, which Ray puts in its place
        others = [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]
        assert len(others) == len(callbacks) - 1, "Ray Train has another way to clean up: look at its callbacks again"
        return [*others, OwnClusterCleanerCallback()]
