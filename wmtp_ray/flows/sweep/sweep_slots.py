"""How many trials run at once, so that none waits for what another holds. Asks the cluster; starts nothing."""

from collections.abc import Sequence

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.flows.cluster import require_resources
from wmtp_ray.flows.sweep.sweep_plan import SweepPlan
from wmtp_ray.preflight.needed_resources import DATA_CPUS as TASK_CPUS
from wmtp_ray.preflight.needed_resources import Resources, evaluation_resources, training_resources

TRIAL_CPUS = 0.1  # of Tune's actor
# Kept free for the tasks of Ray Data, which all trials share: without room for one (0.1, `actors/rank_stream.py`) they
# would wait for rows together, and none would give anything back.
DATA_CPUS = 0.2


def slots(plan: SweepPlan) -> int:
    """Return how many trials the cluster holds at once, each with all that it starts, and room left for Ray Data.

    Raises ConfigError where not even one fits.
    """
    import ray

    largest = largest_trial(plan)
    require_resources(largest)
    cpus, gpus = largest.cpus - DATA_CPUS, largest.gpus
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in alive]
    held = slots_of([(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources], cpus=cpus, gpus=gpus)
    return min(held, plan.spec.max_concurrent or held, plan.num_trials)


def largest_trial(plan: SweepPlan) -> Resources:
    """Return what the largest trial holds, alone on the cluster, with what all trials share."""
    needed = [trial_resources(each.config) for each in plan.examples]
    cpus, gpus = max(cpus for cpus, _ in needed), max(gpus for _, gpus in needed)
    return Resources("A trial", cpus + DATA_CPUS, gpus, training_resources(plan.base).knobs)


def trial_resources(config: RunConfig) -> tuple[float, float]:
    """Return CPUs and GPUs that a trial may hold at a time: Tune's actor, and what stage 2 or stage 3 starts."""
    training = training_resources(config)
    cpus, gpus = [training.cpus - TASK_CPUS], [training.gpus]
    if 3 in config.stages:
        evaluation = evaluation_resources(config, with_decoders=True)
        cpus.append(evaluation.cpus)
        gpus.append(evaluation.gpus)
    return TRIAL_CPUS + max(cpus), max(gpus)


def slots_of(nodes: Sequence[tuple[float, float]], *, cpus: float, gpus: float) -> int:
    """Return how many trials of so many CPUs and GPUs fit on whole nodes, DATA_CPUS of the largest kept free.

    At least one: a trial larger than a node is spread over several, alone. CPUs and GPUs of each node:
    slots_of([(4, 0)], cpus=1.1, gpus=0) = 3; slots_of([(3, 1), (3, 1)], cpus=1.1, gpus=0.5) = 4
    """
    tolerance = 1e-9
    left = sorted(nodes, reverse=True)
    left[0] = (left[0][0] - DATA_CPUS, left[0][1])
    by_node = [min(cpu / cpus, gpu / gpus if gpus else cpu / cpus) for cpu, gpu in left]
    return max(sum(int(max(each, 0.0) + tolerance) for each in by_node), 1)
