"""The models that a run's weights are made with, found from its folder or its configuration, and loaded without Ray."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_value_path, weights_file
from wmtp_ray.artifacts.weights_files import CriticUsed, ModelUsed
from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.plan.run_plan import RunPlan, load_plan
from wmtp_ray.plan.versions import version_schedule
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.training.best_checkpoint import checkpoint_of
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.parallel import choose_device
from wmtp_ray.training.references import References
from wmtp_ray.training.row_scores import RowScores, values_of_critic, values_of_policy
from wmtp_ray.training.stages import policy_from, policy_stage
from wmtp_ray.training.stored_tensors import stored_form, whole_policy_tensors


@dataclass(frozen=True)
class PlannedRun:
    """A run with its plan of stage 2. `folder` is None where it is planned only, from the file `source`."""

    config: RunConfig
    plan: RunPlan
    source: Path
    folder: Path | None

    @classmethod
    def of_folder(cls, folder: Path) -> "PlannedRun":
        """Read a run's folder. Raises ArtifactError where it has no plan of stage 2."""
        if not RunFolder(folder).config.is_file():
            raise ArtifactError(f"{folder} holds no config.yaml, expected the folder of a run: storage/runs/NAME")
        return cls(load_resolved(RunFolder(folder).config), load_plan(folder, TRAIN_STAGE), folder, folder)

    def critic_bundle(self) -> Path | None:
        """Return the critic that stage 2 starts with, None for a value head as new.

        ArtifactError before stage 1 has ended: what it starts from is not yet the run's critic. ConfigError where a run
        over a file names none: the weights of an untrained critic are of no use.
        """
        own = RunFolder(self.folder).critic.final if self.folder is not None else None
        if own is not None and own.is_dir():
            return own
        if own is not None and CRITIC_STAGE in self.config.stages:
            raise ArtifactError(
                f"{self.folder} holds no critic yet, expected what its stage 1 leaves in {own}; let stage 1 end first: "
                f"run_name={self.config.run_name} --resume"
            )
        if self.folder is None and self.config.critic.path is None:
            raise ConfigError(
                f"found no critic for weighting.type={self.config.weighting.type}, expected one that is trained; give "
                "critic.path=DIR, what stage 1 of a run has left in critic/final"
            )
        return self.config.critic.path


@dataclass(frozen=True)
class WeighingModels:
    """What scores rows, and how a manifest names it. None and empty: the weights ask for none."""

    scores: RowScores
    critic: CriticUsed | None
    policy: ModelUsed | None
    references: tuple[ModelUsed, ...]


def load_weighing_models(
    run: PlannedRun, weighted: RunConfig, steps: range, *, policy_steps: int, device: str | None
) -> WeighingModels:
    """Load what the arm of `weighted` asks for, and nothing else; `weighted` is the configuration stage 2 runs with.

    `policy_steps` and `device` as in `training/export_weights.py::Wanted`. ConfigError and ArtifactError as there.
    """
    place = choose_device(device or weighted.train.device, local_rank=0)
    arm = weighted.weighting.arm
    bundle = run.critic_bundle() if arm.source == "critic" else None
    follows = arm.source == "critic" and weighted.critic.source == "policy"
    if policy_steps and not (follows or arm.needs_policy_losses):
        raise ConfigError(
            f"found --policy-steps {policy_steps}, expected none: the weights of weighting.type={arm.name} come from "
            f"{arm.reads}, which stage 2 does not change here"
        )
    references = [reference.path for reference in weighted.references]
    scores = RowScores(place, references=References(references, place, "float32") if references else None)
    policy, critic = None, None
    if follows or arm.needs_policy_losses:
        loss, policy = _policy(run, weighted, policy_steps, bundle if follows else None)
        scores = replace(scores, loss=loss.to(place).eval().requires_grad_(False))
    if arm.source == "critic":
        assert not follows or policy is not None
        scores, used = _with_critic(scores, weighted, bundle, policy if follows else None)
        versions = [version_schedule(weighted, run.plan).version_of(step) for step in (steps.start, steps.stop - 1)]
        named = None if bundle is None else str(bundle)
        critic = CriticUsed(used.steps, weighted.critic.source, named, used, (versions[0], versions[1]))
    own = policy if arm.needs_policy_losses else None
    return WeighingModels(scores, critic, own, tuple(_file_used(path) for path in references))


def _policy(run: PlannedRun, config: RunConfig, steps: int, bundle: Path | None) -> tuple[StageLoss, ModelUsed]:
    """The policy after so many steps, in the loss that asks it for losses and values."""
    build_loss = policy_stage(config).build_loss
    if steps == 0:
        torch.manual_seed(config.seed)
        policy = policy_from(config.model.path, bundle, config, ValueSpec.of(config).member)
        return build_loss(policy, config), replace(_file_used(config.model.path), value_head_sha256=_head(bundle))
    if run.folder is None:
        raise ConfigError(f"found --policy-steps {steps}, expected none: {run.source} is no run, which has checkpoints")
    checkpoint = checkpoint_of(RunFolder(run.folder).checkpoints, steps)
    args, spec = stored_form(checkpoint)
    policy, tensors = Policy(Transformer(args), spec), whole_policy_tensors(checkpoint, base=config.model.path)
    policy.load_state_dict(tensors)
    return build_loss(policy, config), ModelUsed(str(checkpoint), steps, tensors_sha256(tensors))


def _with_critic(
    scores: RowScores, config: RunConfig, bundle: Path | None, policy: ModelUsed | None
) -> tuple[RowScores, ModelUsed]:
    """Add V: by the value path of the policy, where the critic is the policy's own, else by the bundle's."""
    if policy is not None:
        assert scores.loss is not None
        return replace(scores, values_of=values_of_policy(scores.loss)), policy
    assert bundle is not None, "the schema asks for critic.path, or for stage 1"
    critic = load_value_path(bundle, ValueSpec.of(config))
    used = replace(_file_used(bundle), value_head_sha256=_head(bundle))
    return replace(scores, values_of=values_of_critic(critic, scores.device)), used


def _file_used(directory: Path) -> ModelUsed:
    return ModelUsed(str(directory), 0, file_sha256(weights_file(directory)))


def _head(bundle: Path | None) -> str | None:
    return None if bundle is None else file_sha256(ModelFolder(bundle).value_head)
