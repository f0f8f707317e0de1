"""The best checkpoint by Pass@1 needs policies that are evaluated, each with a checkpoint."""

import pytest

from tests.unit.config.test_load import load, refused

BY_PASS = "train.keep_best_by=pass@1"


def test_evaluating_while_training_is_off_unless_it_is_asked_for():
    assert load().evaluation.step_interval == 0
    assert load("evaluation.every_steps=null").evaluation.step_interval == 0
    assert load("evaluation.every_steps=50").evaluation.step_interval == 50
    assert load().train.keep_best_by == "loss"


def test_the_best_by_pass_needs_evaluations():
    message = refused(BY_PASS)
    assert "evaluation.every_steps=0" in message
    assert (
        "set evaluation.every_steps to a multiple of train.checkpoint_every=100, or train.keep_best_by=loss" in message
    )


def test_every_evaluated_policy_has_a_checkpoint():
    message = refused(BY_PASS, "evaluation.every_steps=50", "train.checkpoint_every=20")
    assert "make every_steps a multiple of checkpoint_every" in message
    assert load(BY_PASS, "evaluation.every_steps=60", "train.checkpoint_every=20").train.keep_best_by == "pass@1"


def test_a_best_that_is_not_kept_is_refused():
    message = refused(BY_PASS, "evaluation.every_steps=100", "train.keep_best_checkpoints=0")
    assert "train.keep_best_checkpoints=1" in message


@pytest.mark.parametrize("word", ["evaluation.every_steps=-1", "evaluation.during_limit=0", "train.keep_best_by=pass"])
def test_other_values_are_refused(word):
    assert word.partition("=")[0] in refused(word)
