"""`wmtp export-weights`: the planned rows of a run with the weights of its arm, as files for other trainers.

Of a run's folder, or of a run that is planned and not trained. One process, no Ray; the folder stays as it is. Models
are those of the start unless a step is asked for: a run whose critic follows the policy, or whose weights come from the
policy's own losses, has others at later steps, and the manifest says so.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wmtp_ray.artifacts.weights_files import UsedRow, WeightsManifest, require_new, write_weights
from wmtp_ray.config.load import dump_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.plan.run_plan import PLAN_VERSION, RunPlan
from wmtp_ray.run_folder import TRAIN_STAGE
from wmtp_ray.tracking.training_record import weighting_begun_with
from wmtp_ray.training.critic_gate import gate_given_critic
from wmtp_ray.training.weigh_plan import PlanToWeigh
from wmtp_ray.training.weighing_models import PlannedRun, WeighingModels, load_weighing_models

_DENOMINATOR = {
    "tokens": "of each step and horizon: the pairs that may be trained; of an arm that drops pairs, those it keeps",
    "weights": "of each step and horizon: the sum of |weight|, before a push is multiplied by its probability",
}


@dataclass(frozen=True)
class Wanted:
    """Which rows, and by which models.

    The steps from `first_step` to before `stop_step` (None: all), of these the first `max_rows` rows. `policy_steps`:
    the policy, and the critic where it is the policy's own, after so many steps. `device` None: the run's.
    """

    first_step: int = 0
    stop_step: int | None = None
    max_rows: int | None = None
    policy_steps: int = 0
    device: str | None = None

    def range_of(self, plan: RunPlan) -> range:
        """Return the steps; ConfigError where the plan has none of them."""
        stop = plan.num_steps if self.stop_step is None else self.stop_step
        if not 0 <= self.first_step < stop <= plan.num_steps or (self.max_rows is not None and self.max_rows < 1):
            raise ConfigError(
                f"found the steps {self.first_step}:{stop} and the limit {self.max_rows}, expected steps within "
                f"0:{plan.num_steps}, those of the plan, and one row or more; set --steps and --limit so"
            )
        return range(self.first_step, stop)


def export_weights(run: PlannedRun, out: Path, wanted: Wanted) -> WeightsManifest:
    """Write weights.parquet, weights.jsonl and manifest.json to a new folder `out`.

    Raises a WmtpError before any model is loaded: for a folder that holds something, steps that the plan lacks, a
    critic or a checkpoint that is not there, a critic that critic.gate stops.
    """
    require_new(out)
    steps = wanted.range_of(run.plan)
    config, notes = _as_weighted(run)
    tokenizer, num_horizons = run_tokenizer(config), ModelSpec.read(config.model.path).num_horizons
    rows = TrainedRows.of_stage(config, TRAIN_STAGE)
    models = load_weighing_models(run, config, steps, policy_steps=wanted.policy_steps, device=wanted.device)
    to_weigh = PlanToWeigh(config, run.plan, rows, tokenizer, models.scores, num_horizons)
    manifest = WeightsManifest(
        source=str(run.source.absolute()),
        weighting=config.weighting.type,
        asked_weighting=run.config.weighting.type,
        config_sha256=hashlib.sha256(dump_config(run.config).encode()).hexdigest(),
        plan_sha256=run.plan.digest,
        plan_version=PLAN_VERSION,
        dataset=rows.index.path,
        dataset_fingerprint=run.plan.dataset_fingerprint,
        tokenizer=str(config.tokenizer.path),
        tokenizer_sha256=tokenizer.sha256,
        critic=models.critic,
        policy=models.policy,
        references=models.references,
        normalizer=config.loss.normalizer,
        denominator=_DENOMINATOR[config.loss.normalizer],
        num_horizons=num_horizons,
        horizon_coefs=config.loss.horizon_coefs or (1.0,) * num_horizons,
        horizon_starts=run.plan.horizon_starts,
        differs_by_horizon=config.weighting.differs_by_horizon and num_horizons > 1,
        first_step=steps.start,
        notes=(*notes, *_notes(config, models)),
    )
    return write_weights(out, manifest, _used_rows(to_weigh, steps, wanted.max_rows))


def _used_rows(to_weigh: PlanToWeigh, steps: range, max_rows: int | None) -> Iterator[UsedRow]:
    plan, index = to_weigh.plan, to_weigh.rows.index
    uses_R = np.bincount(plan.row_ids_P[: plan.step_starts_S[steps.start]], minlength=len(index))
    left = plan.num_rows if max_rows is None else max_rows
    for weighed in to_weigh.steps(steps.start, steps.stop):
        denominators = tuple(weighed.denominators_H.tolist())
        for place, row in enumerate(weighed.rows[:left], start=1):
            problem = index.problem_names[index.problem_R[row.row_id]]
            use, ends = int(uses_R[row.row_id]), place == len(weighed.rows)
            yield UsedRow(weighed.step, use, problem, row, denominators, ends)
            uses_R[row.row_id] += 1
        left -= len(weighed.rows)
        if left <= 0:
            return


def _as_weighted(run: PlannedRun) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the configuration with the weighting that stage 2 runs with, and what critic.gate says of it."""
    begun = weighting_begun_with(run.folder) if run.folder is not None else None
    if begun is not None:
        return _with_weighting(run.config, begun), ()
    critic = run.critic_bundle() if run.config.weighting.needs_values else None
    if critic is None:
        return run.config, ()
    gated = gate_given_critic(run.config, critic)
    if gated.decision.outcome == "stopped":
        raise ArtifactError(f"{gated.warnings[0]}; set critic.gate=warn to weigh with it all the same")
    return gated.config, gated.warnings


def _with_weighting(config: RunConfig, name: str) -> RunConfig:
    return config.model_copy(update={"weighting": config.weighting.model_copy(update={"type": name})})


def _notes(config: RunConfig, models: WeighingModels) -> Iterator[str]:
    """Say where the weights are others than those that a run trains with."""
    critic = models.critic
    if critic is not None and critic.bundle is None and critic.version == 0:
        yield "the critic's value head is as new, so V = 0: no stage 1 and no critic.path has trained it"
    if critic is not None and critic.run_versions != (critic.version, critic.version):
        oldest, newest = critic.run_versions
        yield (
            f"the run scores these steps with the critic's versions {oldest} to {newest}, the weights here are all of "
            f"version {critic.version}; --policy-steps N weighs with that of a checkpoint"
        )
    if models.policy is not None:
        yield (
            f"the weights read the policy's own losses, here those of the policy after {models.policy.steps} steps; "
            "the run reads those of each step's own policy"
        )
    if config.weighting.arm.pushes_down:
        yield (
            "a negative weight -|w| p gives a cross-entropy the gradient of |w| p, which is what the run minimises; "
            "the value of the loss is another one"
        )
    if config.train.dtype != "float32":
        yield f"scores and losses are float32 here, the run's are {config.train.dtype}"
