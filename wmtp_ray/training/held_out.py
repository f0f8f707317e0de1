"""How likely a model finds correct and incorrect programs of problems it has not seen: next-token loss, no sampling."""

from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import TokenBatch
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.training.critic_health import batches_of_file


@dataclass(frozen=True)
class HeldOutLosses:
    """Mean next-token cross-entropy (nats) over the supervised tokens of correct and of incorrect rows."""

    correct: float
    incorrect: float


def measure_held_out(model_directory: Path, config: RunConfig, file: Path) -> HeldOutLosses:
    """Measure a model on the first `critic.health_rows` rows of an indexed JSONL, on the CPU."""
    model = load_transformer(model_directory).eval()
    sums = {True: [0.0, 0], False: [0.0, 0]}
    with torch.no_grad():
        for batch in batches_of_file(file, config, max_rows=config.critic.health_rows):
            losses_BT = reference_losses(model, BatchTensors.from_batch(batch, torch.device("cpu")))
            _add(sums, batch, losses_BT)
    return HeldOutLosses(*(total / max(count, 1) for total, count in (sums[True], sums[False])))


def _add(sums: dict[bool, list[float]], batch: TokenBatch, losses_BT: torch.Tensor) -> None:
    is_correct_T = torch.as_tensor(batch.rewards_M > 0.5)[torch.as_tensor(batch.document_ids_BT[0]).long()]
    supervised_T = torch.as_tensor(batch.supervised_mask_BT[0])
    for correct in (True, False):
        chosen_T = supervised_T & (is_correct_T == correct)
        sums[correct][0] += float(losses_BT[0][chosen_T].sum())
        sums[correct][1] += int(chosen_T.sum())
