"""Which work the trials of a sweep have in common: what no swept key reaches is done once. Compares keys, runs nothing.

A key that is not listed here counts as one that matters, so a new key costs time, never a wrong result.
"""

from typing import Any

from wmtp_ray.config.schema import RunConfig

# Read by stage 2 or 3 alone: stage 1 neither draws rows nor makes losses, gradients or learning rates with them.
_AFTER_STAGE_1 = (
    "critic.anchor_coef",
    "critic.drift_every",
    "critic.drift_rows",
    "critic.ema_decay",
    "critic.gate",
    "critic.lookahead_steps",
    "critic.mode",
    "critic.pool_size",
    "critic.publish_every",
    "evaluation.",
    "rho1.",
    "train.batch_rows",
    "train.batch_sequences",
    "train.epochs",
    "train.learning_rate",
    "train.max_steps",
    "train.sampling.",
    "train.value_coef",
    "weighting.advantage_norm",
    "weighting.beta",
    "weighting.clip_max",
    "weighting.clip_min",
    "weighting.ema_decay",
    "weighting.td_lambda",
    "weighting.terminal",
    "weighting.type",
    "weighting.weigh_terminal",
)
# Read by no plan: which rows, in which order, how they are split.
_AFTER_PLANNING = (
    "critic.anchor_coef",
    "critic.drift_every",
    "critic.drift_rows",
    "critic.ema_decay",
    "critic.gate",
    "critic.lookahead_steps",
    "critic.publish_every",
    "critic.value_clip",
    "loss.normalizer",
    "run_name",
    "tags",
    "train.adam_betas",
    "train.learning_rate",
    "train.max_grad_norm",
    "train.min_learning_rate_frac",
    "train.value_coef",
    "train.warmup_frac",
    "train.weight_decay",
    "weighting.advantage_norm",
    "weighting.beta",
    "weighting.clip_max",
    "weighting.clip_min",
    "weighting.ema_decay",
    "weighting.gamma",
    "weighting.td_lambda",
    "weighting.weigh_terminal",
)


def critic_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the swept keys that stage 1 reads: trials with equal ones, and one seed, have one critic."""
    return {key: value for key, value in values.items() if not _is_in(key, _AFTER_STAGE_1)}


def shares_critic(config: RunConfig) -> bool:
    """Whether stage 1 of a run can be done for it beforehand, so that it starts at stage 2 with `critic.path`."""
    return {1, 2} <= set(config.stages)


def plan_key(config: RunConfig) -> str:
    """Return a text that is equal for runs with equal plans."""
    values = config.model_dump(mode="json")
    for key in _AFTER_PLANNING:
        section, _, name = key.rpartition(".")
        del (values[section] if section else values)[name]
    return repr(values)


def _is_in(key: str, known: tuple[str, ...]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in known)
