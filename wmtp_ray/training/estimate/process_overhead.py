"""What the processes of a run hold beside tensors: Python with what it imports, Ray's own processes, file pages.

Measured with `python -m bench.process_memory` and, for a rank, by the peaks that four runs of the quickstart wrote into
result.json (both in bench/results/memory.md: Linux, Python 3.11, torch 2.13, Ray 2.60). It does not grow with the
model. A rank is what VmHWM says, pages shared with other processes whole; all others are proportional (PSS), so that a
shared page counts once in the sum over a machine.
"""

from collections.abc import Iterable

MIB = 2**20

# A process before it has a tensor.
RANK_MIB = 550  # torch, Ray, Ray Train, the index and the stream; at the end scikit-learn, which judges the critic
SHARED_MIB = 150  # of a rank: pages of libraries that other processes hold too
SCORER_MIB = 265
EVALUATOR_MIB = 300  # with its judge's processes
ADAPTERS_MIB = 105  # peft and what it imports, where a model has adapters

# Once for a run on this machine: a Ray of its own, Ray Train's and Ray Data's actors, a reader.
RUN_MIB = {
    "driver": 370,
    "metrics actor": 70,
    "Ray: GCS, raylet, agents, monitor, log": 400,
    "Ray Train: controller, placement, synchronisation": 255 + 118 + 112,
    "Ray Data: dataset manager, autoscaling, statistics": 116 + 115 + 112,
    "readers": 150,
}
# More of the metrics actor, by tracker; Weights & Biases has a process beside it.
SINK_MIB = {"mlflow": 120, "tensorboard": 10, "wandb": 65, "trackio": 35}


def machine_bytes(*, sinks: Iterable[str]) -> int:
    """Return what a run that logs to `sinks` holds on its machine beside ranks and scoring actors."""
    return (sum(RUN_MIB.values()) + sum(SINK_MIB[sink] for sink in sinks)) * MIB
