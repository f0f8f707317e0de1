"""One process of bench/end_to_end.py: a bare PyTorch loop over batches that lie in memory; prints, as JSON, its clock.

    python bench/end_to_end_bare.py FOLDER THREADS LOSS

The model is ours, everything else is what one would write down at once: rows of a step behind one another, logits of
the supervised positions, torch's cross-entropy (LOSS plain) or our fused loss (LOSS fused), AdamW, clip.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.objective.fused import fused_mtp_loss


def main() -> None:
    """Train over all steps; note for each the seconds since the start and its supervised tokens."""
    folder, threads, loss_kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    model = load_transformer(folder / "model")
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95))
    rows = np.load(folder / "rows.npz")
    ends, seconds, supervised = np.cumsum(rows["lengths_N"]), [], []
    started = time.perf_counter()
    for first, last in zip(rows["step_starts_S"][:-1], rows["step_starts_S"][1:], strict=True):
        lengths, prompts = rows["lengths_N"][first:last], rows["prompts_N"][first:last]
        tokens_T = torch.from_numpy(rows["tokens_T"][ends[first] - lengths[0] : ends[last - 1]]).long()
        starts = np.cumsum(lengths) - lengths
        targets_S = torch.from_numpy(
            np.concatenate([s + np.arange(p, n) for s, p, n in zip(starts, prompts, lengths, strict=True)])
        )
        h_BTD = model.trunk(tokens_T[None], document_lengths=lengths.tolist())
        hidden_SD = model.head_hidden(h_BTD, 1, document_lengths=lengths.tolist())[0][targets_S - 1]
        if loss_kind == "fused":
            count = torch.tensor([float(len(targets_S))])
            ones = torch.ones(1, len(targets_S))
            loss, _ = fused_mtp_loss(hidden_SD[None], model.output.weight, tokens_T[targets_S][None], ones, count)
        else:
            loss = F.cross_entropy(model.output(hidden_SD), tokens_T[targets_S])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        supervised.append(len(targets_S))
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "supervised": supervised}))


if __name__ == "__main__":
    main()
