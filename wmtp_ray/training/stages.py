"""The two stages that train, as data: which policy they start from, what they minimise, what they measure at the end.

Stage 1 trains the critic's value head (and, with a critic of its own, the trunk below it) and measures its health on
held-out problems. Stage 2 trains the policy. `stage_run.py` runs either without knowing which.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, load_value_head, stored_value_spec, weights_file
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.index_file import load_index
from wmtp_ray.data.prompt_label import told_when_asked
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_ensemble import ValueEnsemble
from wmtp_ray.model.value_model import ValueModel
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.problem_halves import ProblemHalves
from wmtp_ray.ranks import current_ranks
from wmtp_ray.run_folder import StageFolder
from wmtp_ray.saved_records import read_record, write_exact_record
from wmtp_ray.scoring.contract import Scorer
from wmtp_ray.scoring.scorers import UniformScorer, build_scorer
from wmtp_ray.tracking.kept_critic import KeptCritic
from wmtp_ray.tracking.token_evidence import TokenEvidence, write_token_evidence
from wmtp_ray.training.collect_evidence import collect_token_evidence, held_out_loss
from wmtp_ray.training.drift_watch import CriticDrift, build_critic_drift
from wmtp_ray.training.ensemble_loss import EnsembleLoss
from wmtp_ray.training.losses import CriticLoss, PolicyLoss, StageLoss
from wmtp_ray.training.measure_critic import HealthFindings, health_of, held_out_rows, judge_held_out, measure_health


@dataclass(frozen=True)
class StageResult:
    """What rank 0 leaves in the stage's folder when the stage is done."""

    stage: int
    steps: int
    policy_sha256: str
    health: HealthFindings | None = field(default=None)
    peak_bytes: int | None = None  # of the largest rank: `peak_memory` says of what
    kept: KeptCritic | None = None  # where stage 1 kept its best version


@dataclass(frozen=True)
class StageRecipe:
    """What differs between the stages; module-level functions only, so that it crosses to the ranks."""

    stage: int
    build_policy: Callable[[RunConfig], Policy]
    build_loss: Callable[[Policy, RunConfig], StageLoss]
    build_scorer: Callable[[RunConfig, int], Scorer]
    watch_drift: Callable[[StageLoss, RunConfig], CriticDrift | None]
    finish: Callable[[StageLoss, RunConfig], HealthFindings | None]
    peak_learning_rate: float


def critic_stage(config: RunConfig) -> StageRecipe:
    """Stage 1."""
    rate = config.critic_stage.learning_rate
    return StageRecipe(1, _critic_start, _critic_loss, _no_weighting, _no_drift, measure_health, rate)


def policy_stage(config: RunConfig) -> StageRecipe:
    """Stage 2."""
    rate = config.train.learning_rate
    return StageRecipe(2, _policy_start, _policy_loss, build_scorer, build_critic_drift, _look_at_held_out, rate)


def stage_directory(config: RunConfig, stage: int) -> Path:
    """Stage 2 owns the run's folder, stage 1 the folder `critic` in it."""
    return config.folder.stage(stage).path


def critic_bundle(config: RunConfig) -> Path | None:
    """Return the critic that stage 2 starts with: what this run's stage 1 left, else `critic.path`, else None."""
    own = config.folder.critic.final
    return own if own.is_dir() else config.critic.path


def freeze_for_critic(policy: Policy, config: RunConfig) -> None:
    """Leave the value path to stage 1, for pairs without the bias of V.

    A pairwise loss does not see a shift of V, so the bias gets rounding errors for a gradient, others for every split
    into ranks; AdamW would turn them into steps of full size.
    """
    policy.train_value_path_only(train_trunk=config.critic.train_trunk)
    if config.critic.objective == "pairwise":
        for head in policy.value_heads:
            head.output.bias.requires_grad_(False)


def write_stage_result(directory: Path, result: StageResult) -> None:
    """Write the result where the driver and a resumed run read it."""
    write_exact_record(StageFolder(directory).stage_result, result)


def read_stage_result(directory: Path) -> StageResult | None:
    """Return the result of a stage that is done, else None."""
    path = StageFolder(directory).stage_result
    if not path.is_file():
        return None
    return read_record(path, StageResult, "remove it, and start the run again with --resume: the stage ends anew")


def write_failure(directory: Path, message: str) -> None:
    """Save the reason of a rank's failure that a restart would only repeat."""
    atomic_write(StageFolder(directory).failure, message.encode())


def read_failure(directory: Path) -> str | None:
    """Return the saved reason, or None where no rank failed for good."""
    path = StageFolder(directory).failure
    return path.read_text() if path.is_file() else None


def clear_failure(directory: Path) -> None:
    """Remove the saved reason: a new start may succeed, with the disk freed."""
    StageFolder(directory).failure.unlink(missing_ok=True)


def _critic_start(config: RunConfig) -> Policy:
    """The model with a value head, of which only the value path learns; `critic.path` gives a head to go on from."""
    own_trunk = config.critic.path if config.critic.source == "frozen" else None
    policy = policy_from(own_trunk or config.model.path, config.critic.path, config, ValueSpec.of(config))
    freeze_for_critic(policy, config)
    return policy


def _policy_start(config: RunConfig) -> Policy:
    """The model, with the value head of the critic bundle where the critic is the policy's own, and its adapters.

    The policy's own head is a single one, whatever ensemble scores. It leaves the optimizer when no loss reaches it:
    DDP needs every parameter to be used.
    """
    bundle = critic_bundle(config) if config.critic.source == "policy" else None
    policy = policy_from(config.model.path, bundle, config, ValueSpec.of(config).member)
    if config.model.lora is not None:
        base_sha256 = file_sha256(weights_file(config.model.path))
        policy.add_adapters(config.model.lora, base_sha256=base_sha256, seed=config.seed)
    if config.train.value_coef == 0.0 and config.critic.anchor_coef == 0.0:
        policy.value_head.requires_grad_(False)
    return policy


def policy_from(model: Path, bundle: Path | None, config: RunConfig, spec: ValueSpec) -> Policy:
    """Join the transformer of one directory with the value head of another, or with a fresh one."""
    stored = None if bundle is None else stored_value_spec(bundle, spec)
    has_trunks = stored is not None and stored.trunks == "own"
    policy = Policy(load_transformer(model), replace(spec, trunks="own") if has_trunks else spec)
    for module in policy.modules():
        if isinstance(module, Transformer | ValueModel):
            module.activation_checkpointing = config.model.activation_checkpointing
    if bundle is None:
        return policy
    if isinstance(policy.value_head, ValueEnsemble) and not has_trunks:
        if stored is not None:  # heads over one trunk, of which each gets its copy
            policy.value_head.load_heads(load_value_head(bundle, spec).state_dict())
        return policy
    policy.value_head.load_state_dict(load_value_head(bundle, spec).state_dict())
    return policy


def _critic_loss(policy: Policy, config: RunConfig) -> CriticLoss:
    if config.critic.ensemble == 1:
        return CriticLoss(policy, config)
    index = load_index(config.data.train_file, config.data.index_file)
    return EnsembleLoss(policy, config, ProblemHalves.of(index, config))


def _policy_loss(policy: Policy, config: RunConfig) -> PolicyLoss:
    return PolicyLoss(policy, config, policy.transformer.args.n_future_tokens)


def _no_weighting(config: RunConfig, num_horizons: int) -> UniformScorer:
    return UniformScorer(num_horizons, config.weighting)


def _no_drift(loss: StageLoss, config: RunConfig) -> None:
    """Stage 1 makes the critic: it has no start to drift from."""


def _look_at_held_out(loss: StageLoss, config: RunConfig) -> HealthFindings | None:
    """Write token_evidence.json and return the final health of the critic that the policy holds; None without one."""
    index, rows_N = held_out_rows(config)
    responses = judge_held_out(loss, config, index, rows_N, told_when_asked(config.data.condition))
    own_critic = critic_bundle(config) if config.critic.source == "frozen" else None
    pairs = collect_token_evidence(loss, config, index, rows_N, own_critic)
    if current_ranks().rank == 0:
        weighting = config.weighting
        found = held_out_loss(responses)
        evidence = TokenEvidence(weighting.type, weighting.clip_min, weighting.clip_max, found, pairs)
        write_token_evidence(stage_directory(config, 2), evidence)
    return health_of(responses, config) if config.uses_critic and config.critic.source == "policy" else None
