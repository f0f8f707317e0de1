"""The work of one rank that the tests of the estimate vary: one micro-batch on a CPU, all weights trained."""

from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.training.estimate.memory import RankWork

CPU_WORK = RankWork(
    micro_batch_tokens=1011,
    num_micro_batches=1,
    activation_checkpointing=False,
    dtype="float32",
    device="cpu",
    parallel="ddp",
    reduce_gradients="step",
    num_ranks=1,
    lora=None,
    max_logits_mb=64,
    value=ValueSpec("linear", 1.0, "none"),
)
