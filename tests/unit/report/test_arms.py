"""Which runs are one arm, and what arms are called."""

import json
from pathlib import Path

from wmtp_ray.report.arms import differing_keys, group_runs, reference_arm
from wmtp_ray.report.saved_run import SavedRun, read_run

from .saved_runs import write_run


def read(root: Path, name: str, weighting: str = "td", seed: int = 1, **changes: object) -> SavedRun:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return read_run(write_run(root, name, weighting=weighting, seed=seed, num_steps=1, changes=dotted))


def test_runs_that_differ_in_seeds_names_and_machine_alone_are_one_arm(tmp_path: Path) -> None:
    runs = [read(tmp_path, name, seed=seed) for name, seed in (("b", 2), ("a", 1), ("c", 3))]
    (arm,) = group_runs(runs)
    assert arm.name == "verifiable"
    assert [run.name for run in arm.runs] == ["a", "b", "c"], "in the order of their seeds"


def test_names_are_short_and_all_different(tmp_path: Path) -> None:
    runs = [
        read(tmp_path, "a", "shuffled"),
        read(tmp_path, "b", weighting__beta=0.2),
        read(tmp_path, "c", weighting__beta=0.9),
        read(tmp_path, "d", "uniform"),
        read(tmp_path, "e", "uniform", data__policy_rows="mixed"),
        read(tmp_path, "f", "rho1"),
    ]
    arms = group_runs(runs)
    assert [arm.name for arm in arms] == [
        "baseline",
        "baseline on mixed rows",
        "verifiable beta=0.2",
        "verifiable beta=0.9",
        "rho1_weighted",
        "shuffled",
    ]
    assert reference_arm(arms).name == "baseline"


def test_arms_whose_telling_keys_are_too_many_still_have_names_of_their_own(tmp_path: Path) -> None:
    first = {f"loss__x{number}": 0 for number in range(4)}
    runs = [read(tmp_path, "a", **first), read(tmp_path, "b", **first, loss__y=1), read(tmp_path, "c", loss__y=1)]
    names = [arm.name for arm in group_runs(runs)]
    assert len(set(names)) == 3


def test_of_many_telling_keys_short_ones_that_suffice_make_the_name(tmp_path: Path) -> None:
    first = {"model__path": "/a/long/way/to/nano", "train__max_steps": 200, "train__x": 0.004, "train__y": True}
    other = {"model__path": "/a/long/way/to/final", "train__max_steps": 50, "train__x": 0.002, "train__y": False}
    names = [arm.name for arm in group_runs([read(tmp_path, "a", **first), read(tmp_path, "b", **other)])]
    assert names == ["verifiable max_steps=200", "verifiable max_steps=50"]


def test_without_uniform_weights_the_first_arm_is_the_reference(tmp_path: Path) -> None:
    arms = group_runs([read(tmp_path, "a", "shuffled"), read(tmp_path, "b")])
    assert reference_arm(arms).name == "verifiable"


def test_seeds_may_have_a_critic_each_and_two_critics_of_one_seed_are_two_arms(tmp_path: Path) -> None:
    runs = [read(tmp_path, f"a{seed}", seed=seed, critic__path=f"run_{seed}/critic") for seed in (1, 2)]
    assert len(group_runs(runs)) == 1
    other = read(tmp_path, "b1", seed=1, critic__path="a/long/way/to/another/critic/final")
    names = [arm.name for arm in group_runs([*runs, other])]
    assert sorted(names) == [
        "verifiable path=run_1/critic",
        "verifiable path=run_2/critic",
        "verifiable path=…to/another/critic/final",
    ]


def test_keys_that_one_run_lacks_differ(tmp_path: Path) -> None:
    runs = [read(tmp_path, "a"), read(tmp_path, "b", loss__normalizer="weights", seed=2)]
    assert differing_keys(runs) == ["loss.normalizer"]


def fallen(root: Path, name: str, seed: int) -> SavedRun:
    """A run of the method that critic.gate sent back to uniform weights."""
    run = write_run(root, name, seed=seed, num_steps=1)
    begun = {"path": "/models/nano", "weights_sha256": "nano", "training": None}
    (run / "start.json").write_text(json.dumps({"weighting": "uniform", "start": begun}))
    return read_run(run)


def test_a_run_that_fell_back_to_uniform_weights_is_no_run_of_the_method(tmp_path: Path) -> None:
    method, base = read(tmp_path, "method", seed=1), read(tmp_path, "base", "uniform", seed=1)
    back = fallen(tmp_path, "back", seed=2)
    assert (back.fell_back, method.fell_back, base.fell_back) == (True, False, False)
    arms = group_runs([method, back, base])
    assert [(arm.name, [run.name for run in arm.runs]) for arm in arms] == [
        ("baseline", ["base"]),
        ("uniform on mixed rows", ["back"]),
        ("verifiable", ["method"]),
    ]
    assert differing_keys([method, back]) == ["weighting.type"]


def test_it_is_one_arm_with_a_control_that_asked_for_the_same(tmp_path: Path) -> None:
    asked = {"recipe": "verifiable", "data__policy_rows": "mixed"}
    (arm,) = group_runs([fallen(tmp_path, "back", 2), read(tmp_path, "control", "uniform", 1, **asked)])
    assert [run.name for run in arm.runs] == ["control", "back"]
