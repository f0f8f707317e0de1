from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.plan.finish import PlannedFinish
from wmtp_ray.plan.run_plan import RunPlan, plan_training
from wmtp_ray.plan.versions import OneVersion, PublishedVersions, version_schedule

LOOKAHEAD = st.integers(1, 40)
EVERY = st.integers(1, 40)
STEP = st.integers(0, 500)


@pytest.fixture
def plan(make_index, make_data, make_train) -> RunPlan:
    return plan_training(make_index(), make_data(), make_train(), 3)


def newest_published(step: int, lookahead_steps: int, publish_every: int) -> int:
    """Search, as the rule says it: publications happen after 0, N, 2N ... steps; version 0 is there before the run."""
    published = range(0, step + 1, publish_every)
    return max((version for version in published if version <= step - lookahead_steps), default=0)


@given(LOOKAHEAD, EVERY, STEP)
def test_a_step_is_scored_by_the_newest_version_published_before_it_was_submitted(lookahead, every, step):
    schedule = PublishedVersions(lookahead, every)
    assert schedule.version_of(step) == newest_published(step, lookahead, every)
    assert schedule.staleness(step) == step - newest_published(step, lookahead, every)


@given(LOOKAHEAD, EVERY, STEP)
def test_a_scoring_version_is_one_that_gets_published(lookahead, every, step):
    schedule = PublishedVersions(lookahead, every)
    assert schedule.is_published_at(schedule.version_of(step))


@given(LOOKAHEAD, EVERY, STEP)
def test_staleness_never_passes_its_bound(lookahead, every, step):
    schedule = PublishedVersions(lookahead, every)
    assert 0 <= schedule.staleness(step) <= schedule.staleness_bound == lookahead + every - 1


@given(LOOKAHEAD, EVERY, st.integers(0, 10))
def test_the_bound_is_reached_in_every_publication_period(lookahead, every, period):
    schedule = PublishedVersions(lookahead, every)
    steps = range(period * every, period * every + lookahead + every)
    assert max(schedule.staleness(step) for step in steps) == schedule.staleness_bound


@given(LOOKAHEAD, EVERY, STEP)
def test_a_version_that_was_dropped_is_never_asked_for_again(lookahead, every, step):
    """Versions below version_of(step) go once `step` steps are done; all later steps need that one or a newer."""
    schedule = PublishedVersions(lookahead, every)
    assert schedule.version_of(step) <= schedule.version_of(step + 1)


@given(LOOKAHEAD, EVERY, STEP, st.integers(0, 100))
def test_a_checkpoint_carries_every_version_that_a_resumed_run_cannot_publish(lookahead, every, done, further):
    schedule = PublishedVersions(lookahead, every)
    published = {version for version in range(done + 1) if schedule.is_published_at(version)}
    carried = {version for version in published if version >= schedule.version_of(done)}
    needed = schedule.version_of(done + further)
    assert needed in carried or needed > done


def test_the_documented_example_holds():
    schedule = PublishedVersions(lookahead_steps=4, publish_every=5)
    assert [schedule.version_of(step) for step in range(15)] == [0] * 9 + [5] * 5 + [10]
    assert schedule.staleness(13) == schedule.staleness_bound == 8


@given(LOOKAHEAD, EVERY, st.integers(0, 60))
def test_with_a_finish_that_nobody_scores_exactly_the_versions_that_steps_read_are_published(lookahead, every, finish):
    schedule = PublishedVersions(lookahead, every, unscored_from=finish)
    assert [schedule.scores(step) for step in range(80)] == [step < finish for step in range(80)]
    read = {schedule.version_of(step) for step in range(finish)} | {0}
    published = {step for step in range(200) if schedule.is_published_at(step)}
    assert read <= published
    assert max(published) == max(read)
    assert OneVersion(finish).scores(finish - 1)
    assert not OneVersion(finish).scores(finish)


@pytest.mark.parametrize(
    ("words", "unscored_from"),
    [
        (("train.value_coef=0",), 6),
        (("train.value_coef=0.5",), None),  # the value loss reads the scores of every step
        (("train.value_coef=0", "critic.anchor_coef=0.1"), None),
        (("train.value_coef=0", "critic.source=frozen", "critic.path=."), 6),
    ],
)
def test_the_steps_of_a_finish_are_scored_where_a_value_loss_reads_the_scores(nano, plan, words, unscored_from):
    finish = replace(plan, finish=PlannedFinish(6, 10))
    config = nano.load("weighting.type=td", *words)
    assert version_schedule(config, finish).unscored_from == unscored_from
    assert version_schedule(config, plan).unscored_from is None
    assert version_schedule(config, None).unscored_from is None


@given(STEP)
def test_a_frozen_model_is_version_0_published_never_and_does_not_age(step):
    schedule = OneVersion()
    assert (schedule.version_of(step), schedule.is_published_at(step), schedule.staleness(step)) == (0, False, 0)
    assert schedule.staleness_bound == 0
