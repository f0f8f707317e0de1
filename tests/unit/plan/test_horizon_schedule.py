"""The forward curriculum over horizons: equal parts, and a plan that names it only where there is one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.plan.horizon_schedule import horizon_starts, horizons_at
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.run_plan import load_plan, plan_training, save
from wmtp_ray.run_folder import TRAIN_STAGE, RunFolder

MakeData = Callable[..., DataConfig]
MakeTrain = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("num_horizons", "num_steps", "expected"),
    [(4, 10, (0, 2, 5, 7)), (4, 8, (0, 2, 4, 6)), (1, 5, (0,)), (4, 2, (0, 0, 1, 1)), (3, 1, (0, 0, 0))],
)
def test_each_horizon_comes_in_with_its_part_of_the_run(
    num_horizons: int, num_steps: int, expected: tuple[int, ...]
) -> None:
    assert horizon_starts(num_horizons, num_steps) == expected


@given(st.integers(1, 8), st.integers(1, 200))
def test_the_next_token_is_trained_from_the_first_step_and_all_horizons_in_the_last(
    num_horizons: int, num_steps: int
) -> None:
    trained = [horizons_at(horizon_starts(num_horizons, num_steps), step) for step in range(num_steps)]
    assert trained[0] >= 1
    assert trained == sorted(trained)
    assert trained[-1] == num_horizons


def test_a_plan_says_when_horizons_come_in_and_keeps_its_digest_where_all_begin_at_once(
    tmp_path: Path, make_index: Callable[..., RowIndex], make_data: MakeData, make_train: MakeTrain
) -> None:
    index = make_index(400)
    plan = plan_training(index, make_data(), make_train(), 0)
    scheduled = replace(plan, horizon_starts=horizon_starts(4, plan.num_steps))
    assert scheduled.digest != plan.digest
    for each in (plan, scheduled):
        save(each, tmp_path)
        assert load_plan(tmp_path, TRAIN_STAGE).digest == each.digest
        facts = json.loads(RunFolder(tmp_path).plan(TRAIN_STAGE).read_text())
        assert ("horizon_starts" in facts) == (each is scheduled)
    starts = scheduled.horizon_starts
    line = f"1 from the first step, 2 from step {starts[1]}, 3 from step {starts[2]}, 4 from step {starts[3]} on"
    assert line in " ".join(render(scheduled, index, staleness_bound=None).split())
    assert "from the first step" not in render(plan, index, staleness_bound=None)
