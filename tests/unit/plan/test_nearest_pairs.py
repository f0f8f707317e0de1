"""Pairs by a given distance: the nearest rows of a problem, each in one pair, after a bounded number of comparisons."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.schema import DataConfig
from wmtp_ray.contracts import Int64, RowIndex
from wmtp_ray.errors import PlanError
from wmtp_ray.plan.nearest_pairs import CANDIDATES_PER_PAIR, Distances
from wmtp_ray.plan.pairs import WithinProblemDraw, draw_balanced
from wmtp_ray.plan.run_plan import plan_critic_stage

MakeIndex = Callable[..., RowIndex]


def apart(places: Sequence[int]) -> Distances:
    """Rows stand on a line, row r at places[r]."""
    line = np.array(places, dtype=np.int64)
    return lambda correct_C, incorrect_I: np.abs(line[correct_C][:, None] - line[incorrect_I][None, :])


def drawn_from(index: RowIndex, distances: Distances, *, cap: int = 100, ratio: float = 0.5) -> WithinProblemDraw:
    rows = np.arange(len(index))
    return draw_balanced(
        index, rows, num_rows=10**6, correct_ratio=ratio, max_rows_per_problem=cap, seed=1, distances=distances
    )


def pairs_of(drawn: WithinProblemDraw) -> set[tuple[int, ...]]:
    return {tuple(pair) for pair in drawn.pairs_U2.tolist()}


def test_the_nearest_rows_are_paired_whatever_their_lengths(make_index: MakeIndex) -> None:
    index = make_index(
        4, num_problems=1, problems=[0] * 4, correct=[True, True, False, False], response_tokens=[10, 50, 10, 50]
    )
    assert pairs_of(drawn_from(index, apart([0, 7, 8, 1]))) == {(0, 3), (1, 2)}


def test_no_row_is_in_two_pairs_and_the_nearest_pair_comes_first(make_index: MakeIndex) -> None:
    index = make_index(4, num_problems=1, problems=[0] * 4, correct=[True, True, False, False])
    assert pairs_of(drawn_from(index, apart([0, 2, 3, 9]))) == {(1, 2), (0, 3)}


def test_of_more_rows_than_asked_for_the_nearest_are_taken(make_index: MakeIndex) -> None:
    index = make_index(6, num_problems=1, problems=[0] * 6, correct=[True] * 3 + [False] * 3)
    drawn = drawn_from(index, apart([0, 100, 200, 60, 101, 190]), cap=2)
    assert pairs_of(drawn) == {(1, 4)}
    assert len(drawn.singles_N) == 0


def test_of_equally_near_rows_the_one_of_the_nearest_length_is_taken(make_index: MakeIndex) -> None:
    index = make_index(3, num_problems=1, problems=[0] * 3, correct=[True, False, False], response_tokens=[20, 60, 22])
    drawn = drawn_from(index, apart([5, 4, 6]))
    assert pairs_of(drawn) == {(0, 2)}
    assert drawn.num_length_matched_pairs == 1


def test_distances_are_asked_for_within_a_problem_and_for_a_few_rows_of_it(make_index: MakeIndex) -> None:
    index = make_index(900, num_problems=3, correct=[True, False] * 450)
    asked: list[tuple[Int64, Int64]] = []

    def distances(correct_C: Int64, incorrect_I: Int64) -> Int64:
        asked.append((correct_C, incorrect_I))
        return np.ones((len(correct_C), len(incorrect_I)), dtype=np.int64)

    drawn = drawn_from(index, distances, cap=4)
    assert len(drawn.pairs_U2) == 6
    assert len(asked) == 3
    for rows in asked:
        assert len(set(index.problem_R[np.concatenate(rows)].tolist())) == 1
        assert [len(each) for each in rows] == [2 * CANDIDATES_PER_PAIR] * 2
        assert index.is_correct_R[rows[0]].all()
        assert not index.is_correct_R[rows[1]].any()


def test_another_ratio_gives_single_rows_beside_the_pairs(make_index: MakeIndex) -> None:
    index = make_index(80, num_problems=2, correct=[True, False] * 40)
    drawn = drawn_from(index, apart(range(80)), cap=8, ratio=0.25)
    rows = np.concatenate([drawn.pairs_U2.ravel(), drawn.singles_N])
    assert len(rows) == len(set(rows.tolist())) == 16
    assert index.is_correct_R[rows].sum() == len(drawn.pairs_U2) == 4
    assert (index.problem_R[drawn.pairs_U2[:, 0]] == index.problem_R[drawn.pairs_U2[:, 1]]).all()


def test_a_plan_by_edits_is_the_same_every_time_and_another_than_that_by_length(
    make_index: MakeIndex, make_critic_stage: Callable[..., CriticStageConfig], make_data: Callable[..., DataConfig]
) -> None:
    index, stage = make_index(), make_critic_stage(epochs=2)
    far = apart(np.random.default_rng(5).integers(0, 10**6, len(index)).tolist())
    by_edit, again = (plan_critic_stage(index, make_data(), stage, 3, distances=far) for _ in range(2))
    assert by_edit.digest == again.digest != plan_critic_stage(index, make_data(), stage, 3).digest
    rows = by_edit.row_ids_P
    assert (index.problem_R[rows[::2]] == index.problem_R[rows[1::2]]).all()
    assert (index.is_correct_R[rows[::2]] != index.is_correct_R[rows[1::2]]).all()


def test_rows_whatever_their_class_cannot_be_paired(
    make_index: MakeIndex, make_critic_stage: Callable[..., CriticStageConfig], make_data: Callable[..., DataConfig]
) -> None:
    stage = make_critic_stage(sampling={"balance_correct": False})
    with pytest.raises(PlanError, match=r"critic.pairs=edit .* balance_correct=true"):
        plan_critic_stage(make_index(), make_data(), stage, 3, distances=apart(range(400)))
