"""The shape of a run's configuration: every key, its type, unit, range and effect.

No field has a default here: values live in `configs/` (defaults.yaml, then recipe, preset and `key=value`), so that
each has one home. Validation is pydantic's; messages for people are made in `config/load.py`. Imports neither torch
nor ray.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wmtp_ray.config.critic import CriticConfig, CriticStageConfig
from wmtp_ray.config.data import SUFFIX as SUFFIX
from wmtp_ray.config.data import DataConfig as DataConfig
from wmtp_ray.config.effects import EVALUATION, MACHINE, NAME, PACE, PLAN, ROUNDING, STAGE_2, TRAINING, Effects, setting
from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.config.evaluation import EvaluationConfig, check_best_by_pass
from wmtp_ray.config.machine import ClusterConfig as ClusterConfig
from wmtp_ray.config.machine import DeadlinesConfig, TrackingConfig
from wmtp_ray.config.machine import GpuType as GpuType
from wmtp_ray.config.rounds import RoundsConfig
from wmtp_ray.config.sampling import Stage2Sampling, check_difficulties, check_labels
from wmtp_ray.config.section import Count, Epochs, Fraction, Positive, Section
from wmtp_ray.config.storage_root import StorageRoot
from wmtp_ray.config.tags import Tags
from wmtp_ray.config.token_weights import WeightingConfig as WeightingConfig
from wmtp_ray.run_folder import RunFolder, runs_of

PEFT_IS_MISSING = "adapters (model.lora) need the package peft, which is not installed: pip install 'wmtp_ray[lora]'"


class LoraConfig(Section):
    """Low-rank adapters: a matrix W learns as W + alpha / rank * B A, of which A and B alone are trained."""

    rank: Count = setting(PLAN | STAGE_2, "Inner width of B A.")
    alpha: Count = setting(PLAN | STAGE_2, "B A counts alpha / rank times.")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(PLAN | STAGE_2, "Dropout of an adapter's input.")
    targets: Annotated[tuple[Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"], ...], Field(min_length=1)] = setting(
        PLAN | STAGE_2, "Matrices with an adapter, in every block, those of the prediction heads included."
    )

    @model_validator(mode="after")
    def _peft_is_installed(self) -> Self:
        if importlib.util.find_spec("peft") is None:
            raise ValueError(PEFT_IS_MISSING)
        return self


class ModelConfig(Section):
    """The policy's weights: a directory with params.json and model.safetensors or consolidated.pth."""

    path: Path = setting(PLAN | TRAINING | EVALUATION, "Directory in Meta's layout (params.json beside the weights).")
    activation_checkpointing: bool = setting(
        PLAN | TRAINING | PACE, "Recompute each block in the backward pass; saves memory."
    )
    lora: LoraConfig | None = setting(
        PLAN | STAGE_2, "Stage 2 trains adapters and the value head alone; None: all weights."
    )


class TokenizerConfig(Section):
    """The tokenizer shared by policy, critic and reference."""

    path: Path = setting(
        PLAN | TRAINING | EVALUATION,
        "tokenizer.model (SentencePiece) or tokenizer.json (byte-level BPE) of the policy.",
    )


class Rho1Config(Section):
    """Excess-loss selection against a reference model."""

    mode: Literal["topk", "weighted"] = setting(STAGE_2, "topk: keep or drop (the paper); weighted: soft weights.")
    keep_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = setting(STAGE_2, "Share of pairs kept per horizon.")
    temperature: Positive = setting(STAGE_2, "Of `weighted`: clip(exp(excess / temperature)).")


class ReferenceConfig(Section):
    """The reference models; their tokenizers must be the policy's."""

    path: Path | None = setting(PLAN | STAGE_2, "Directory in Meta's layout; None where no arm needs a reference.")
    tokenizer_path: Path | None = setting(PLAN | STAGE_2, "Its tokenizer.model; None: the policy's own file.")
    incorrect_path: Path | None = setting(
        PLAN | STAGE_2, "Type contrast: a second reference, of incorrect rows where `path` is of correct ones."
    )
    incorrect_tokenizer_path: Path | None = setting(
        PLAN | STAGE_2, "The second reference's tokenizer.model; None: the policy's own file."
    )


@dataclass(frozen=True)
class ReferenceModel:
    """A reference that a run reads; its settings are `<prefix>path` and `<prefix>tokenizer_path`."""

    prefix: str
    path: Path
    tokenizer_path: Path | None


class LossConfig(Section):
    """The policy's loss."""

    normalizer: Literal["tokens", "weights"] = setting(STAGE_2, "Denominator: supervised pairs, or their weights.")
    horizon_coefs: tuple[Annotated[float, Field(ge=0.0)], ...] | None = setting(
        PLAN | STAGE_2, "Per horizon; None = ones."
    )
    horizon_schedule: Literal["forward"] | None = setting(
        PLAN | STAGE_2, "forward: horizons come in one after the other over the run; None: all from the first step."
    )
    max_logits_mb: Positive = setting(PLAN | TRAINING | ROUNDING, "Memory for logits beside the gradients, MiB.")

    @model_validator(mode="after")
    def _every_part_trains_a_horizon(self) -> Self:
        if self.horizon_schedule is not None and self.horizon_coefs and self.horizon_coefs[0] == 0.0:
            raise ValueError(
                f"horizon_schedule={self.horizon_schedule} with horizon_coefs={list(self.horizon_coefs)}: the run "
                "would begin with horizon 1 alone, whose coefficient is 0; give it one above 0, or set "
                "horizon_schedule=null"
            )
        return self


class ValueCoefs(Section):
    """What `train.value_coef` is unless it is set, by `critic.source`.

    A frozen critic scores with a value path of its own: a value loss would train a head of the policy that scores
    nothing. Set `train.value_coef` to have one all the same; its metrics are named `policy_head/...`.
    """

    policy: Annotated[float, Field(ge=0.0)] = setting(PLAN | STAGE_2, "The policy's own value path scores.")
    frozen: Annotated[float, Field(ge=0.0)] = setting(PLAN | STAGE_2, "Another critic scores.")


class TrainConfig(Section):
    """Stage 2: the optimizer, its schedule and its batches."""

    epochs: Epochs = setting(
        PLAN | STAGE_2, "Passes over the drawn rows, 0.1 for a tenth of one; the difficulty schedule spans all of them."
    )
    max_steps: Count | None = setting(
        PLAN | STAGE_2, "Upper bound of optimizer steps; phases and schedule shrink with it."
    )
    finish_correct_frac: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        PLAN | STAGE_2, "Share of the steps, the last ones, that draw correct rows and weigh every token alike."
    )
    batch_rows: Count = setting(PLAN | STAGE_2, "Rows of an optimizer step, all ranks together.")
    batch_sequences: Count | None = setting(
        PLAN | STAGE_2, "Packed sequences of micro_batch_tokens in a step, instead of batch_rows rows; None: rows."
    )
    micro_batch_tokens: Count = setting(PLAN | TRAINING | ROUNDING, "Tokens of one forward on one rank, at most.")
    learning_rate: Positive = setting(STAGE_2, "Peak learning rate of AdamW.")
    min_learning_rate_frac: Fraction = setting(TRAINING, "Cosine ends at this share of the peak.")
    warmup_frac: Fraction = setting(TRAINING, "Share of the steps that warm up linearly.")
    weight_decay: Annotated[float, Field(ge=0.0)] = setting(TRAINING, "AdamW's, on matrices only.")
    adam_betas: tuple[Fraction, Fraction] = setting(TRAINING, "AdamW's.")
    max_grad_norm: Positive = setting(TRAINING, "Global gradient-norm clip.")
    value_coef: Annotated[float, Field(ge=0.0)] = setting(STAGE_2, "Weight of the value loss of the policy's head.")
    value_coef_by_source: ValueCoefs
    num_workers: Count = setting(PLAN | TRAINING | ROUNDING, "Ranks.")
    device: Literal["auto", "cpu", "mps", "cuda"] = setting(
        PLAN | TRAINING | EVALUATION | ROUNDING, "auto: cuda, then mps, then cpu."
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        PLAN | TRAINING | EVALUATION, "Of the forward pass; bfloat16 on CUDA only."
    )
    checkpoint_every: Count = setting(TRAINING | PACE, "Steps between checkpoints.")
    keep_checkpoints: Count = setting(TRAINING | PACE, "Newest checkpoints kept.")
    keep_best_checkpoints: Annotated[int, Field(ge=0)] = setting(
        TRAINING | PACE, "Kept beside the newest: the best ones by keep_best_by."
    )
    keep_best_by: Literal["loss", "pass@1"] = setting(
        TRAINING | PACE,
        "loss: the lowest, averaged since the checkpoint before; pass@1: the highest of evaluation.every_steps.",
    )
    max_restarts: Annotated[int, Field(ge=0)] = setting(
        TRAINING | PACE, "Restarts of the ranks after one of them died."
    )
    sampling: Stage2Sampling
    parallel: Literal["ddp", "fsdp2"] = setting(
        PLAN | TRAINING | ROUNDING,
        "Several ranks each hold all weights (ddp), or a share of weights, gradients and optimizer (fsdp2).",
    )
    reduce_gradients: Literal["step", "micro_batch"] = setting(
        PLAN | TRAINING | ROUNDING,
        "How often ranks meet; micro_batch with fsdp2: gradients stay sharded between micro-batches too.",
    )

    @model_validator(mode="after")
    def _shards_have_a_device(self) -> Self:
        if self.parallel == "fsdp2" and self.device == "mps":
            raise ValueError("parallel=fsdp2 with device=mps: MPS has no collectives; use parallel=ddp, num_workers=1")
        return self


class RunConfig(Section):
    """A whole run, resolved."""

    recipe: str = setting(PLAN | TRAINING, "Name of configs/recipe.<name>.yaml.")
    preset: str | None = setting(MACHINE, "Names of configs/preset.<name>.yaml, comma-separated.")
    run_name: str = setting(
        NAME,
        "Folder under storage_root/runs; SWEEP/TRIAL for a trial of a sweep.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        expected="letters, digits, dots, dashes and underscores, a letter or digit first",
    )
    tags: Tags = setting(MACHINE, "Free tags, logged.")
    stages: tuple[Annotated[int, Field(ge=0, le=3)], ...] = setting(
        PLAN | NAME, "0 prepare, 1 critic, 2 train, 3 evaluate."
    )
    seed: int = setting(PLAN | TRAINING | EVALUATION, "Base seed of everything random that has none of its own.")
    storage_root: StorageRoot = setting(PLAN | NAME, "Absolute home of models, datasets and runs.")
    model: ModelConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    rounds: RoundsConfig
    weighting: WeightingConfig
    rho1: Rho1Config
    reference: ReferenceConfig
    critic: CriticConfig
    critic_stage: CriticStageConfig
    loss: LossConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    engine: EngineConfig
    cluster: ClusterConfig
    deadlines: DeadlinesConfig
    tracking: TrackingConfig

    @property
    def run_dir(self) -> Path:
        """Everything this run writes."""
        return runs_of(self.storage_root) / self.run_name

    @property
    def folder(self) -> RunFolder:
        """The paths inside `run_dir`."""
        return RunFolder(self.run_dir)

    @property
    def uses_critic(self) -> bool:
        """Whether stage 2 needs a critic: for the weights, or as the old values of the value loss."""
        return self.weighting.needs_values or self.reads_values_always

    @property
    def evaluates_meanwhile(self) -> bool:
        """Whether the policy is evaluated while it trains."""
        return self.evaluation.step_interval > 0 and 2 in self.stages

    @property
    def reads_values_always(self) -> bool:
        """Whether a step reads the critic's values whatever weighs its tokens: as the old values of the value loss."""
        return self.train.value_coef > 0.0 or self.critic.anchor_coef > 0.0

    @property
    def needs_reference(self) -> bool:
        """Whether stage 2 needs the losses of a reference model."""
        return self.weighting.arm.source == "reference"

    @property
    def references(self) -> tuple[ReferenceModel, ...]:
        """The references that stage 2 reads, that of correct rows first."""
        of, arm = self.reference, self.weighting.arm
        found: list[ReferenceModel] = []
        if self.needs_reference and of.path is not None:
            found.append(ReferenceModel("reference.", of.path, of.tokenizer_path))
        if arm.needs_two_references and of.incorrect_path is not None:
            found.append(ReferenceModel("reference.incorrect_", of.incorrect_path, of.incorrect_tokenizer_path))
        return tuple(found)

    @property
    def compared_file(self) -> Path | None:
        """The rows that stage 2 compares with, where it does so and they are not those of data.train_file."""
        return self.weighting.compared_file if self.compares_rows else None

    @property
    def compares_rows(self) -> bool:
        """Whether stage 2 asks what sets a row apart from others of its problem."""
        return 2 in self.stages and self.weighting.arm.needs_edits

    @model_validator(mode="after")
    def _difficulties_are_of_their_source(self) -> Self:
        check_difficulties(self.data.difficulty_source, self.train.sampling, self.critic_stage.sampling)
        check_labels(self.data.policy_rows, self.train.sampling)
        return self

    @model_validator(mode="after")
    def _engine_has_its_server(self) -> Self:
        asks_server, engine = self.evaluation.engine == "openai", self.engine
        if asks_server and engine.url is None:
            raise ValueError(
                "evaluation.engine=openai with engine.url=null: no server is named; give "
                "engine.url=http://HOST:PORT/v1, or evaluation.engine=native"
            )
        if not asks_server and engine.url is not None:
            raise ValueError(
                f"engine.url={engine.url} with evaluation.engine=native: the server would not be asked; set "
                "evaluation.engine=openai, or engine.url=null"
            )
        if asks_server and engine.silence_s >= self.deadlines.evaluation_s:
            raise ValueError(
                f"engine.silence_s={engine.silence_s:g} is not below deadlines.evaluation_s="
                f"{self.deadlines.evaluation_s:g}, which would end the wait first; lower one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _rounds_train_a_policy(self) -> Self:
        self.rounds.check_of_run(self.run_name, self.evaluation.engine)
        return self

    @model_validator(mode="after")
    def _best_by_pass_has_what_it_compares(self) -> Self:
        train = self.train
        if train.keep_best_by == "pass@1":
            check_best_by_pass(self.evaluation, train.checkpoint_every, train.keep_best_checkpoints)
        return self

    @model_validator(mode="after")
    def _no_critic_reads_the_label(self) -> Self:
        if self.data.condition == "label" and self.uses_critic:
            raise ValueError(
                f"data.condition=label with a critic (weighting.type={self.weighting.type}, train.value_coef="
                f"{self.train.value_coef:g}, critic.anchor_coef={self.critic.anchor_coef:g}): the prompt would tell it "
                "the reward that it has to predict. Set train.value_coef=0, critic.anchor_coef=0 and a weighting.type "
                "that reads no critic, such as uniform; or data.condition=none"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.stages or list(self.stages) != sorted(set(self.stages)):
            raise ValueError(
                f"stages={list(self.stages)}; give each stage once and in order, for example stages=[0,1,2]"
            )
        if self.needs_reference and self.reference.path is None:
            raise ValueError(f"weighting.type={self.weighting.type} needs a reference model; give reference.path=DIR")
        if self.weighting.arm.needs_two_references and self.reference.incorrect_path in (None, self.reference.path):
            raise ValueError(
                f"weighting.type={self.weighting.type} compares reference.path={self.reference.path} with a second "
                f"reference, found reference.incorrect_path={self.reference.incorrect_path}; give "
                "reference.incorrect_path=DIR, another model, fine-tuned on incorrect rows"
            )
        has_critic = self.critic.path is not None or 1 in self.stages
        if self.critic.source == "frozen" and not has_critic and self.uses_critic:
            raise ValueError(
                "critic.source=frozen needs a critic: give critic.path=DIR, or train one in this run with stage 1 in "
                "stages"
            )
        if self.needs_reference and self.uses_critic:
            raise ValueError(
                f"weighting.type={self.weighting.type} has a reference for scorer and no critic: set "
                "train.value_coef=0 and critic.anchor_coef=0"
            )
        if self.critic.train_trunk and self.critic.source == "policy":
            raise ValueError(
                "critic.train_trunk=true would move the policy's own trunk in stage 1: set critic.source=frozen, so "
                "that the critic has a trunk of its own"
            )
        if self.critic.ensemble > 1 and self.critic.source == "policy":
            raise ValueError(
                f"critic.ensemble={self.critic.ensemble} with critic.source=policy: the policy carries one value head, "
                "and each member of an ensemble learns from its half of the problems in stage 1 alone; set "
                "critic.source=frozen, or critic.ensemble=1"
            )
        if self.weighting.max_disagreement is not None and self.critic.ensemble == 1:
            raise ValueError(
                f"weighting.max_disagreement={self.weighting.max_disagreement} with critic.ensemble=1: only the "
                "members of an ensemble can disagree; set critic.ensemble to 2 or more, or "
                "weighting.max_disagreement=null"
            )
        if self.train.batch_rows < self.train.num_workers:
            raise ValueError(
                f"train.batch_rows={self.train.batch_rows} is below train.num_workers={self.train.num_workers}; "
                "every rank needs a row in every step: raise batch_rows or lower num_workers"
            )
        if (self.train.batch_sequences or 0) % self.train.num_workers:
            raise ValueError(
                f"train.batch_sequences={self.train.batch_sequences} cannot be dealt to train.num_workers="
                f"{self.train.num_workers} ranks; make it a multiple"
            )
        if self.train.micro_batch_tokens < self.data.max_tokens:
            raise ValueError(
                f"train.micro_batch_tokens={self.train.micro_batch_tokens} is below data.max_tokens="
                f"{self.data.max_tokens}; the longest row must fit one micro-batch: raise micro_batch_tokens"
            )
        if self.train.dtype == "bfloat16" and self.train.device in ("cpu", "mps"):
            raise ValueError(f"train.dtype=bfloat16 with train.device={self.train.device}; use float32 there")
        return self


@functools.cache
def effects() -> Effects:
    """Return what every setting of a run affects."""
    return Effects(RunConfig)
