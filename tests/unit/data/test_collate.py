from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.contracts import Example, RowEdits
from wmtp_ray.data.collate import collate, documents_of, examples_of, with_edits


def make_example(row_id: int, prompt_tokens: int, response_tokens: int, is_correct: bool = True) -> Example:
    tokens_T = np.arange(prompt_tokens + response_tokens, dtype=np.int32) + 10 * row_id
    return Example(row_id, tokens_T, prompt_tokens, is_correct)


EXAMPLES = st.lists(
    st.builds(make_example, st.integers(0, 2**26), st.integers(1, 6), st.integers(1, 6), st.booleans()),
    min_size=1,
    max_size=8,
)


def test_the_worked_example_of_the_module() -> None:
    first = Example(5, np.array([1, 7, 2], np.int32), 2, True)
    second = Example(3, np.array([1, 5, 2], np.int32), 1, False)
    batch = collate([first, second], step=4, micro_step=1)
    assert (batch.step, batch.micro_step) == (4, 1)
    assert batch.tokens_BT.tolist() == [[1, 7, 2, 1, 5, 2]]
    assert batch.document_ids_BT.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.supervised_mask_BT.tolist() == [[False, False, True, False, True, True]]
    assert batch.document_lengths_M.tolist() == [3, 3]
    assert batch.rewards_M.tolist() == [1.0, 0.0]
    assert batch.row_ids_M.tolist() == [5, 3]


@given(EXAMPLES)
def test_a_batch_equals_a_loop_over_its_tokens(examples: list[Example]) -> None:
    batch = collate(examples, step=0, micro_step=0)
    t = 0
    for document, example in enumerate(examples):
        for position, token in enumerate(example.tokens_T):
            assert batch.tokens_BT[0, t] == token
            assert batch.document_ids_BT[0, t] == document
            assert batch.positions_BT[0, t] == position
            assert batch.supervised_mask_BT[0, t] == (position >= example.prompt_tokens)
            t += 1
        assert batch.rewards_M[document] == (1.0 if example.is_correct else 0.0)
    assert batch.tokens_BT.shape == (1, t)


@given(EXAMPLES)
def test_documents_of_a_batch_are_the_examples(examples: list[Example]) -> None:
    batch = collate(examples, step=0, micro_step=0)
    slices = documents_of(batch)
    assert [batch.tokens_BT[0, s].tolist() for s in slices] == [example.tokens_T.tolist() for example in examples]


def test_arrays_have_the_types_of_the_contract() -> None:
    batch = collate([make_example(0, 2, 3)], step=0, micro_step=0)
    assert batch.tokens_BT.dtype == batch.row_ids_M.dtype == np.int64
    assert batch.document_ids_BT.dtype == batch.positions_BT.dtype == batch.document_lengths_M.dtype == np.int32
    assert (batch.supervised_mask_BT.dtype, batch.rewards_M.dtype) == (np.bool_, np.float32)


@pytest.mark.parametrize(("prompt_tokens", "response_tokens"), [(0, 3), (3, 0)])
def test_an_example_without_prompt_or_response_breaks_the_invariant(prompt_tokens: int, response_tokens: int) -> None:
    with pytest.raises(AssertionError):
        collate([make_example(0, prompt_tokens, response_tokens)], step=0, micro_step=0)


def test_an_empty_batch_breaks_the_invariant() -> None:
    with pytest.raises(AssertionError):
        collate([], step=0, micro_step=0)


def test_edits_lie_where_their_documents_lie() -> None:
    edits = [
        RowEdits(np.array([False, False, True]), 2, 0.25),
        RowEdits(np.zeros(2, np.bool_), -1, 1.0),
        RowEdits(np.array([False, True, False]), 1, 0.5),
    ]
    examples = [make_example(5, 2, 1), make_example(6, 1, 1), make_example(7, 1, 2, is_correct=False)]
    batch = with_edits(collate(examples, step=0, micro_step=0), edits)
    assert batch.edits is not None
    assert batch.edits.differs_BT.tolist() == [[False, False, True, False, False, False, True, False]]
    assert batch.edits.first_M.tolist() == [2, -1, 6]
    assert batch.edits.correct_frac_M.tolist() == [0.25, 1.0, 0.5]
    laid = collate([replace(each, edits=own) for each, own in zip(examples, edits, strict=True)], step=0, micro_step=0)
    assert laid.edits is not None
    assert laid.edits.first_M.tolist() == batch.edits.first_M.tolist()
    assert collate(examples, step=0, micro_step=0).edits is None


@given(EXAMPLES)
def test_the_examples_of_a_batch_are_those_that_it_was_laid_of(examples: list[Example]) -> None:
    for found, example in zip(examples_of(collate(examples, step=0, micro_step=0)), examples, strict=True):
        assert found.tokens_T.tolist() == example.tokens_T.tolist()
        assert replace(found, tokens_T=example.tokens_T) == example


def test_a_batch_has_the_edits_of_all_rows_or_of_none() -> None:
    one = replace(make_example(1, 1, 1), edits=RowEdits(np.zeros(2, np.bool_), -1, 1.0))
    with pytest.raises(AssertionError, match="of all of its rows"):
        collate([one, make_example(2, 1, 1)], step=0, micro_step=0)
