"""Which runs are one arm, and what arms are called."""

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
