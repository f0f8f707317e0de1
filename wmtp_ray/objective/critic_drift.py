"""How far a value path has moved: distances between what it says of fixed states now and what it said at the start.

Of every state V_0 is the value at the start and V the value now; p = clip(V_0, 0.01, 0.99), q = clip(V, 0.01, 0.99):

    drift_kl           mean of p log(p / q) + (1 - p) log((1 - p) / (1 - q)), nats: V as the chance of a correct program
    drift_value        mean of |V - V_0|
    drift_correlation  Pearson's, of V_0 and V; absent where either is constant
    drift_cosine       mean of 1 - cos(h_0, h) over the hidden states that the values are read from: 0 where none turned

The first three see what a head or a trunk changed about V; the fourth sees a trunk that moved below a V that did not.
Shapes: S states with a value, N of them with a hidden state kept, D model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CLIP = 0.01


@dataclass(frozen=True)
class ValueReading:
    """What a value path says of fixed states: values [S], and the hidden states [N, D] below some of them."""

    values_S: Tensor
    hidden_ND: Tensor


def drift(start: ValueReading, now: ValueReading) -> dict[str, float]:
    """Return the distances of two readings of the same states by name."""
    start_S, now_S = start.values_S.double(), now.values_S.double()
    distances = {
        "drift_kl": float(_bernoulli_kl(start_S, now_S).mean()),
        "drift_value": float((now_S - start_S).abs().mean()),
        "drift_cosine": float(
            (1.0 - F.cosine_similarity(start.hidden_ND.double(), now.hidden_ND.double(), dim=-1)).mean()
        ),
    }
    if min(float(start_S.std()), float(now_S.std())) > 0.0:
        distances["drift_correlation"] = float(torch.corrcoef(torch.stack([start_S, now_S]))[0, 1])
    return distances


def _bernoulli_kl(start_S: Tensor, now_S: Tensor) -> Tensor:
    p_S, q_S = (values_S.clamp(CLIP, 1.0 - CLIP) for values_S in (start_S, now_S))
    return p_S * (p_S / q_S).log() + (1.0 - p_S) * ((1.0 - p_S) / (1.0 - q_S)).log()
