"""TD errors, advantages and value targets of one reward per document (objective.md, "TD error" and "Losses").

Shape legend: B rows, T positions, H horizons, M documents. `values_BT[t]` = V(x_0..x_t) is the state AFTER token t,
so the TD error of token j reads the states j - 1 and j. Every function takes `document_ids_BT` (-1 = padding; None:
row b is document b). `reward_B` is indexed by document id: with packing it has one entry per document, else per row.
Half-precision values are computed in float32. Nothing here detaches, except where a docstring says so.

Sources: TD(0) and the lambda-return, Sutton & Barto, chapters 6 and 12; GAE, Schulman et al. 2016, equation 16.
"""

import torch
from torch import Tensor

from wmtp_ray.objective.documents import at_previous, at_tokens, suffix_sums, sums_per_document
from wmtp_ray.objective.horizon import at_horizons


def td_errors(
    values_BT: Tensor,
    reward_B: Tensor,
    supervised_mask_BT: Tensor,
    *,
    gamma: float = 1.0,
    document_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return the one-step TD error of every supervised token, 0 elsewhere: [B, T].

    `gamma * values[j] - values[j-1]`, and at the document's last supervised token `R - values[j-1]`, because the
    terminal state is worth 0. The last token is found by the mask, never by the document's length. With gamma 1 the
    errors of a document sum to R minus the prompt's value. Prompt of 2 tokens, response of 3, R = 1:

        values      [0.2 0.4 | 0.5 0.3 0.9]
        td errors   [0   0   | 0.1 -0.2 0.7]     sum 0.6 = 1 - 0.4; the value after the last token is not read
    """
    values_BT = _at_least_float32(values_BT)
    previous_BT = _previous_values(values_BT, supervised_mask_BT, document_ids_BT)
    last_BT = last_supervised_mask(supervised_mask_BT, document_ids_BT)
    next_BT = torch.where(last_BT, _reward_at_tokens(values_BT, reward_B, document_ids_BT), gamma * values_BT)
    return torch.where(supervised_mask_BT, next_BT - previous_BT, torch.zeros_like(values_BT))


def horizon_td_errors(
    values_BT: Tensor,
    reward_B: Tensor,
    supervised_mask_BT: Tensor,
    num_horizons: int,
    *,
    gamma: float = 1.0,
    document_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return the TD errors of the `horizon` reading, where the H-step window is the episode: [B, T, H].

    The pair (t, k) with k < H has the error of token t + k; the pair (t, H) has `R - values[t + H - 1]`. At a
    document's last supervised token both readings agree. 0 where the pair is not supervised.
    """
    errors_BT = td_errors(values_BT, reward_B, supervised_mask_BT, gamma=gamma, document_ids_BT=document_ids_BT)
    values_BT = _at_least_float32(values_BT)
    previous_BT = _previous_values(values_BT, supervised_mask_BT, document_ids_BT)
    terminal_BT = _reward_at_tokens(values_BT, reward_B, document_ids_BT) - previous_BT
    terminal_BT = torch.where(supervised_mask_BT, terminal_BT, torch.zeros_like(terminal_BT))
    errors_BTH, _ = at_horizons(errors_BT, num_horizons, document_ids_BT)
    terminal_BTH, _ = at_horizons(terminal_BT, num_horizons, document_ids_BT)
    return torch.cat([errors_BTH[..., :-1], terminal_BTH[..., -1:]], dim=-1)


def advantages(
    td_errors_BT: Tensor,
    supervised_mask_BT: Tensor,
    *,
    gamma: float,
    td_lambda: float,
    document_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return `A[j] = td_error[j] + gamma * lambda * A[j + 1]` of the supervised tokens, 0 elsewhere (GAE).

    lambda 0 returns the TD errors as they are. TD errors [0.1 -0.2 0.7] with gamma * lambda = 0.5 give
    [0.175 0.15 0.7].
    """
    if gamma * td_lambda == 0:
        return td_errors_BT
    sums_BT = suffix_sums(td_errors_BT, gamma * td_lambda, document_ids_BT)
    return torch.where(supervised_mask_BT, sums_BT, torch.zeros_like(sums_BT))


def last_supervised_mask(supervised_mask_BT: Tensor, document_ids_BT: Tensor | None = None) -> Tensor:
    """Mark the last supervised token of every document: its terminal token."""
    remaining_BT = suffix_sums(supervised_mask_BT.float(), 1.0, document_ids_BT)
    return supervised_mask_BT & (remaining_BT == 1)


def first_supervised_mask(supervised_mask_BT: Tensor, document_ids_BT: Tensor | None = None) -> Tensor:
    """Mark the first supervised token of every document: the one after the prompt."""
    mirrored_ids_BT = None if document_ids_BT is None else document_ids_BT.flip(1)
    return last_supervised_mask(supervised_mask_BT.flip(1), mirrored_ids_BT).flip(1)


def value_state_mask(supervised_mask_BT: Tensor, document_ids_BT: Tensor | None = None) -> Tensor:
    """Mark the states whose values enter a TD error: t such that token t + 1 is supervised in the same document.

    From the last prompt position to the last but one supervised token. supervised [F F | T T T] gives [F T | T T F].
    """
    next_supervised_BTH, _ = at_horizons(supervised_mask_BT, 1, document_ids_BT, fill=False)
    return next_supervised_BTH[..., 0]


def prompt_value(
    values_BT: Tensor,
    supervised_mask_BT: Tensor,
    *,
    document_ids_BT: Tensor | None = None,
    num_documents: int | None = None,
) -> Tensor:
    """Return V(prompt) of every document, the value at its last prompt position: [M]; NaN without a response."""
    values_BT = _at_least_float32(values_BT)
    first_BT = first_supervised_mask(supervised_mask_BT, document_ids_BT)
    previous_BT = _previous_values(values_BT, supervised_mask_BT, document_ids_BT)
    sums_M = sums_per_document(previous_BT, first_BT, document_ids_BT, num_documents=num_documents)
    found_M = sums_per_document(first_BT.to(values_BT), first_BT, document_ids_BT, num_documents=num_documents)
    return sums_M / found_M


def monte_carlo_targets(
    values_BT: Tensor, reward_B: Tensor, supervised_mask_BT: Tensor, *, document_ids_BT: Tensor | None = None
) -> Tensor:
    """Return the value target G = R at every state of `value_state_mask`, 0 elsewhere: [B, T], without gradient.

    R is not discounted, whatever gamma is; with gamma 1 this is `lambda_returns` at lambda 1. `values_BT` gives only
    shape and dtype, so that both kinds of target are called alike.
    """
    state_BT = value_state_mask(supervised_mask_BT, document_ids_BT)
    reward_BT = _reward_at_tokens(_at_least_float32(values_BT), reward_B, document_ids_BT)
    return torch.where(state_BT, reward_BT, torch.zeros_like(reward_BT)).detach()


def lambda_returns(
    values_BT: Tensor,
    reward_B: Tensor,
    supervised_mask_BT: Tensor,
    *,
    gamma: float,
    td_lambda: float,
    document_ids_BT: Tensor | None = None,
) -> Tensor:
    """Return `G[t] = values[t] + A[t + 1]` at every state of `value_state_mask`, 0 elsewhere: [B, T], no gradient."""
    errors_BT = td_errors(values_BT, reward_B, supervised_mask_BT, gamma=gamma, document_ids_BT=document_ids_BT)
    advantages_BT = advantages(
        errors_BT, supervised_mask_BT, gamma=gamma, td_lambda=td_lambda, document_ids_BT=document_ids_BT
    )
    next_advantage_BTH, _ = at_horizons(advantages_BT, 1, document_ids_BT)
    state_BT = value_state_mask(supervised_mask_BT, document_ids_BT)
    returns_BT = _at_least_float32(values_BT) + next_advantage_BTH[..., 0]
    return torch.where(state_BT, returns_BT, torch.zeros_like(returns_BT)).detach()


def _at_least_float32(values_BT: Tensor) -> Tensor:
    return values_BT.to(torch.promote_types(values_BT.dtype, torch.float32))


def _reward_at_tokens(values_BT: Tensor, reward_B: Tensor, document_ids_BT: Tensor | None) -> Tensor:
    return at_tokens(reward_B.to(values_BT), values_BT, document_ids_BT)


def _previous_values(values_BT: Tensor, supervised_mask_BT: Tensor, document_ids_BT: Tensor | None) -> Tensor:
    previous_BT, exists_BT = at_previous(values_BT, document_ids_BT)
    assert not (supervised_mask_BT & ~exists_BT).any(), "a supervised token must follow a token of its own document"
    return previous_BT
