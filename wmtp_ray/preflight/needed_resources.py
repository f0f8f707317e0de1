"""CPUs and GPUs that runs hold at a time, stage by stage: the one calculation that all callers use.

Asked by launch, doctor, the joined cluster, the evaluation and the sweep; asks no cluster itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from wmtp_ray.config.schema import RunConfig

DATA_TASK_CPUS = 0.1  # of a task of Ray Data: a run without room for one gets no row
TRIAL_CPUS = 0.1  # of Tune's actor
# Kept free for the tasks of Ray Data, which all trials share: without room for one they would wait for rows together,
# and none would give anything back.
SHARED_DATA_CPUS = 0.2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Resources:
    """What one stage holds at a time, and the keys that lower it (NAME stands for cpus or gpus)."""

    subject: str
    cpus: float
    gpus: float
    knobs: str

    def refusal(self, name: str, needed: float, where: str, found: float) -> str:
        """Return the message that `where` has too little of `CPU` or `GPU`."""
        knobs = self.knobs.replace("NAME", f"{name.lower()}s")
        hint = " (on this machine alone: raise cluster.num_cpus)" if name == "CPU" else ""
        return f"{self.subject} asks for {needed:g} {name}s, {where} has {found:g}. Lower {knobs}{hint}"


def training_resources(config: RunConfig) -> Resources:
    """Return what ranks, scorers and the evaluator of stages 1 and 2 hold together, with a task of Ray Data."""
    cpus, gpus = _training_actors(config)
    return Resources(
        "The run",
        cpus + DATA_TASK_CPUS,
        gpus,
        "cluster.NAME_per_worker, cluster.NAME_per_critic, critic.pool_size, train.num_workers",
    )


def evaluation_resources(config: RunConfig, *, with_decoders: bool) -> Resources:
    """Return what decoders and judges hold together; the client of a server counts as a decoder without a GPU."""
    cluster, settings = config.cluster, config.evaluation
    asks_server = settings.engine == "openai"
    decoders = (1 if asks_server else settings.num_decoders) if with_decoders else 0
    return Resources(
        "The evaluation",
        decoders * cluster.cpus_per_decoder + settings.num_judges * cluster.cpus_per_judge,
        0.0 if asks_server else decoders * cluster.gpus_per_decoder,
        "evaluation.num_decoders, evaluation.num_judges, or their shares in cluster",
    )


def needed_resources(config: RunConfig) -> list[Resources]:
    """Return what each part of a run needs; the parts follow one another."""
    needed = [training_resources(config)] if set(config.stages) & {1, 2} else []
    evaluates = 3 in config.stages and _has_problems(config)
    return [*needed, evaluation_resources(config, with_decoders=True)] if evaluates else needed


def trial_resources(config: RunConfig) -> tuple[float, float]:
    """Return CPUs and GPUs that a trial may hold at a time: Tune's actor, and what stage 2 or stage 3 starts."""
    needed = [_training_actors(config)]
    if 3 in config.stages:
        evaluation = evaluation_resources(config, with_decoders=True)
        needed.append((evaluation.cpus, evaluation.gpus))
    return TRIAL_CPUS + max(cpus for cpus, _ in needed), max(gpus for _, gpus in needed)


def largest_trial(configs: Sequence[RunConfig]) -> Resources:
    """Return what the largest of these trials holds, alone on the cluster, with what all trials share."""
    needed = [trial_resources(config) for config in configs]
    cpus, gpus = max(cpus for cpus, _ in needed), max(gpus for _, gpus in needed)
    return Resources("A trial", cpus + SHARED_DATA_CPUS, gpus, training_resources(configs[0]).knobs)


def trials_at_once(nodes: Sequence[tuple[float, float]], largest: Resources) -> int:
    """Return how many trials like the largest fit on whole nodes of so many CPUs and GPUs, what they share kept free.

    At least one: a trial larger than a node is spread over several, alone. A trial of 1.1 CPUs on a node of 4: 3; one
    of 1.1 CPUs and half a GPU on two nodes of 3 CPUs and 1 GPU: 4.
    """
    cpus, gpus = largest.cpus - SHARED_DATA_CPUS, largest.gpus
    left = sorted(nodes, reverse=True)
    left[0] = (left[0][0] - SHARED_DATA_CPUS, left[0][1])
    by_node = [min(cpu / cpus, gpu / gpus if gpus else cpu / cpus) for cpu, gpu in left]
    return max(sum(int(max(each, 0.0) + _ROUNDING) for each in by_node), 1)


def _training_actors(config: RunConfig) -> tuple[float, float]:
    cluster, ranks = config.cluster, config.train.num_workers
    scorers = config.critic.pool_size if config.uses_critic or config.needs_reference else 0
    evaluators = int(config.evaluates_meanwhile)
    return (
        ranks * cluster.cpus_per_worker + scorers * cluster.cpus_per_critic + evaluators * cluster.cpus_per_evaluator,
        ranks * cluster.gpus_per_worker + scorers * cluster.gpus_per_critic + evaluators * cluster.gpus_per_evaluator,
    )


def _has_problems(config: RunConfig) -> bool:
    settings = config.evaluation
    return settings.datasets is not None or any(path.is_file() for path in settings.files.values())
