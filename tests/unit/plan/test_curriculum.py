"""The curriculum: exact shares, no row twice in an epoch, phases on whole steps, dry bins said aloud."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.sampling import Stage2Sampling
from wmtp_ray.contracts import RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.candidates import candidate_rows
from wmtp_ray.plan.curriculum import draw_curriculum
from wmtp_ray.plan.phase_draws import allot, largest_remainder
from wmtp_ray.plan.phases import StageRows
from wmtp_ray.plan.row_pool import bin_of_rows

MakeIndex = Callable[..., RowIndex]
MakeSampling = Callable[..., Stage2Sampling]
BIN_NAMES = ("low", "medium", "high")


def draw_all(
    index: RowIndex, sampling: Stage2Sampling, *, epochs: float = 1, max_steps: int | None = None, batch_rows: int = 8
) -> StageRows:
    nothing_held_out = np.zeros(len(index.problem_names), dtype=bool)
    candidates = candidate_rows(index, held_out_P=nothing_held_out, max_tokens=1000, correct_only=False, languages=None)
    return draw_curriculum(
        index,
        candidates,
        sampling,
        difficulty_source="raw",
        epochs=epochs,
        max_steps=max_steps,
        batch_rows=batch_rows,
    )


def rows_per_bin(index: RowIndex, sampling: Stage2Sampling, row_ids: np.ndarray) -> dict[str, int]:
    counts = dict.fromkeys(sampling.difficulty_bins, 0)
    for row in row_ids:
        for name, (low, high) in sampling.difficulty_bins.items():
            counts[name] += int(low <= index.difficulty_R[row] <= high)
    return counts


def test_bins_are_inclusive_and_minus_one_is_outside() -> None:
    codes = bin_of_rows(np.array([0, 1, 3, 4, 9], dtype=np.int16), {"low": (1, 3), "medium": (4, 7)})
    assert codes.tolist() == [-1, 0, 0, 1, -1]
    assert codes.dtype == np.int8


@given(total=st.integers(0, 10**6), weights=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_largest_remainder_is_exact_and_within_one_of_the_share(total: int, weights: list[float]) -> None:
    if sum(weights) < 1e-6:
        weights = [*weights, 1.0]
    parts = largest_remainder(total, np.array(weights))
    assert parts.sum() == total
    for part, weight in zip(parts, weights, strict=True):
        share = total * weight / sum(weights)
        assert math.floor(share + 1e-6) - 1 < part < share + 1 + 1e-6
        assert part == 0 or weight > 0


def test_largest_remainder_gives_the_rest_to_the_largest_fractions() -> None:
    assert largest_remainder(10, np.array([0.7, 0.25, 0.05])).tolist() == [7, 3, 0]


def test_missing_rows_go_to_weighted_bins_by_weight_before_any_other() -> None:
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    given_K = allot(np.array([10, 6, 4, 0]), weights, np.array([0, 100, 100, 100]))
    assert given_K.tolist() == [0, 12, 8, 0]


def test_bins_without_weight_help_only_when_the_weighted_are_dry() -> None:
    assert allot(np.array([6, 4, 0]), np.array([0.6, 0.4, 0.0]), np.array([2, 5, 9])).tolist() == [2, 5, 3]


@given(data=st.data(), num_bins=st.integers(1, 5))
def test_allotments_are_exact_and_within_what_is_available(data: st.DataObject, num_bins: int) -> None:
    available = np.array(data.draw(st.lists(st.integers(0, 50), min_size=num_bins, max_size=num_bins)))
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=num_bins, max_size=num_bins)), dtype=float)
    weights[0] += 1
    wanted = largest_remainder(data.draw(st.integers(0, int(available.sum()))), weights)
    given_K = allot(wanted, weights, available)
    assert given_K.sum() == wanted.sum()
    assert (given_K <= available).all()
    assert (given_K >= np.minimum(wanted, available)).all()
    assert (given_K[weights == 0] == 0).all() or (given_K == available)[weights > 0].all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.integers(8, 400),
    epochs=st.integers(1, 4),
    max_steps=st.none() | st.integers(1, 60),
    batch_rows=st.integers(1, 8),
    curriculum=st.booleans(),
)
def test_no_row_twice_in_an_epoch_and_totals_are_exact(
    make_index: MakeIndex,
    make_sampling: MakeSampling,
    seed: int,
    n_samples: int,
    epochs: int,
    max_steps: int | None,
    batch_rows: int,
    curriculum: bool,
) -> None:
    index = make_index(200, seed=seed)
    sampling = make_sampling(n_samples=n_samples, seed=seed, curriculum_learning=curriculum)
    drawn = draw_all(index, sampling, epochs=epochs, max_steps=max_steps, batch_rows=batch_rows)
    in_bins = sum(rows_per_bin(index, sampling, np.arange(200)).values())
    available = in_bins if curriculum else 200
    per_epoch = min(n_samples, available)
    total = per_epoch * epochs if max_steps is None else min(per_epoch * epochs, max_steps * batch_rows)
    assert drawn.available_rows == available
    assert sum(drawn.outside_bins.values()) == 200 - available
    assert len(drawn.row_ids_P) == total // batch_rows * batch_rows
    assert drawn.incomplete_rows == total % batch_rows
    for start in range(0, len(drawn.row_ids_P), per_epoch):
        epoch_rows = drawn.row_ids_P[start : start + per_epoch]
        assert len(set(epoch_rows.tolist())) == len(epoch_rows)
    steps = [(phase.start_step, phase.end_step) for phase in drawn.phases]
    assert [start for start, _ in steps] == [0, *(end for _, end in steps[:-1])]
    assert steps[-1][1] * batch_rows == len(drawn.row_ids_P)
    for phase in drawn.phases:
        rows = drawn.row_ids_P[phase.start_step * batch_rows : phase.end_step * batch_rows]
        assert phase.tokens == sum(int(index.num_tokens_R[row]) for row in rows)
        assert sum(phase.wanted_rows_by_bin.values()) == len(rows)
        expected = rows_per_bin(index, sampling, rows) if curriculum else {"all": len(rows)}
        assert phase.rows_by_bin == expected


def test_every_phase_gets_its_share_of_every_bin_exactly(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    index = make_index(3000)
    drawn = draw_all(index, make_sampling(n_samples=100), batch_rows=10)
    assert [(phase.start_step, phase.end_step) for phase in drawn.phases] == [(0, 3), (3, 7), (7, 10)]
    assert [tuple(phase.rows_by_bin.values()) for phase in drawn.phases] == [(21, 9, 0), (12, 24, 4), (3, 15, 12)]
    assert drawn.warnings == ()


def test_the_schedule_spans_all_epochs_and_shrinks_with_max_steps(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(3000)
    two_epochs = draw_all(index, make_sampling(n_samples=100), epochs=2, batch_rows=10)
    assert [phase.end_step for phase in two_epochs.phases] == [6, 14, 20]
    short = draw_all(index, make_sampling(n_samples=100), max_steps=4, batch_rows=10)
    assert [phase.end_step for phase in short.phases] == [1, 3, 4]


def test_every_phase_gets_a_step_when_there_are_enough(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    weights = {"low": 1.0}
    narrow_first = [
        {"epoch_range": (0.0, 0.01), "difficulty_weights": weights},
        {"epoch_range": (0.01, 0.02), "difficulty_weights": weights},
        {"epoch_range": (0.02, 1.0), "difficulty_weights": weights},
    ]
    narrow_last = [
        {"epoch_range": (0.0, 0.98), "difficulty_weights": weights},
        {"epoch_range": (0.98, 0.99), "difficulty_weights": weights},
        {"epoch_range": (0.99, 1.0), "difficulty_weights": weights},
    ]
    index = make_index(3000)
    for schedule, ends in ((narrow_first, [1, 2, 10]), (narrow_last, [8, 9, 10])):
        drawn = draw_all(index, make_sampling(n_samples=100, difficulty_schedule=schedule), batch_rows=10)
        assert [phase.end_step for phase in drawn.phases] == ends


def test_a_phase_without_a_step_is_said(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    drawn = draw_all(make_index(3000), make_sampling(), max_steps=2, batch_rows=10)
    assert [phase.end_step - phase.start_step for phase in drawn.phases].count(0) == 1
    assert any("gets no step: the run has 2 steps for 3 phases" in warning for warning in drawn.warnings)


def test_a_dry_bin_is_named_with_phase_and_numbers(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    index = make_index(100, difficulties=[1] * 10 + [5] * 50 + [9] * 40)
    drawn = draw_all(index, make_sampling(n_samples=60), batch_rows=6)
    # Phase 1 has 3 steps, 18 rows: 13 low and 5 medium wanted, 10 low there are.
    assert drawn.phases[0].wanted_rows_by_bin == {"low": 13, "medium": 5, "high": 0}
    assert drawn.phases[0].rows_by_bin == {"low": 10, "medium": 8, "high": 0}
    assert drawn.warnings[0] == (
        'phase 1 (0 to 0.3): bin "low" wanted 13 rows and only 10 were available; the rest came from medium (+3)'
    )
    assert 'phase 2 (0.3 to 0.7): bin "low" wanted 7 rows and only 0 were available' in drawn.warnings[1]


def test_a_bin_without_weight_that_helps_is_said(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 1.0}}]
    index = make_index(30, difficulties=[2] * 10 + [9] * 20)
    drawn = draw_all(index, make_sampling(n_samples=16, difficulty_schedule=schedule), batch_rows=8)
    assert drawn.phases[0].rows_by_bin == {"low": 10, "medium": 0, "high": 6}
    assert "high: weight 0 in this phase" in drawn.warnings[0]


def test_asking_for_more_rows_than_there_are_uses_all_and_says_so(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(40, difficulties=[2] * 16 + [5] * 16 + [0] * 8)
    drawn = draw_all(index, make_sampling(n_samples=1000))
    assert sorted(drawn.row_ids_P.tolist()) == list(range(32))
    assert drawn.outside_bins == {0: 8}
    assert drawn.warnings[0] == "train.sampling.n_samples=1,000 but only 32 rows are available; all are used"


def test_without_curriculum_rows_outside_every_bin_are_drawn_too(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(40, difficulties=[0] * 20 + [12] * 20)
    drawn = draw_all(index, make_sampling(curriculum_learning=False, n_samples=40))
    assert sorted(drawn.row_ids_P.tolist()) == list(range(40))
    assert drawn.outside_bins == {}


def test_too_few_rows_for_a_step_are_refused_with_the_reasons(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(40, difficulties=[2] * 5 + [0] * 35)
    with pytest.raises(PlanError, match=r"train\.batch_rows=8 but only 5 rows remain of 40 .*35 outside every diff"):
        draw_all(index, make_sampling())
    with pytest.raises(PlanError, match=r"but only 3 rows remain .*2 not drawn \(train\.sampling\.n_samples\)"):
        draw_all(index, make_sampling(n_samples=3))


@pytest.mark.parametrize(("epochs", "num_rows"), [(0.1, 10), (0.29, 29), (1.07, 107), (0.019, 1), (3, 300)])
def test_a_part_of_an_epoch_is_counted_in_decimals_and_spans_the_schedule(
    make_index: MakeIndex, make_sampling: MakeSampling, epochs: float, num_rows: int
) -> None:
    index = make_index(2000, num_problems=40)
    drawn = draw_all(index, make_sampling(n_samples=100), epochs=epochs, batch_rows=1)
    assert len(drawn.row_ids_P) == num_rows
    assert drawn.phases[-1].end_step == num_rows
    if epochs < 1:
        assert len(np.unique(drawn.row_ids_P)) == num_rows, "no row twice"


def test_a_part_of_an_epoch_that_fills_no_step_is_refused(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    with pytest.raises(PlanError, match=r"train\.epochs=0\.05 of 100 rows are 5 rows, but a step needs train\.batch"):
        draw_all(make_index(2000), make_sampling(n_samples=100), epochs=0.05, batch_rows=8)


def test_epochs_and_seeds_draw_afresh(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    index = make_index(1000)
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 1.0}}]
    drawn = draw_all(index, make_sampling(n_samples=40, difficulty_schedule=schedule), epochs=2)
    first, second = drawn.row_ids_P[:40].tolist(), drawn.row_ids_P[40:].tolist()
    other_seed = draw_all(index, make_sampling(n_samples=40, difficulty_schedule=schedule, seed=8))
    assert set(first) != set(second)
    assert set(first) != set(other_seed.row_ids_P.tolist())


def test_bins_are_mixed_inside_a_phase(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 0.5, "high": 0.5}}]
    index = make_index(400, difficulties=[2] * 200 + [9] * 200)
    drawn = draw_all(index, make_sampling(n_samples=100, difficulty_schedule=schedule))
    is_low = index.difficulty_R[drawn.row_ids_P] == 2
    assert 15 < is_low[:48].sum() < 33


def test_unknown_rows_are_drawn_only_where_a_phase_weighs_them(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(300, difficulties=[0] * 100 + [2] * 100 + [9] * 100)
    schedule = [
        {"epoch_range": (0.0, 0.5), "difficulty_weights": {"low": 0.5, "unknown": 0.5}},
        {"epoch_range": (0.5, 1.0), "difficulty_weights": {"low": 1.0}},
    ]
    drawn = draw_all(index, make_sampling(n_samples=80, difficulty_schedule=schedule))
    assert [phase.rows_by_bin["unknown"] for phase in drawn.phases] == [20, 0]
    assert list(drawn.phases[0].rows_by_bin) == ["low", "medium", "high", "unknown"]
    assert (index.difficulty_R[drawn.row_ids_P[:40]] == 0).sum() == 20
    assert drawn.outside_bins == {}


def test_unknown_rows_without_a_weight_are_outside_and_never_help(
    make_index: MakeIndex, make_sampling: MakeSampling
) -> None:
    index = make_index(100, difficulties=[0] * 90 + [2] * 10)
    for bins in ({"low": (1, 3)}, {"low": (1, 3), "unknown": (0, 0)}):
        schedule = [{"epoch_range": (0.0, 1.0), "difficulty_weights": {"low": 1.0}}]
        sampling = make_sampling(n_samples=80, difficulty_schedule=schedule, difficulty_bins=bins)
        drawn = draw_all(index, sampling)
        assert drawn.outside_bins == {0: 90}
        assert (index.difficulty_R[drawn.row_ids_P] == 2).all()


def test_a_refusal_names_unknown_rows_and_what_to_do(make_index: MakeIndex, make_sampling: MakeSampling) -> None:
    with pytest.raises(PlanError, match=r"40 outside every .*; unknown: 40\).* give `unknown` a weight"):
        draw_all(make_index(40, difficulties=[0] * 40), make_sampling())


@pytest.mark.parametrize("curriculum", [True, False])
def test_the_cap_holds_over_all_epochs_and_is_counted(
    make_index: MakeIndex, make_sampling: MakeSampling, curriculum: bool
) -> None:
    index = make_index(400, num_problems=6)
    sampling = make_sampling(n_samples=1000, curriculum_learning=curriculum, max_rows_per_problem=9)
    drawn = draw_all(index, sampling, epochs=3)
    in_bins = (index.difficulty_R >= 1) & (index.difficulty_R <= 11) | (not curriculum)
    assert drawn.available_rows == 6 * 9
    assert drawn.left_out["over the cap of their problem (train.sampling.max_rows_per_problem)"] == in_bins.sum() - 54
    assert np.bincount(index.problem_R[np.unique(drawn.row_ids_P)]).max() == 9
    assert in_bins[drawn.row_ids_P].all()
