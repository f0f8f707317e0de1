"""Before a verdict stands what else may explain it: steps, tokens, start; and whether anything is known at all."""

from dataclasses import replace

from tests.unit.tracking.trained_runs import record
from wmtp_ray.tracking.training_difference import TrainedPolicy, is_same_policy, training_difference
from wmtp_ray.tracking.training_record import Start, TrainingRecord

ROOT = Start("/models/nano", "nano-file", None)


def policy(name: str, training: TrainingRecord | None, weights: str | None = None) -> TrainedPolicy:
    return TrainedPolicy(name, f"/runs/{name}/final", weights or f"{name}-file", training)


def from_end_of(one: TrainedPolicy) -> Start:
    return Start(one.path, one.weights_sha256, one.training)


def cells_of(before: TrainedPolicy, after: TrainedPolicy) -> dict[str, tuple[str, str]]:
    return {row.label: (row.before, row.after) for row in training_difference(before, after).rows}


def test_more_steps_from_the_others_end_confound_in_either_order() -> None:
    base = policy("A", record("A", ROOT, steps=225))
    more = policy("B", record("B", from_end_of(base), steps=120, weighting="td"))
    for one, two in ((base, more), (more, base)):
        assert training_difference(one, two).confounds == ("B trained 120 steps more, from A's end",)
    assert cells_of(base, more)["steps"] == ("225", "120 after 225")


def test_every_training_in_between_counts() -> None:
    base = policy("A", record("A", ROOT, steps=100))
    middle = policy("M", record("M", from_end_of(base), steps=20))
    last = policy("B", record("B", from_end_of(middle), steps=3))
    assert training_difference(base, last).confounds == ("B trained 23 steps more, from A's end",)


def test_equal_steps_and_tokens_from_one_start_confound_nothing() -> None:
    base = policy("base", record("base", ROOT, steps=240))
    one = policy("A", record("A", from_end_of(base), tokens=6000))
    two = policy("B", record("B", from_end_of(base), tokens=6100, weighting="td"))
    found = training_difference(one, two)
    assert found.confounds == ()
    assert found.caution is None
    assert cells_of(one, two)["supervised tokens"] == ("6,000", "6,100"), "said, though rows only differ in length"


def test_other_steps_from_one_start_confound() -> None:
    one, two = policy("A", record("A", ROOT, steps=60)), policy("B", record("B", ROOT, steps=61))
    assert training_difference(one, two).confounds == ("B trained 61 steps and A 60",)


def test_equal_steps_on_twice_the_tokens_confound() -> None:
    one, two = policy("A", record("A", ROOT, tokens=6000)), policy("B", record("B", ROOT, tokens=12000))
    expected = "B learned from 12,000 supervised tokens and A from 6,000"
    assert training_difference(one, two).confounds == (expected,)


def test_another_start_confounds_though_it_lies_at_the_same_path() -> None:
    one = policy("A", record("A", ROOT))
    two = policy("B", record("B", replace(ROOT, weights_sha256="other-file")))
    (clause,) = training_difference(one, two).confounds
    assert clause == "A started from nano (nano-fil), B from nano (other-fi)"


def test_one_start_is_one_start_wherever_it_lies() -> None:
    one = policy("A", record("A", ROOT))
    two = policy("B", record("B", replace(ROOT, path="/copies/nano")))
    assert training_difference(one, two).confounds == ()


def test_runs_that_recorded_no_hash_are_told_apart_by_path() -> None:
    here, there = Start("/models/a", None, None), Start("/models/b", None, None)
    one = policy("A", record("A", here))
    assert training_difference(one, policy("B", record("B", here))).confounds == ()
    assert training_difference(one, policy("B", record("B", there))).confounds == ("A started from a, B from b",)


def test_two_ways_from_one_ancestor_are_counted_since_it() -> None:
    base = policy("base", record("base", ROOT))
    middle = policy("M", record("M", from_end_of(base), steps=10))
    one = policy("A", record("A", from_end_of(base), steps=60))
    two = policy("B", record("B", from_end_of(middle), steps=50, tokens=0))
    assert training_difference(one, two).confounds == (), "60 steps on 6,000 tokens each"


def test_of_a_plain_model_directory_nothing_is_known_and_that_is_said() -> None:
    known, plain = policy("A", record("A", ROOT)), policy("B", None)
    found = training_difference(known, plain)
    assert found.unknown == "Nothing is known of how B was trained"
    assert found.caution == "Nothing is known of how B was trained, so it is unknown whether the training was equal."
    assert cells_of(known, plain)["steps"] == ("60", "not known")


def test_a_plain_directory_that_the_other_started_from_is_recognised_by_hash() -> None:
    plain = policy("A", None, "nano-file")
    more = policy("B", record("B", ROOT, steps=60))
    assert training_difference(plain, more).confounds == ("B trained 60 steps more, from A's end",)


def test_one_policy_is_the_same_by_its_hash_though_it_was_copied() -> None:
    one = policy("A", record("A", ROOT), "w")
    assert is_same_policy(one, replace(one, name="B", path="/copy", training=None))
    assert training_difference(one, replace(one, name="B", path="/copy", training=None)).rows == ()


def test_the_method_is_no_confound_and_another_setting_is_named() -> None:
    method = {"weighting.beta": 0.2, "data.policy_rows": "mixed", "train.value_coef": 0.5, "seed": 2}
    one, two = policy("A", record("A", ROOT)), policy("B", record("B", ROOT, weighting="td", **method))
    assert training_difference(one, two).caution is None
    assert cells_of(one, two)["rows"] == ("correct_only", "mixed")
    assert cells_of(one, two)["seeds"] == ("1", "2")
    faster = policy("B", record("B", ROOT, **{"train.learning_rate": 0.1}))
    assert training_difference(one, faster).caution == "Not only the method differs, but train.learning_rate too."
    other_rows = replace(record("B", ROOT), dataset_fingerprint="others")
    assert training_difference(one, policy("B", other_rows)).further_keys == ("file of rows",)


def test_the_weighting_that_is_told_is_the_one_that_ran() -> None:
    """critic.gate=uniform: both were asked for td."""
    asked = {"weighting.type": "td"}
    method = policy("A", replace(record("A", ROOT, weighting="td"), settings=asked))
    back = policy("B", replace(record("B", ROOT, weighting="uniform"), settings=asked))
    assert cells_of(method, back)["weighting"] == ("td", "uniform")
