"""How likely a model finds correct and incorrect programs of problems it has not seen: next-token loss, no sampling."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import TokenBatch
from wmtp_ray.data.prompt_label import told_when_asked
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.training.measure_critic import batches_of_file, batches_of_rows, held_out_rows
from wmtp_ray.training.parallel import choose_device


@dataclass(frozen=True)
class HeldOutLosses:
    """Mean next-token cross-entropy (nats) over the supervised tokens of correct and of incorrect rows."""

    correct: float
    incorrect: float

    def metrics(self) -> dict[str, float]:
        """Return them as `held_out/...`; the margin is how much likelier correct programs are."""
        return {
            "held_out/loss_correct": self.correct,
            "held_out/loss_incorrect": self.incorrect,
            "held_out/margin": self.incorrect - self.correct,
        }


def measure_held_out(model_directory: Path, config: RunConfig, file: Path) -> HeldOutLosses:
    """Measure a model on the first `critic.health_rows` rows of an indexed JSONL, on the CPU."""
    told = told_when_asked(config.data.condition)
    batches = batches_of_file(file, config, max_rows=config.critic.health_rows, told=told)
    return _measure(model_directory, batches, torch.device("cpu"))


def measure_held_out_problems(model_directory: Path, config: RunConfig) -> HeldOutLosses | None:
    """Measure a model on `critic.health_rows` rows of the problems that the run held out, on the run's device.

    They depend on data and seed alone, so runs that differ in anything else are measured on the same rows. None where
    it held out none.
    """
    device = choose_device(config.train.device, local_rank=0)
    index, rows_N = held_out_rows(config)
    if not len(rows_N):
        return None
    batches = batches_of_rows(index, rows_N, config, told_when_asked(config.data.condition))
    return _measure(model_directory, batches, device)


def _measure(model_directory: Path, batches: Iterable[TokenBatch], device: torch.device) -> HeldOutLosses:
    model = load_transformer(model_directory).eval().to(device)
    sums = {True: [0.0, 0], False: [0.0, 0]}
    with torch.no_grad():
        for batch in batches:
            losses_BT = reference_losses(model, BatchTensors.from_batch(batch, device)).cpu()
            _add(sums, batch, losses_BT)
    return HeldOutLosses(*(total / max(count, 1) for total, count in (sums[True], sums[False])))


def _add(sums: dict[bool, list[float]], batch: TokenBatch, losses_BT: torch.Tensor) -> None:
    is_correct_T = torch.as_tensor(batch.rewards_M > 0.5)[torch.as_tensor(batch.document_ids_BT[0]).long()]
    supervised_T = torch.as_tensor(batch.supervised_mask_BT[0])
    for correct in (True, False):
        chosen_T = supervised_T & (is_correct_T == correct)
        sums[correct][0] += float(losses_BT[0][chosen_T].sum())
        sums[correct][1] += int(chosen_T.sum())
