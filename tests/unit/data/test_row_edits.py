"""What sets a row apart from the nearest of the other class: worked by hand, then against a naive reading."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.contracts import Example
from wmtp_ray.data.row_edits import edits_of, without_copy
from wmtp_ray.data.token_edits import edit_distance

END = 99


def row(response: list[int], is_correct: bool, *, prompt: tuple[int, ...] = (7, 8), row_id: int = 0) -> Example:
    """A row whose response ends with the end of sequence."""
    return Example(row_id, np.array([*prompt, *response, END], np.int32), len(prompt), is_correct)


def marks(own: Example, compared: list[Example]) -> tuple[list[int], int, float]:
    """The places that differ, the first difference, the share of correct rows."""
    edits = edits_of(own, compared)
    assert len(edits.differs_T) == len(own.tokens_T)
    return np.flatnonzero(edits.differs_T).tolist(), edits.first, edits.correct_frac


def test_the_worked_example():
    correct, incorrect = row([1, 2, 3, 9], True), row([1, 5, 9], False)
    assert marks(correct, [incorrect]) == ([3, 4], 3, 0.5)
    assert marks(incorrect, [correct]) == ([3], 3, 0.5)


def test_the_nearest_of_the_other_class_is_taken_whatever_is_nearer_of_the_own():
    own = row([1, 2, 3, 4], True)
    near, far, alike = row([1, 2, 6, 4], False), row([5, 6, 7, 8], False), row([1, 2, 3, 5], True)
    assert marks(own, [far, near, alike]) == ([4], 4, 2 / 3)


def test_a_token_that_is_lacking_leaves_no_mark_but_a_first_difference():
    """[1 3] lacks the 2: nothing of its own is replaced, and the 3 stands where the other has the 2."""
    assert marks(row([1, 3], False), [row([1, 2, 3], True)]) == ([], 3, 0.5)
    assert marks(row([1, 2, 3], True), [row([1, 3], False)]) == ([3], 3, 0.5)


def test_a_program_that_ends_early_differs_at_its_end():
    assert marks(row([1], False), [row([1, 2], True)]) == ([], 3, 0.5)
    assert marks(row([1, 2], True), [row([1], False)]) == ([3], 3, 0.5)


def test_several_spans_are_marked_and_the_first_difference_is_the_first():
    own, other = row([1, 2, 3, 4, 5, 6], True), row([1, 8, 3, 4, 9, 6], False)
    assert marks(own, [other]) == ([3, 6], 3, 0.5)


def test_the_share_is_of_the_rows_that_have_all_tokens_before_in_common():
    own = row([1, 2, 3, 4, 5], False)
    others = [row([1, 2, 3, 4, 6], True), row([1, 2, 3, 4, 7, 7, 7], False), row([1, 2, 9, 9, 9, 9], True)]
    assert marks(own, others) == ([6], 6, 1 / 3)


def test_without_a_row_of_the_other_class_nothing_differs():
    for label in (True, False):
        own = row([1, 2], label)
        assert marks(own, []) == ([], -1, float(label))
        assert marks(own, [row([1, 3], label)]) == ([], -1, float(label))


def test_a_program_of_both_labels_is_no_other_program():
    own = row([1, 2], True)
    assert marks(own, [row([1, 2], False)]) == ([], -1, 1.0)
    assert marks(own, [row([1, 2], False), row([1, 3], False)]) == ([3], 3, 1 / 3)


def test_prompts_of_different_length_move_places_and_nothing_else():
    short, long = row([1, 2, 3], True, prompt=(7,)), row([1, 2, 3], True, prompt=(7, 8, 9))
    other = row([1, 4, 3], False, prompt=(7, 8))
    assert marks(short, [other]) == ([2], 2, 0.5)
    assert marks(long, [other]) == ([4], 4, 0.5)


def test_one_copy_is_left_out():
    own = row([1, 2], True, row_id=3)
    twin, other, wrong = row([1, 2], True, row_id=8), row([1, 2], True, row_id=9), row([1, 2], False, row_id=10)
    assert [each.row_id for each in without_copy(own, [wrong, twin, other])] == [10, 9]
    assert without_copy(own, [wrong]) == [wrong]
    assert without_copy(own, []) == []


responses = st.lists(st.integers(0, 3), max_size=8)


@given(responses, st.lists(st.tuples(responses, st.booleans()), max_size=5), st.booleans())
def test_a_naive_reading_agrees(response, others, label):
    own, compared = row(response, label), [row(tokens, is_correct) for tokens, is_correct in others]
    edits = edits_of(own, compared)
    tokens = [*response, END]
    far = [[*other, END] for other, is_correct in others if is_correct != label and other != response]
    if not far:
        assert (edits.first, edits.differs_T.any(), edits.correct_frac) == (-1, False, float(label))
        return
    distances = [edit_distance(np.array(tokens, np.int32), np.array(other, np.int32)) for other in far]
    assert int(edits.differs_T.sum()) <= min(distances)
    assert not edits.differs_T[:2].any()
    first = edits.first - 2
    nearest = [other for other, distance in zip(far, distances, strict=True) if distance == min(distances)]
    assert first in {next(i for i in range(9) if tokens[i] != other[i]) for other in nearest}
    rows = [(response, label), *others]
    sharing = [is_correct for other, is_correct in rows if [*other, END][:first] == tokens[:first]]
    assert edits.correct_frac == sum(sharing) / len(sharing)
    assert 0 < edits.correct_frac < 1
