"""The plan as a whole: pure, independent of ranks, resumable, and safe on disk."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import ArtifactError, PlanError
from wmtp_ray.plan.candidates import LANGUAGES
from wmtp_ray.plan.difficulty import difficulty_of_rows
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.run_plan import (
    PLAN_VERSION,
    RunPlan,
    check_packing,
    held_out_mask,
    load_plan,
    plan_critic_stage,
    plan_training,
    rank_batches,
    save,
)

MakeIndex = Callable[..., RowIndex]
MakeTrain = Callable[..., TrainConfig]
MakeStage = Callable[..., CriticStageConfig]
MakeData = Callable[..., DataConfig]
Batches = list[tuple[int, int, list[int]]]


def batches_of(
    plan: RunPlan, index: RowIndex, *, rank: int, num_ranks: int, start_step: int = 0, budget: int = 256
) -> Batches:
    planned = rank_batches(
        plan, index, rank=rank, num_ranks=num_ranks, start_step=start_step, micro_batch_tokens=budget
    )
    return [(batch.step, batch.micro_step, batch.row_ids_N.tolist()) for batch in planned]


@pytest.fixture
def index(make_index: MakeIndex) -> RowIndex:
    return make_index()


@pytest.fixture
def plan(index: RowIndex, make_data: MakeData, make_train: MakeTrain) -> RunPlan:
    return plan_training(index, make_data(), make_train(), 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), policy_rows=st.sampled_from(["mixed", "correct_only"]))
def test_every_planned_row_passes_every_filter_and_the_account_is_complete(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, seed: int, policy_rows: str
) -> None:
    index, data = make_index(seed=seed), make_data(policy_rows=policy_rows, max_tokens=80)
    plan = plan_training(index, data, make_train(sampling={"seed": seed}), seed)
    held_out = held_out_mask(index, data, seed)
    for row in plan.row_ids_P:
        assert index.num_tokens_R[row] <= 80
        assert index.is_correct_R[row] or policy_rows == "mixed"
        assert not held_out[index.problem_R[row]]
        assert 1 <= index.difficulty_R[row] <= 11
    counts = plan.counts
    assert (
        counts.index_rows == sum(counts.left_out.values()) + sum(counts.outside_bins.values()) + counts.available_rows
    )
    assert counts.tokens == sum(phase.tokens for phase in plan.phases)
    assert counts.supervised_tokens == sum(int(index.response_tokens_R[row]) for row in plan.row_ids_P)
    assert plan.step_starts_S.tolist() == list(range(0, plan.num_rows + 1, plan.batch_rows))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("budget", [200, 256, 4096])
def test_the_ranks_of_a_step_share_exactly_its_rows(
    index: RowIndex, plan: RunPlan, num_ranks: int, budget: int
) -> None:
    ranks = [batches_of(plan, index, rank=rank, num_ranks=num_ranks, budget=budget) for rank in range(num_ranks)]
    for step in range(plan.num_steps):
        of_step = [[micro for micro in batches if micro[0] == step] for batches in ranks]
        assert len({len(micros) for micros in of_step}) == 1
        assert [micro_step for _, micro_step, _ in of_step[0]] == list(range(len(of_step[0])))
        rows = [row for micros in of_step for _, _, micro in micros for row in micro]
        assert sorted(rows) == sorted(plan.step_row_ids(step).tolist())


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_resuming_at_a_step_gives_the_tail_of_the_whole(index: RowIndex, plan: RunPlan, num_ranks: int) -> None:
    for rank in range(num_ranks):
        whole = batches_of(plan, index, rank=rank, num_ranks=num_ranks)
        for start_step in (0, 1, plan.num_steps // 2, plan.num_steps):
            tail = batches_of(plan, index, rank=rank, num_ranks=num_ranks, start_step=start_step)
            assert tail == [batch for batch in whole if batch[0] >= start_step]


def test_pairs_share_a_micro_batch(index: RowIndex, make_data: MakeData, make_critic_stage: MakeStage) -> None:
    plan = plan_critic_stage(index, make_data(), make_critic_stage(), 3, needs_pairs=True)
    for rank in range(2):
        for _, _, rows in batches_of(plan, index, rank=rank, num_ranks=2):
            assert index.is_correct_R[rows].tolist() == [True, False] * (len(rows) // 2)
            assert (index.problem_R[rows[::2]] == index.problem_R[rows[1::2]]).all()


def test_both_stages_hold_out_the_same_problems(
    index: RowIndex, plan: RunPlan, make_data: MakeData, make_critic_stage: MakeStage
) -> None:
    critic = plan_critic_stage(index, make_data(), make_critic_stage(sampling={"seed": 99}), 3)
    held_out = held_out_mask(index, make_data(), 3)
    assert held_out.any()
    for planned in (plan, critic):
        assert not held_out[index.problem_R[planned.row_ids_P]].any()


def test_a_validation_file_holds_out_nothing(index: RowIndex, make_data: MakeData) -> None:
    assert not held_out_mask(index, make_data(valid_file="valid.jsonl"), 3).any()


BINS_OF = {
    "raw": {"low": (1, 3), "medium": (4, 7), "high": (8, 11)},
    "cf_rating": {"low": (1, 1399), "medium": (1400, 1999), "high": (2000, 4000)},
    "quantile": {"low": (1, 33), "medium": (34, 66), "high": (67, 100)},
}

DETERMINISM_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import conftest
from wmtp_ray.plan.run_plan import plan_critic_stage, plan_training
index, data = conftest._make_index(), conftest._make_data()
print(plan_training(index, data, conftest._make_train(), 3).digest)
print(plan_critic_stage(index, data, conftest._make_critic_stage(), 3).digest)
options = conftest._make_data(difficulty_source="quantile", languages=["python3", "cpp"])
sampling = {"max_rows_per_problem": 9, "difficulty_bins": {"low": (1, 33), "medium": (34, 66), "high": (67, 100)}}
print(plan_training(index, options, conftest._make_train(sampling=sampling), 3).digest)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_another_process_with_another_hash_seed_plans_the_same(
    index: RowIndex,
    plan: RunPlan,
    make_data: MakeData,
    make_train: MakeTrain,
    make_critic_stage: MakeStage,
    hash_seed: str,
) -> None:
    critic = plan_critic_stage(index, make_data(), make_critic_stage(), 3)
    data = make_data(difficulty_source="quantile", languages=["python3", "cpp"])
    sampling = {"max_rows_per_problem": 9, "difficulty_bins": BINS_OF["quantile"]}
    with_options = plan_training(index, data, make_train(sampling=sampling), 3)
    run = subprocess.run(
        [sys.executable, "-c", DETERMINISM_SCRIPT, str(Path(__file__).parent)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == [plan.digest, critic.digest, with_options.digest]


def test_the_rows_of_this_plan_version_do_not_change(
    index: RowIndex, make_data: MakeData, make_train: MakeTrain, make_critic_stage: MakeStage
) -> None:
    training = plan_training(index, make_data(), make_train(epochs=2), 3)
    critic = plan_critic_stage(index, make_data(), make_critic_stage(), 3)
    drawn = [
        hashlib.sha256(planned.row_ids_P.astype("<i8").tobytes()).hexdigest()[:16] for planned in (training, critic)
    ]
    assert (PLAN_VERSION, drawn) == (3, ["f984e49f600535e7", "1d264685a4b9d9e2"])


@st.composite
def indexes(draw: st.DrawFn) -> dict[str, list[int]]:
    """Columns of a small index whose rows may contradict each other about their problem."""
    num_rows = draw(st.integers(40, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return {
        "difficulties": rng.choice([0, 0, 0, 1, 2, 4, 5, 6, 7, 8, 9, 12, 25], num_rows).tolist(),
        "cf_ratings": rng.choice([0, 0, 800, 1300, 1500, 2100, 3300], num_rows).tolist(),
        "languages": rng.integers(0, 5, num_rows).tolist(),
        "sources": rng.integers(0, 2, num_rows).tolist(),
        "problems": rng.integers(0, draw(st.integers(2, 12)), num_rows).tolist(),
    }


@settings(max_examples=150, deadline=None)
@given(
    columns=indexes(),
    source=st.sampled_from(sorted(BINS_OF)),
    languages=st.none() | st.lists(st.sampled_from(LANGUAGES), min_size=2, unique=True),
    cap=st.none() | st.integers(1, 12),
    unknown=st.sampled_from([0.0, 0.4]),
    curriculum=st.booleans(),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_whatever_the_options_no_row_twice_in_an_epoch_and_every_row_is_accounted_for(
    make_index: MakeIndex,
    make_data: MakeData,
    make_train: MakeTrain,
    columns: dict[str, list[int]],
    source: str,
    languages: list[str] | None,
    cap: int | None,
    unknown: float,
    curriculum: bool,
    epochs: int,
    seed: int,
) -> None:
    index = make_index(len(columns["problems"]), seed=seed, **columns)
    data = make_data(difficulty_source=source, languages=languages, max_tokens=95)
    schedule = [
        {"epoch_range": (0.0, 0.5), "difficulty_weights": {"low": 0.6, "medium": 0.4, "unknown": unknown}},
        {"epoch_range": (0.5, 1.0), "difficulty_weights": {"medium": 0.5, "high": 0.5}},
    ]
    sampling = {
        "n_samples": 50,
        "max_rows_per_problem": cap,
        "curriculum_learning": curriculum,
        "difficulty_schedule": schedule,
        "difficulty_bins": BINS_OF[source],
        "seed": seed,
    }
    held_out = held_out_mask(index, data, seed)
    difficulty = difficulty_of_rows(index, source)

    def may_be_drawn(row: int) -> bool:
        return (
            not held_out[index.problem_R[row]]
            and index.num_tokens_R[row] <= 95
            and (languages is None or LANGUAGES[index.language_R[row]] in languages)
            and (
                not curriculum
                or (difficulty[row] == 0 and unknown > 0)
                or any(low <= difficulty[row] <= high for low, high in BINS_OF[source].values())
            )
        )

    eligible = Counter(int(index.problem_R[row]) for row in range(len(index)) if may_be_drawn(row))
    available = sum(min(rows, cap or rows) for rows in eligible.values())
    try:
        plan = plan_training(index, data, make_train(epochs=epochs, batch_rows=3, sampling=sampling), seed)
    except PlanError:
        assert available < 3
        return
    counts = plan.counts
    assert counts.available_rows == available
    assert sum(counts.left_out.values()) + sum(counts.outside_bins.values()) + available == len(index)
    assert counts.rows_per_epoch == min(50, available)
    assert plan.num_rows + counts.incomplete_rows == counts.rows_per_epoch * epochs
    assert all(may_be_drawn(row) for row in plan.row_ids_P)
    drawn_of_problem = Counter(index.problem_R[np.unique(plan.row_ids_P)].tolist())
    assert max(drawn_of_problem.values()) <= (cap or len(index))
    for start in range(0, plan.num_rows, counts.rows_per_epoch):
        epoch_rows = plan.row_ids_P[start : start + counts.rows_per_epoch].tolist()
        assert len(set(epoch_rows)) == len(epoch_rows)


def test_the_digest_sees_rows_seeds_and_fingerprints(
    index: RowIndex, plan: RunPlan, make_data: MakeData, make_train: MakeTrain
) -> None:
    other_draw = plan_training(index, make_data(), make_train(sampling={"seed": 8}), 3)
    other_file = plan_training(replace(index, file_fingerprint="other"), make_data(), make_train(), 3)
    swapped = replace(plan, row_ids_P=np.roll(plan.row_ids_P, 1))
    digests = {planned.digest for planned in (plan, other_draw, other_file, swapped)}
    assert len(digests) == 4
    assert plan_training(index, make_data(), make_train(), 3).digest == plan.digest


def test_the_digest_of_an_ordinary_plan_is_the_one_it_has_always_had(plan: RunPlan) -> None:
    """A new setting whose default changes no row leaves every plan on the disk valid."""
    assert plan.digest == "5778712c2e3db470449aaf7e4b5d8705350d77e636cfcca8fc8f2c1e5b380795"


def test_problem_classes_restrict_the_rows_of_stage_2_and_no_others(
    make_index: MakeIndex, make_data: MakeData, make_train: MakeTrain, make_critic_stage: MakeStage
) -> None:
    index = make_index(400, num_problems=200)
    sampling = {"n_samples": 1000, "problem_classes": ["only_incorrect"], "curriculum_learning": False}
    plan = plan_training(index, make_data(), make_train(sampling=sampling), 3)
    solved = set(index.problem_R[index.is_correct_R].tolist())
    planned = set(index.problem_R[plan.row_ids_P].tolist())
    assert planned
    assert not planned & solved
    counts = plan.counts
    held_out = held_out_mask(index, make_data(), 3)
    others = [row for row in range(400) if index.problem_R[row] in solved and not held_out[index.problem_R[row]]]
    reason = "of problems of another class (train.sampling.problem_classes)"
    assert counts.left_out[reason] == len(others)
    assert counts.index_rows == sum(counts.left_out.values()) + counts.available_rows
    assert f"{len(others)}  {reason}" in render(plan, index, staleness_bound=None)
    assert reason not in plan_critic_stage(index, make_data(), make_critic_stage(), 3).counts.left_out


def test_a_saved_plan_loads_as_it_was(
    index: RowIndex, plan: RunPlan, make_data: MakeData, make_critic_stage: MakeStage, tmp_path: Path
) -> None:
    critic = plan_critic_stage(index, make_data(), make_critic_stage(), 3)
    save(plan, tmp_path)
    save(critic, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "plan.json",
        "plan.npz",
        "stage1_plan.json",
        "stage1_plan.npz",
    ]
    for planned in (plan, critic):
        loaded = load_plan(tmp_path, planned.stage)
        assert loaded.digest == planned.digest
        assert loaded.phases == planned.phases
        assert loaded.counts == planned.counts
        assert batches_of(loaded, index, rank=1, num_ranks=2) == batches_of(planned, index, rank=1, num_ranks=2)


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no plan at"):
        load_plan(tmp_path, 2)


@pytest.mark.parametrize("name", ["plan.json", "plan.npz"])
@pytest.mark.parametrize("kept_bytes", [0, 1, 150, -10])
def test_a_torn_plan_is_refused(plan: RunPlan, tmp_path: Path, name: str, kept_bytes: int) -> None:
    save(plan, tmp_path)
    torn = tmp_path / name
    torn.write_bytes(torn.read_bytes()[:kept_bytes])
    with pytest.raises(ArtifactError, match="torn"):
        load_plan(tmp_path, 2)


def test_an_altered_plan_is_refused(plan: RunPlan, tmp_path: Path) -> None:
    save(plan, tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace('"batch_rows": 8', '"batch_rows": 9'))
    with pytest.raises(ArtifactError, match="altered"):
        load_plan(tmp_path, 2)


def test_a_plan_of_another_version_is_refused(plan: RunPlan, tmp_path: Path) -> None:
    save(plan, tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "plan_version": 0}))
    with pytest.raises(ArtifactError, match="not of plan version"):
        load_plan(tmp_path, 2)


def test_another_file_than_planned_is_refused_before_the_first_batch(index: RowIndex, plan: RunPlan) -> None:
    other = replace(index, file_fingerprint="another file")
    with pytest.raises(PlanError, match="another file"):
        rank_batches(plan, other, rank=0, num_ranks=1, start_step=0, micro_batch_tokens=256)


def test_packing_is_checked_before_a_run(index: RowIndex, plan: RunPlan) -> None:
    most = max(micro_step + 1 for _, micro_step, _ in batches_of(plan, index, rank=0, num_ranks=2))
    assert check_packing(plan, index, num_ranks=2, micro_batch_tokens=256) == most
    with pytest.raises(PlanError, match="micro_batch_tokens=50"):
        check_packing(plan, index, num_ranks=2, micro_batch_tokens=50)
