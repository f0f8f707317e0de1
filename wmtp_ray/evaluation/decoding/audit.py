"""A check of decoded tokens against one pass over the finished text, for dtypes in which ties of rounding decide.

In bfloat16 a token may differ between two exact ways of decoding, because their matrix products round differently. The
audit tells such a token from a wrong one. It is for greedy decoding.

Shape suffixes: T generated positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vendor.meta_llama.model import Transformer

# Rounding steps of the largest logit in the weights' dtype (bfloat16: 4 steps at 8 are 0.25).
_ROUNDING_STEPS = 4


@dataclass(frozen=True)
class AuditReport:
    """How many of `num_tokens` tokens are the argmax, miss it by no more than rounding, or miss it by more."""

    num_tokens: int
    num_argmax: int
    num_within_epsilon: int
    num_divergent: int


@torch.no_grad()
def audit(model: Transformer, prompt_ids: Sequence[int], ids: Sequence[int]) -> AuditReport:
    """Feed prompt and continuation at once, without a cache, and compare each token with its position's argmax.

    A token is within epsilon when its logit misses the largest by at most 4 rounding steps of the weights' dtype at
    the largest absolute logit. Put EOS at the end of `ids` to have it audited as well.
    """
    assert prompt_ids
    weight = model.tok_embeddings.weight
    tokens_T = torch.tensor([*prompt_ids, *ids], device=weight.device)
    hidden_TD = model.head_hidden(model.trunk(tokens_T[None, :-1]), 1)[0, len(prompt_ids) - 1 :]
    logits_TV = model.output(hidden_TD).double() if weight.device.type != "mps" else model.output(hidden_TD).float()
    chosen_T = tokens_T[len(prompt_ids) :]
    is_argmax_T = logits_TV.argmax(dim=-1) == chosen_T
    missing_T = logits_TV.amax(dim=-1) - logits_TV.gather(-1, chosen_T[:, None])[:, 0]
    epsilon_T = _ROUNDING_STEPS * torch.finfo(weight.dtype).eps * logits_TV.abs().amax(dim=-1)
    is_within_T = ~is_argmax_T & (missing_T <= epsilon_T)
    num_argmax, num_within = int(is_argmax_T.sum()), int(is_within_T.sum())
    return AuditReport(len(ids), num_argmax, num_within, len(ids) - num_argmax - num_within)
