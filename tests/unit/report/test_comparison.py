"""Arms are compared problem by problem with the arm of uniform weights."""

from pathlib import Path

import numpy as np
import pytest

from wmtp_ray.report.arms import Arm, group_runs, reference_arm
from wmtp_ray.report.comparison import compare_datasets, held_out_margins
from wmtp_ray.report.saved_run import read_run

from .saved_runs import write_run

HARD = [0] * 40


def arms_of(root: Path, **passed_of_runs: tuple[str, int, list[int]]) -> list[Arm]:
    return group_runs(
        [
            read_run(write_run(root, name, weighting=weighting, seed=seed, passed=passed, num_steps=1))
            for name, (weighting, seed, passed) in passed_of_runs.items()
        ]
    )


def test_a_problem_counts_with_its_mean_over_seeds(tmp_path: Path) -> None:
    arms = arms_of(
        tmp_path,
        base=("uniform", 1, [1, 0, 0, 0]),
        one=("td", 1, [1, 1, 0, 0]),
        two=("td", 2, [1, 0, 1, 0]),
    )
    (comparison,) = compare_datasets(arms, reference_arm(arms))
    method = next(score for score in comparison.scores if score.arm.name == "verifiable")
    assert method.problems_P.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert list(method.of_seeds.values()) == [0.5, 0.5]
    (difference,) = comparison.differences
    assert difference.problems.difference.value == pytest.approx(0.25)
    assert (difference.problems.num_better, difference.problems.num_worse, difference.problems.num_equal) == (2, 0, 2)
    assert difference.seeds is not None
    assert difference.seeds.difference.count == 1, "the reference has one of the two seeds"


def test_better_needs_an_interval_clear_of_zero_and_no_seed_against_it(tmp_path: Path) -> None:
    gain = [1] * 20 + [0] * 20
    clear = arms_of(
        tmp_path / "clear", b1=("uniform", 1, HARD), b2=("uniform", 2, HARD), t1=("td", 1, gain), t2=("td", 2, gain)
    )
    assert verdict(clear) == "better"
    split = arms_of(
        tmp_path / "split",
        b1=("uniform", 1, HARD),
        b2=("uniform", 2, [1] * 3 + [0] * 37),
        t1=("td", 1, gain),
        t2=("td", 2, HARD),
    )
    assert verdict(split) == "undecided"
    small = arms_of(tmp_path / "small", b1=("uniform", 1, HARD), t1=("td", 1, [1] + [0] * 39))
    assert verdict(small) == "undecided"
    worse = arms_of(tmp_path / "worse", b1=("uniform", 1, gain), t1=("td", 1, HARD))
    assert verdict(worse) == "worse"


def verdict(arms: list[Arm]) -> str:
    (comparison,) = compare_datasets(arms, reference_arm(arms))
    return comparison.differences[0].verdict


def test_runs_on_other_problems_or_without_evaluation_are_left_out_by_name(tmp_path: Path) -> None:
    arms = arms_of(tmp_path, base=("uniform", 1, [1, 0]), other=("td", 1, [1, 0, 0]))
    arms += group_runs([read_run(write_run(tmp_path, "none", weighting="rho1", num_steps=1))])
    (comparison,) = compare_datasets(arms, reference_arm(arms))
    assert comparison.left_out == ("verifiable", "rho1_weighted")
    assert comparison.differences == ()


def test_margins_are_kept_apart_when_a_seed_ran_twice(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path, name, seed=5, margin=margin, num_steps=1))
        for name, margin in (("a", 0.1), ("b", 0.3))
    ]
    (arm,) = group_runs(runs)
    assert np.allclose(sorted(held_out_margins(arm).values()), [0.1, 0.3])
