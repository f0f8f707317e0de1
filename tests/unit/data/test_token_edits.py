import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.data.index import build_index
from wmtp_ray.data.token_edits import (
    EditDistances,
    differing_tokens,
    edit_distance,
    first_difference,
    nearest,
    read_responses,
)

programs = st.lists(st.integers(0, 5), min_size=1, max_size=12).map(lambda tokens: np.array(tokens, dtype=np.int32))


def program(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def slow_distance(one: list[int], other: list[int]) -> int:
    """The recurrence of Levenshtein's distance, a row at a time."""
    row = list(range(len(other) + 1))
    for i, token in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (token != wanted))
    return row[-1]


def test_a_distance_counts_tokens_not_characters():
    assert edit_distance(program(100, 200, 300), program(100, 201, 300)) == 1
    assert edit_distance(program(1, 2, 3, 9), program(1, 5, 6, 3, 9)) == 2


@given(programs, programs)
def test_the_distance_is_levenshteins(one, other):
    assert edit_distance(one, other) == slow_distance(one.tolist(), other.tolist())


def test_the_nearest_has_the_smallest_distance_then_the_nearest_length_then_the_first_place():
    own = program(1, 2, 3)
    assert nearest(own, [program(7, 8, 9), program(1, 2, 4), program(1)]) == 1
    assert nearest(own, [program(1, 2), program(1, 2, 4)]) == 1
    assert nearest(own, [program(1, 2, 4), program(1, 2, 5)]) == 0


@given(programs, st.lists(programs, min_size=1, max_size=6))
def test_no_program_is_nearer_than_the_nearest(own, others):
    distances = [edit_distance(own, each) for each in others]
    assert distances[nearest(own, others)] == min(distances)


def test_without_programs_there_is_no_nearest():
    with pytest.raises(ValueError, match="at least one"):
        nearest(program(1), [])


def test_differing_tokens_are_those_replaced_or_deleted():
    assert differing_tokens(program(1, 2, 3, 9), program(1, 5, 6, 3, 9)).tolist() == [False, True, False, False]
    assert differing_tokens(program(1, 2, 3, 4, 5, 6), program(1, 9, 3, 4, 8, 6)).tolist() == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert not differing_tokens(program(1, 2), program(1, 7, 2)).any()


@given(programs, programs)
def test_what_does_not_differ_stands_in_the_other_program_in_the_same_order(own, other):
    kept, wanted = own[~differing_tokens(own, other)].tolist(), iter(other.tolist())
    assert all(token in wanted for token in kept)


def test_the_first_difference_is_where_the_programs_part():
    assert first_difference(program(1, 2, 3), program(1, 5, 3)) == 1
    assert first_difference(program(1, 2), program(1, 2, 3)) == 2
    assert first_difference(program(1, 2), program(1, 2)) == 2


def test_the_rows_of_a_file_are_compared_by_their_responses_alone(tmp_path, line, tokenizer):
    programs = ["print(1)\n", "print(2)\nprint(3)\n", "print(1)\nprint(2)\n"]
    path = tmp_path / "train.jsonl"
    rows = [line(task_id=f"p_correct_{i}", instruction="Print. " * i, output=each) for i, each in enumerate(programs)]
    path.write_bytes(b"\n".join(rows) + b"\n")
    index = build_index(path, on_error="fail").index
    responses = read_responses(index, np.arange(3), tokenizer)
    assert all(response[-1] == tokenizer.eos_id for response in responses)
    found = EditDistances(index, tokenizer)(np.array([0]), np.array([2, 1, 0]))
    assert found.tolist() == [[edit_distance(responses[0], responses[other]) for other in (2, 1, 0)]]
    assert 0 < found[0, 0] < found[0, 1]
    assert found[0, 2] == 0
