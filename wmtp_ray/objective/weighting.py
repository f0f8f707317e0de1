"""From advantages to token weights, the control arms, whitening, and the statistics every run reports of its weights.

Formulas: objective.md, "Token weights". Every weight is detached: no gradient ever reaches the value head through
one. Shape legend: B rows, T positions, H horizons, M documents. Functions without a document argument are elementwise
and take pair tensors [B, T, H] as well as [B, T]. Choosing the arm is the scorer's business, not this module's.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wmtp_ray.objective.documents import at_tokens, document_ids_or_rows
from wmtp_ray.objective.td import prompt_value

# Words of a random key that keep the control arms' streams apart where they share a document's seed.
_SHUFFLE_STREAM = 1
_DRAW_STREAM = 2

# Around 1, the weight that changes nothing, on a scale of ratios.
DISTRIBUTION_EDGES = (0.25, 0.5, 0.8, 0.95, 1.05, 1.25, 2.0, 4.0)


def td_token_weights(
    td_errors_BT: Tensor,
    supervised_mask_BT: Tensor,
    *,
    beta: float = 0.9,
    clip_min: float = 0.1,
    clip_max: float = 5.0,
) -> Tensor:
    """Return `clip(exp(advantage / beta), clip_min, clip_max)`, 0 where unsupervised, detached.

    Takes any advantage (TD errors, GAE, whitened or not). With beta 0.9 an advantage of 0.02 weighs 1.02, of 0.5 1.74.
    """
    assert beta > 0, "beta must be positive"
    weights_BT = torch.exp(td_errors_BT.detach() / beta).clamp(clip_min, clip_max)
    return torch.where(supervised_mask_BT, weights_BT, torch.zeros_like(weights_BT))


def kept_weights(td_errors_BT: Tensor, supervised_mask_BT: Tensor, *, drop_below: float) -> Tensor:
    """Return 0 where the TD error is below `-drop_below`, else 1, and 0 where unsupervised; detached.

    An error that is no number stays one, so that a broken critic stops the run instead of choosing tokens.
    """
    errors_BT = td_errors_BT.detach()
    kept_BT = torch.where(errors_BT.isnan(), errors_BT, (errors_BT >= -drop_below).to(errors_BT))
    return torch.where(supervised_mask_BT, kept_BT, torch.zeros_like(kept_BT))


def difference_weights(marks: Tensor, supervised_mask: Tensor, *, diff_weight: float) -> Tensor:
    """Return `diff_weight` where the mark is above 0, else 1, and 0 where unsupervised."""
    weights = torch.where(marks > 0, diff_weight, torch.ones_like(marks))
    return torch.where(supervised_mask, weights, torch.zeros_like(weights))


def unmarked_weights(marks: Tensor, supervised_mask: Tensor) -> Tensor:
    """Return 0 where the mark is below 0 and where unsupervised, else 1."""
    return (supervised_mask & (marks >= 0)).to(marks)


def pushed_down(weights: Tensor, is_pushed: Tensor, losses: Tensor) -> Tensor:
    """Return `-weight * p` where `is_pushed`, p = exp(-loss) the target's own probability, else the weight; detached.

    That is the weight of a cross-entropy with the gradient of `weight * p`, since d p = -p d CE. A loss of 0.69
    (p = 1/2) turns 0.8 into -0.4.
    """
    weights = weights.detach()
    return torch.where(is_pushed, -weights * torch.exp(-losses.detach()), weights)


def without_terminal(weights_BT: Tensor, last_supervised_mask_BT: Tensor) -> Tensor:
    """Set the terminal tokens' weight to 1 (`weigh_terminal: false`): the reward itself then weighs nothing."""
    return torch.where(last_supervised_mask_BT, torch.ones_like(weights_BT), weights_BT)


def sequence_reward_advantages(
    values_BT: Tensor, reward_B: Tensor, supervised_mask_BT: Tensor, *, document_ids_BT: Tensor | None = None
) -> Tensor:
    """Give every supervised token its document's R - V(prompt), 0 elsewhere: [B, T], detached.

    `reward_B` is indexed by document id, as in `td.td_errors`.
    """
    prompt_value_M = prompt_value(
        values_BT.detach(), supervised_mask_BT, document_ids_BT=document_ids_BT, num_documents=len(reward_B)
    )
    advantage_BT = at_tokens(reward_B.to(prompt_value_M) - prompt_value_M, values_BT, document_ids_BT)
    return torch.where(supervised_mask_BT, advantage_BT, torch.zeros_like(advantage_BT))


def shuffled_within_documents(
    weights_BT: Tensor, supervised_mask_BT: Tensor, document_ids_BT: Tensor | None, seeds_M: Tensor
) -> Tensor:
    """Permute the supervised weights of every document among themselves.

    The permutation of a document depends only on its int64 seed and its number of supervised tokens, so packing,
    ranks and micro-batches do not change it. Works on the CPU and moves the result back; detached.
    """
    shuffled_F = weights_BT.detach().cpu().reshape(-1).clone()
    for seed, tokens_S in _documents(supervised_mask_BT, document_ids_BT, seeds_M):
        order_S = torch.from_numpy(_generator(seed, _SHUFFLE_STREAM).permutation(len(tokens_S)))
        shuffled_F[tokens_S] = shuffled_F[tokens_S[order_S]]
    return shuffled_F.reshape(weights_BT.shape).to(weights_BT.device)


def matched_random(
    mean: float, std: float, supervised_mask_BT: Tensor, document_ids_BT: Tensor | None, seeds_M: Tensor
) -> Tensor:
    """Draw positive weights from the Gamma distribution with exactly this mean and std, 0 where unsupervised.

    float32, keyed by document as in `shuffled_within_documents`. std 0 gives the mean everywhere.
    """
    assert mean > 0, "weights are positive, and so is their mean"
    drawn_F = torch.zeros(supervised_mask_BT.numel())
    for seed, tokens_S in _documents(supervised_mask_BT, document_ids_BT, seeds_M):
        drawn_F[tokens_S] = torch.from_numpy(_draw(seed, mean, std, len(tokens_S)))
    return drawn_F.reshape(supervised_mask_BT.shape).to(supervised_mask_BT.device)


def _draw(seed: int, mean: float, std: float, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    if std == 0:
        return np.full(count, mean, dtype=np.float32)
    drawn = _generator(seed, _DRAW_STREAM).gamma(shape=(mean / std) ** 2, scale=std**2 / mean, size=count)
    # A weight of exactly 0 means "not trained"; a draw that rounds to it must not drop its token.
    return np.maximum(drawn, np.finfo(np.float32).tiny).astype(np.float32)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.int64).view(np.uint64)))


def _documents(
    supervised_mask_BT: Tensor, document_ids_BT: Tensor | None, seeds_M: Tensor
) -> Iterator[tuple[int, Tensor]]:
    ids_F = document_ids_or_rows(supervised_mask_BT, document_ids_BT).cpu().reshape(-1)
    supervised_F = supervised_mask_BT.cpu().reshape(-1)
    for document, seed in enumerate(seeds_M.tolist()):
        yield seed, torch.nonzero(supervised_F & (ids_F == document)).squeeze(1)


@dataclass(frozen=True)
class Moments:
    """Count, sum and sum of squares: they add over micro-batches and ranks, and give mean and std."""

    count: float
    sum: float
    sum_of_squares: float

    @classmethod
    def from_masked(cls, x: Tensor, mask: Tensor) -> "Moments":
        """Take the moments of the masked elements (any equal shapes)."""
        chosen_P = x.detach()[mask].cpu().double()
        return cls(float(chosen_P.numel()), float(chosen_P.sum()), float((chosen_P * chosen_P).sum()))

    @classmethod
    def from_tensor(cls, moments_3: Tensor) -> "Moments":
        """Read what `to_tensor` wrote, usually after an all-reduce (sum)."""
        count, total, total_of_squares = moments_3.tolist()
        return cls(count, total, total_of_squares)

    def to_tensor(self) -> Tensor:
        """Write [count, sum, sum of squares] as float64 on the CPU."""
        return torch.tensor([self.count, self.sum, self.sum_of_squares], dtype=torch.float64)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sum + other.sum, self.sum_of_squares + other.sum_of_squares)

    @property
    def mean(self) -> float:
        """Mean; at least one element is required."""
        return self.sum / self.count

    @property
    def std(self) -> float:
        """Population standard deviation (divided by the count)."""
        return math.sqrt(max(0.0, self.sum_of_squares / self.count - self.mean**2))


def whiten(x: Tensor, mask: Tensor, moments: Moments, eps: float) -> Tensor:
    """Return `(x - mean) / (std + eps)` where masked, 0 elsewhere."""
    return torch.where(mask, (x - moments.mean) / (moments.std + eps), torch.zeros_like(x))


class EmaMoments:
    """Running moments over steps (`advantage_norm: ema`): exponential averages of mean and mean square.

    Bias-corrected as in Adam, so the first step uses its own statistics and not a start value. Every step counts
    once, however many tokens it had. All ranks feed the same global moments and so hold the same state.
    """

    def __init__(self, decay: float) -> None:
        assert 0 <= decay < 1, "decay lies in [0, 1)"
        self._decay = decay
        self._num_updates = 0
        self._mean = 0.0
        self._mean_square = 0.0

    def update(self, moments: Moments) -> Moments:
        """Take in one step's global moments and return the running ones (count 1)."""
        self._num_updates += 1
        self._mean += (1 - self._decay) * (moments.mean - self._mean)
        self._mean_square += (1 - self._decay) * (moments.sum_of_squares / moments.count - self._mean_square)
        correction = 1 - self._decay**self._num_updates
        return Moments(1.0, self._mean / correction, self._mean_square / correction)

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint must hold."""
        return {"num_updates": self._num_updates, "mean": self._mean, "mean_square": self._mean_square}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint's state."""
        self._num_updates = int(state["num_updates"])
        self._mean = state["mean"]
        self._mean_square = state["mean_square"]


def weight_sums(
    weights: Tensor, supervised_mask: Tensor, terminal_mask: Tensor, *, clip_min: float, clip_max: float
) -> Tensor:
    """Return the float64 sums of which `weight_statistics` is made; they add over micro-batches and ranks.

    Two blocks, all supervised tokens and the terminal ones among them, of seven sums each: count, w, w^2, |w - 1|,
    then at clip_min, at clip_max and of weight 0; behind them the tokens below each of `DISTRIBUTION_EDGES`. Equal
    shapes, [B, T] or [B, T, H].
    """
    blocks = [supervised_mask, supervised_mask & terminal_mask]
    sums = [_block_sums(weights.detach()[mask], clip_min, clip_max) for mask in blocks]
    return torch.cat([*sums, _counts_below_edges(weights.detach()[supervised_mask])])


def weight_statistics(sums: Tensor) -> dict[str, float]:
    """Turn the summed `weight_sums` of a global batch into metrics; what has no tokens is absent.

    `weight/ess_frac` = (sum w)^2 / (n sum w^2), 1 for uniform weights; `weight/terminal_share` = the part of
    sum |w - 1| that terminal tokens carry; `weight/dropped_frac` = the share of tokens of weight 0, which are not
    trained; `weight/below_<x>_frac` = the share of tokens whose weight is below x.
    """
    sums = sums.double().cpu()
    all_7, terminal_7 = sums[:14].reshape(2, 7)
    blocks = {"weight/": all_7, "weight/terminal_": terminal_7, "weight/other_": all_7 - terminal_7}
    metrics = {name: value for prefix, sums_7 in blocks.items() for name, value in _mean_std(prefix, sums_7).items()}
    count, total, total_of_squares, distance, at_clip_min, at_clip_max, dropped = all_7.tolist()
    if count:
        metrics |= {"weight/clip_min_frac": at_clip_min / count, "weight/clip_max_frac": at_clip_max / count}
        metrics["weight/dropped_frac"] = dropped / count
        below = zip(DISTRIBUTION_EDGES, sums[14:].tolist(), strict=True)
        metrics |= {f"weight/below_{edge:g}_frac": tokens / count for edge, tokens in below}
    if total_of_squares:
        metrics["weight/ess_frac"] = total**2 / (count * total_of_squares)
    if distance:
        metrics["weight/terminal_share"] = float(terminal_7[3]) / distance
    return metrics


def _block_sums(weights_P: Tensor, clip_min: float, clip_max: float) -> Tensor:
    # The bounds are compared in the weights' own dtype, in which clamp wrote them: float32(0.1) is above 0.1.
    counts = [(weights_P <= clip_min).sum(), (weights_P >= clip_max).sum(), (weights_P == 0).sum()]
    weights_P = weights_P.cpu().double()
    sums = [weights_P.new_tensor(float(weights_P.numel())), weights_P.sum(), (weights_P**2).sum()]
    return torch.stack([*sums, (weights_P - 1).abs().sum(), *(each.cpu().double() for each in counts)])


def _counts_below_edges(weights_P: Tensor) -> Tensor:
    edges = torch.tensor(DISTRIBUTION_EDGES, dtype=weights_P.dtype, device=weights_P.device)
    bins_P = torch.bucketize(weights_P, edges, right=True)
    return torch.bincount(bins_P, minlength=len(DISTRIBUTION_EDGES) + 1).cumsum(0)[:-1].cpu().double()


def _mean_std(prefix: str, sums_7: Tensor) -> dict[str, float]:
    moments = Moments.from_tensor(sums_7[:3])
    return {f"{prefix}mean": moments.mean, f"{prefix}std": moments.std} if moments.count else {}
