import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.contracts import Example
from wmtp_ray.data.collate import collate, documents_of


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
