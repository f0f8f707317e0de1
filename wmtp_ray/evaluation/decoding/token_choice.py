"""From logits to tokens: the likeliest one, or a draw from the nucleus with one uniform number per position.

Nothing here has state: the number of position t is a function of the request's seed and t, so a draw depends on no
other request, on no batch and on no worker. A draft of position t is drawn with the number of position t as well: it
is the draw itself wherever head and model agree.

Shape suffixes: R rows (of any batch), K tokens of highest probability, V vocabulary.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Choose = Callable[[Tensor, Tensor], Tensor]  # logits [R, V], uniforms [R] float64 -> tokens [R]

_HEAD_TOKENS = 64  # most draws fall into these; sorting a vocabulary costs more than a small model's forward


def request_seed(seed: int, problem: str, sample: int) -> int:
    """Return a 63-bit seed for one sample of one problem, the same in every process and version."""
    digest = hashlib.sha256(f"{seed}\x1f{problem}\x1f{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def uniforms(seed: int, num: int) -> npt.NDArray[np.float64]:
    """Return the numbers in [0, 1) of positions 0..num-1; a larger `num` only adds to them."""
    bits = np.asarray(np.random.Philox(key=seed).random_raw(num), dtype=np.uint64)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def chooser(temperature: float, top_p: float) -> Choose:
    """Return the rule for these settings; temperature 0 is greedy, whatever `top_p`."""
    return greedy if temperature == 0 else Nucleus(temperature, top_p)


def greedy(logits_RV: Tensor, uniforms_R: Tensor) -> Tensor:
    """Take the most likely token; a tie goes to the lowest index."""
    return logits_RV.argmax(dim=-1)


@dataclass(frozen=True)
class Nucleus:
    """Draw from softmax(logits / temperature), cut to the nucleus: the smallest set that holds `top_p` of it.

    Tokens rank by probability, equals by index. The token that crosses `top_p` belongs to the nucleus. With p = 0.4,
    0.3, 0.2, 0.1 and top_p 0.6 it is the first two; a number below 4/7 draws the first. In float64.
    """

    temperature: float
    top_p: float

    def __call__(self, logits_RV: Tensor, uniforms_R: Tensor) -> Tensor:
        if logits_RV.device.type == "mps":  # it has no float64
            logits_RV = logits_RV.cpu()
        probabilities_RV = (logits_RV.double() / self.temperature).softmax(dim=-1)
        uniforms_R = uniforms_R.to(probabilities_RV.device)
        num_tokens = probabilities_RV.shape[-1]
        tokens_R, certain_R = self._draw(probabilities_RV, uniforms_R, min(_HEAD_TOKENS, num_tokens))
        if not certain_R.all():
            unsure_R = ~certain_R
            tokens_R[unsure_R] = self._draw(probabilities_RV[unsure_R], uniforms_R[unsure_R], num_tokens)[0]
        return tokens_R

    def _draw(self, probabilities_RV: Tensor, uniforms_R: Tensor, num_ranked: int) -> tuple[Tensor, Tensor]:
        """Draw among the `num_ranked` most likely tokens; return also which rows no other token could have changed."""
        ranked_RK, order_RK, num_safe_R = _ranked(probabilities_RV, num_ranked)
        cumulative_RK = ranked_RK.cumsum(dim=-1)
        nucleus_R = (cumulative_RK < self.top_p).sum(dim=-1).clamp(max=num_ranked - 1)  # rank of its last token
        whole = self.top_p == 1
        mass_R = torch.ones_like(uniforms_R) if whole else cumulative_RK.gather(-1, nucleus_R[:, None])[:, 0]
        rank_R = (cumulative_RK <= (uniforms_R * mass_R)[:, None]).sum(dim=-1)
        decisive_R = rank_R if whole else nucleus_R
        rank_R = rank_R.clamp(max=num_ranked - 1) if whole else rank_R.minimum(nucleus_R)
        return order_RK.gather(-1, rank_R[:, None])[:, 0], decisive_R < num_safe_R


def _ranked(probabilities_RV: Tensor, num_ranked: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the highest probabilities, their tokens, and how many ranks are certain.

    `topk` takes any of those that are equal at the cut, so only ranks above that value are; of all V every one is.
    """
    tokens_RK = probabilities_RV.topk(num_ranked, dim=-1).indices.sort(dim=-1).values
    ranked_RK, by_rank_RK = probabilities_RV.gather(-1, tokens_RK).sort(dim=-1, descending=True, stable=True)
    if num_ranked == probabilities_RV.shape[-1]:
        num_safe_R = torch.full_like(ranked_RK[:, 0], num_ranked)
    else:
        num_safe_R = (ranked_RK > ranked_RK[:, -1:]).sum(dim=-1)
    return ranked_RK, tokens_RK.gather(-1, by_rank_RK), num_safe_R
