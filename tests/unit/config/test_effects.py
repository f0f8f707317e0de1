"""What a setting affects is said where it is defined, and what others derive from it is what they listed before."""

from typing import Annotated

import pytest
from pydantic import Field

from wmtp_ray.config.effects import (
    EVALUATION,
    MACHINE,
    NAME,
    NOTHING,
    PACE,
    PLAN,
    ROUNDING,
    STAGE_1,
    STAGE_2,
    TRAINING,
    Effects,
    affects_of_field,
    fields_below,
    setting,
)
from wmtp_ray.config.schema import RunConfig, effects
from wmtp_ray.config.schema_nodes import run_schema
from wmtp_ray.config.section import Section
from wmtp_ray.config.sweep_sharing import critic_values

KEYS = list(effects().by_key)


def keys_of(*names: str) -> set[str]:
    """Keys by their name, or of a section by a name that ends with a dot."""
    found = {key for key in KEYS for name in names if key == name or (name.endswith(".") and key.startswith(name))}
    assert all(name in found or name.endswith(".") for name in names)
    return found


class Inner(Section):
    said: int = setting(STAGE_1, "Said.")
    silent: int = Field(description="Not said.")


class Outer(Section):
    direct: Inner
    maybe: Annotated[Inner | None, Field()] = setting(STAGE_2, "Said.")
    alone: dict[str, float] = Field(description="Not said.")


def test_a_setting_that_says_nothing_is_found_wherever_it_stands():
    silent = [key for key, field in fields_below(Outer) if affects_of_field(field) == NOTHING]
    assert silent == ["direct.silent", "maybe.silent", "alone"]


def test_every_setting_says_what_it_affects():
    assert [key for key, affects in effects().by_key.items() if affects == NOTHING] == []
    unread = [key for key, affects in effects().by_key.items() if not affects & (PLAN | TRAINING | EVALUATION)]
    assert {effects().of(key) for key in unread} == {MACHINE, NAME}, "read by nothing: what is shown, or a name"


def test_the_settings_are_those_of_the_schema():
    assert len(KEYS) > 150
    for key in KEYS:
        node = run_schema().node_at(tuple(key.split(".")))
        assert node is not None, key
        assert node["affects"] == [each.name for each in effects().of(key)]


FREE_ON_RESUME = keys_of("cluster.", "deadlines.", "engine.", "evaluation.", "tracking.", "tags", "preset") | keys_of(
    "critic.mode",
    "critic.pool_size",
    "data.index_file",
    "data.read_ahead_rows",
    "train.num_workers",
    "train.parallel",
    "train.reduce_gradients",
    "train.micro_batch_tokens",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.keep_best_checkpoints",
    "train.keep_best_by",
    "train.max_restarts",
    "train.device",
)
# Memory alone: a run that goes on on a smaller card may need them, and the policy stays the same (up to rounding).
FREE_TOO = {"model.activation_checkpointing", "loss.max_logits_mb"}


def test_a_resumed_run_may_change_where_and_how_it_runs_and_what_is_evaluated():
    assert {key for key in KEYS if effects().may_change_on_resume(key)} == FREE_ON_RESUME | FREE_TOO


NOT_OF_TRAINING = keys_of("cluster.", "deadlines.", "engine.", "tracking.", "tags", "evaluation.") | {
    "run_name",
    "preset",
    "stages",
    "storage_root",
}
NOT_OF_TRAINING |= keys_of("rounds.")  # they decide which rows a round's run has, as its data.train_file


def test_names_the_machine_and_the_evaluation_tell_no_training_from_another():
    assert {key for key in KEYS if not effects().is_of_training(key)} == NOT_OF_TRAINING


def test_what_cannot_change_the_policy_is_not_told_of_two_trainings():
    known = {"data.index_file", "data.read_ahead_rows", "train.checkpoint_every", "train.max_restarts"}
    known |= {"train.keep_checkpoints", "train.keep_best_checkpoints", "train.keep_best_by"}
    # Bit for bit the same too: tests/flows/test_reproducible_scores.py for the first two.
    known |= {"critic.mode", "critic.pool_size", "model.activation_checkpointing"}
    assert {key for key in KEYS if effects().of(key) & PACE} == known


@pytest.mark.parametrize(
    "key",
    sorted(
        keys_of("evaluation.", "rho1.", "train.sampling.")
        | keys_of("critic.anchor_coef", "critic.drift_every", "critic.drift_rows", "critic.ema_decay", "critic.gate")
        | keys_of("critic.lookahead_steps", "critic.mode", "critic.pool_size", "critic.publish_every")
        | keys_of("train.batch_rows", "train.batch_sequences", "train.epochs", "train.learning_rate")
        | keys_of("train.finish_correct_frac", "train.max_steps", "train.value_coef", "weighting.")
        | {"data.condition", "data.policy_rows", "loss.normalizer", "loss.horizon_coefs", "reference.path"}
    ),
)
def test_trials_share_the_critic_whatever_these_are(key):
    assert critic_values({key: 1}) == ({key: 1} if key == "weighting.gamma" else {})


@pytest.mark.parametrize(
    "key",
    sorted(
        keys_of("critic_stage.", "critic.gate_limits.", "tokenizer.")
        | (keys_of("data.") - {"data.condition", "data.policy_rows"} - {key for key in KEYS if key.endswith(".bins")})
        | keys_of("critic.source", "critic.path", "critic.head", "critic.value_layer", "critic.features")
        | keys_of("critic.value_target", "critic.value_lambda", "critic.value_error", "critic.value_clip")
        | keys_of(
            "critic.train_trunk", "critic.ensemble", "critic.objective", "critic.health_rows", "model.path", "seed"
        )
        | keys_of("train.warmup_frac", "train.weight_decay", "train.adam_betas", "train.max_grad_norm")
        | keys_of("train.min_learning_rate_frac", "train.dtype", "train.device", "train.num_workers")
    ),
)
def test_trials_that_differ_in_what_stage_1_reads_have_critics_of_their_own(key):
    assert critic_values({key: 1}) == {key: 1}


def test_a_key_is_followed_to_its_mapping_its_section_and_no_further():
    assert effects().of("evaluation.files.mbpp") == PLAN | EVALUATION
    assert effects().of("train.sampling.difficulty_bins.low") == PLAN | STAGE_2
    assert effects().of("tags.team") == MACHINE
    assert effects().of("cluster.of_an_earlier_version") & MACHINE, "as its whole section"
    assert effects().of("loss.of_an_earlier_version") & STAGE_2
    assert effects().is_of_training("of_an_earlier_version")
    assert not effects().is_of_training("evaluation.of_an_earlier_version")
    assert effects().reads(STAGE_1, "weighting"), "weighting.gamma is below it"
    assert not effects().reads(STAGE_1, "rho1")
    assert effects().reads(STAGE_1, "train.of_next_year"), "nobody can tell"


def test_how_the_work_is_cut_is_not_what_is_learned():
    for key in (
        "train.num_workers",
        "train.micro_batch_tokens",
        "train.parallel",
        "train.device",
        "loss.max_logits_mb",
    ):
        assert effects().of(key) & ROUNDING
        assert effects().is_of_training(key), "but a comparison tells it"


def test_effects_are_of_any_section():
    assert Effects(Inner).by_key == {"said": STAGE_1, "silent": NOTHING}
    assert RunConfig.model_fields["seed"].is_required()
