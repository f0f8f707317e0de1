from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wmtp_ray.objective import td

from .document_layouts import LAYOUTS, Document, documents_lists, few_examples, lay_out

NUM_HORIZONS = 3


def naive_td_errors(document: Document, gamma: float) -> list[float]:
    last = len(document.values) - 1
    errors = [0.0] * len(document.values)
    for token in range(document.prompt, last + 1):
        following = document.reward if token == last else gamma * document.values[token]
        errors[token] = following - document.values[token - 1]
    return errors


def naive_advantages(document: Document, gamma: float, td_lambda: float) -> list[float]:
    errors, following = naive_td_errors(document, gamma), 0.0
    advantages = [0.0] * len(errors)
    for token in reversed(range(document.prompt, len(errors))):
        following = errors[token] + gamma * td_lambda * following
        advantages[token] = following
    return advantages


def assert_documents(found: list[Tensor], expected: list[list[float]]) -> None:
    for found_document, expected_document in zip(found, expected, strict=True):
        torch.testing.assert_close(found_document, torch.tensor(expected_document, dtype=torch.float64))


def every_layout(test: Callable[[list[Document], str], None]) -> Callable[[], None]:
    return few_examples(given(documents_lists(), st.sampled_from(LAYOUTS))(test))  # type: ignore[operator]


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS), st.floats(0.5, 1))
def test_td_errors_equal_a_naive_loop_in_every_layout(documents: list[Document], kind: str, gamma: float) -> None:
    layout = lay_out(documents, kind)
    errors_BT = td.td_errors(
        layout.values_BT,
        layout.rewards_M,
        layout.supervised_mask_BT,
        gamma=gamma,
        document_ids_BT=layout.document_ids_BT,
    )
    assert_documents(layout.per_document(errors_BT), [naive_td_errors(document, gamma) for document in documents])
    assert not errors_BT[~layout.supervised_mask_BT].any()


@every_layout
def test_td_errors_of_a_response_sum_to_reward_minus_prompt_value(documents: list[Document], kind: str) -> None:
    layout = lay_out(documents, kind)
    errors_BT = td.td_errors(
        layout.values_BT, layout.rewards_M, layout.supervised_mask_BT, document_ids_BT=layout.document_ids_BT
    )
    prompt_value_M = td.prompt_value(
        layout.values_BT, layout.supervised_mask_BT, document_ids_BT=layout.document_ids_BT
    )
    sums_M = torch.stack([errors.sum() for errors in layout.per_document(errors_BT)])
    torch.testing.assert_close(sums_M, layout.rewards_M - prompt_value_M)
    expected = [document.values[document.prompt - 1] for document in documents]
    assert prompt_value_M.tolist() == expected


def test_a_one_token_response_gets_reward_minus_prompt_value() -> None:
    values_BT = torch.tensor([[0.1, 0.25, 0.9, 0.9]])
    mask_BT = torch.tensor([[False, False, True, False]])
    errors_BT = td.td_errors(values_BT, torch.tensor([1.0]), mask_BT)
    assert errors_BT.tolist() == [[0.0, 0.0, 0.75, 0.0]]


def test_the_value_after_the_last_token_is_not_read() -> None:
    mask_BT = torch.tensor([[False, True, True]])
    values_BT = torch.tensor([[0.5, 0.25, torch.nan]])
    assert td.td_errors(values_BT, torch.tensor([0.0]), mask_BT).tolist() == [[0.0, -0.25, -0.25]]


def test_half_precision_values_give_float32_errors() -> None:
    mask_BT = torch.tensor([[False, True]])
    errors_BT = td.td_errors(torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16), torch.tensor([1]), mask_BT)
    assert errors_BT.dtype == torch.float32


def test_a_supervised_token_without_a_previous_state_is_refused() -> None:
    with pytest.raises(AssertionError, match="its own document"):
        td.td_errors(torch.zeros(1, 2), torch.zeros(1), torch.tensor([[True, True]]))
    with pytest.raises(AssertionError, match="its own document"):
        td.td_errors(
            torch.zeros(1, 4),
            torch.zeros(2),
            torch.tensor([[False, True, True, True]]),
            document_ids_BT=torch.tensor([[0, 0, 1, 1]]),
        )


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS), st.floats(0.5, 1))
def test_horizon_reading_ends_every_window_with_the_reward(documents: list[Document], kind: str, gamma: float) -> None:
    layout = lay_out(documents, kind)
    errors_BTH = td.horizon_td_errors(
        layout.values_BT,
        layout.rewards_M,
        layout.supervised_mask_BT,
        NUM_HORIZONS,
        gamma=gamma,
        document_ids_BT=layout.document_ids_BT,
    )
    for document, errors_TH in zip(documents, layout.per_document(errors_BTH), strict=True):
        by_token, length = naive_td_errors(document, gamma), len(document.values)
        for position in range(length):
            for horizon in range(1, NUM_HORIZONS + 1):
                token, expected = position + horizon, 0.0
                if document.prompt <= token < length:
                    window_ends = horizon == NUM_HORIZONS
                    expected = document.reward - document.values[token - 1] if window_ends else by_token[token]
                assert float(errors_TH[position, horizon - 1]) == pytest.approx(expected)


@every_layout
def test_both_terminal_readings_agree_at_the_last_token(documents: list[Document], kind: str) -> None:
    layout = lay_out(documents, kind)
    arguments = (layout.values_BT, layout.rewards_M, layout.supervised_mask_BT)
    sequence_BT = td.td_errors(*arguments, document_ids_BT=layout.document_ids_BT)
    horizon_BTH = td.horizon_td_errors(*arguments, NUM_HORIZONS, document_ids_BT=layout.document_ids_BT)
    by_document = zip(layout.per_document(sequence_BT), layout.per_document(horizon_BTH), strict=True)
    for sequence, horizon in by_document:
        last = len(sequence) - 1
        for k in range(1, NUM_HORIZONS + 1):
            if last - k >= 0:
                torch.testing.assert_close(horizon[last - k, k - 1], sequence[last])


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS), st.floats(0.5, 1), st.floats(0, 1))
def test_advantages_equal_the_gae_recurrence(
    documents: list[Document], kind: str, gamma: float, td_lambda: float
) -> None:
    layout = lay_out(documents, kind)
    ids_BT, mask_BT = layout.document_ids_BT, layout.supervised_mask_BT
    errors_BT = td.td_errors(layout.values_BT, layout.rewards_M, mask_BT, gamma=gamma, document_ids_BT=ids_BT)
    found_BT = td.advantages(errors_BT, mask_BT, gamma=gamma, td_lambda=td_lambda, document_ids_BT=ids_BT)
    expected = [naive_advantages(document, gamma, td_lambda) for document in documents]
    assert_documents(layout.per_document(found_BT), expected)
    assert not found_BT[~mask_BT].any()


def test_lambda_zero_returns_the_td_errors_themselves() -> None:
    errors_BT = torch.randn(2, 5)
    mask_BT = torch.ones(2, 5, dtype=torch.bool)
    assert td.advantages(errors_BT, mask_BT, gamma=0.9, td_lambda=0.0) is errors_BT


@every_layout
def test_terminal_first_and_state_masks_equal_a_naive_loop(documents: list[Document], kind: str) -> None:
    layout = lay_out(documents, kind)
    for function, marked in (
        (td.last_supervised_mask, lambda document: [len(document.values) - 1]),
        (td.first_supervised_mask, lambda document: [document.prompt]),
        (td.value_state_mask, lambda document: list(range(document.prompt - 1, len(document.values) - 1))),
    ):
        found_BT = function(layout.supervised_mask_BT, layout.document_ids_BT)
        assert [p.nonzero().flatten().tolist() for p in layout.per_document(found_BT)] == [
            marked(document) for document in documents
        ]
        assert int(found_BT.sum()) == sum(len(marked(document)) for document in documents)


def test_the_terminal_token_is_found_by_the_mask_not_by_the_length() -> None:
    mask_BT = torch.tensor([[False, True, True, False, False]])
    assert td.last_supervised_mask(mask_BT).tolist() == [[False, False, True, False, False]]


def test_prompt_value_of_a_document_without_response_is_nan() -> None:
    ids_BT = torch.tensor([[0, 0, 1, 1]])
    mask_BT = torch.tensor([[False, False, False, True]])
    values_M = td.prompt_value(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), mask_BT, document_ids_BT=ids_BT)
    assert values_M.isnan().tolist() == [True, False]


@every_layout
def test_monte_carlo_targets_are_the_reward_at_value_states(documents: list[Document], kind: str) -> None:
    layout = lay_out(documents, kind)
    targets_BT = td.monte_carlo_targets(
        layout.values_BT, layout.rewards_M, layout.supervised_mask_BT, document_ids_BT=layout.document_ids_BT
    )
    expected = []
    for document in documents:
        length = len(document.values)
        expected.append([document.reward * (document.prompt - 1 <= t < length - 1) for t in range(length)])
    assert_documents(layout.per_document(targets_BT), expected)


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS), st.floats(0.5, 1), st.floats(0, 1))
def test_lambda_returns_equal_their_recursive_definition(
    documents: list[Document], kind: str, gamma: float, td_lambda: float
) -> None:
    """G[t] = gamma * ((1 - lambda) * V[t + 1] + lambda * G[t + 1]), and R at the state before the last token."""
    layout = lay_out(documents, kind)
    returns_BT = td.lambda_returns(
        layout.values_BT,
        layout.rewards_M,
        layout.supervised_mask_BT,
        gamma=gamma,
        td_lambda=td_lambda,
        document_ids_BT=layout.document_ids_BT,
    )
    expected = []
    for document in documents:
        returns = [0.0] * len(document.values)
        following = document.reward
        returns[-2] = following
        for state in reversed(range(document.prompt - 1, len(document.values) - 2)):
            following = gamma * ((1 - td_lambda) * document.values[state + 1] + td_lambda * following)
            returns[state] = following
        expected.append(returns)
    assert_documents(layout.per_document(returns_BT), expected)


def test_lambda_one_without_discount_is_monte_carlo() -> None:
    mask_BT = torch.tensor([[False, True, True, True]])
    values_BT = torch.tensor([[0.3, 0.9, 0.1, 0.4]], requires_grad=True)
    full = partial(td.lambda_returns, gamma=1.0, td_lambda=1.0)
    reward = torch.tensor([1.0])
    torch.testing.assert_close(full(values_BT, reward, mask_BT), td.monte_carlo_targets(values_BT, reward, mask_BT))
    assert not full(values_BT, reward, mask_BT).requires_grad
