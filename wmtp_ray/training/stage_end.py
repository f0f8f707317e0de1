"""The end of a stage: the last measurements of the policy, its final weights, and the result that the driver reads."""

from collections.abc import Callable

import torch

from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import write_policy
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.tracking.kept_critic import KeptCritic
from wmtp_ray.training.process_memory import give_back_freed_memory, peak_bytes
from wmtp_ray.training.sharding import whole_tensors
from wmtp_ray.training.stage_start import RankStage
from wmtp_ray.training.stages import StageResult, write_stage_result
from wmtp_ray.training.step import TrainingStep


def finish_stage(
    stage: RankStage,
    training: TrainingStep,
    flush_reports: Callable[[], None],
    *,
    steps: int,
    kept: KeptCritic | None = None,
) -> None:
    """Write the final policy and the stage's result to its folder. Every rank calls it.

    `steps` were made; `kept` says which version of the critic the policy holds, if not the last. `flush_reports` comes
    before the result: who sees the result finds every report recorded.
    """
    ranks, policy = stage.ranks, training.policy
    policy.eval()
    training.optimizer.zero_grad(set_to_none=True)
    give_back_freed_memory()
    health = stage.recipe.finish(training.loss, stage.config)
    state = whole_tensors(policy.state_dict(), ranks)
    own_peak = torch.tensor([peak_bytes(stage.device)], dtype=torch.int64)
    largest = max(int(each) for each in ranks.gather(own_peak))
    if ranks.rank != 0:
        return
    flush_reports()
    state = policy.merged(state)
    write_policy(StageFolder(stage.directory).final, policy.transformer.args, policy.spec, state)
    result = StageResult(
        stage.recipe.stage, steps, tensors_sha256(state), health, peak_bytes=largest or None, kept=kept
    )
    write_stage_result(stage.directory, result)
