"""How many trials run at once, so that none waits for resources of another. Asks the cluster; starts nothing."""

from wmtp_ray.flows.cluster import require_resources
from wmtp_ray.flows.sweep.sweep_plan import SweepPlan
from wmtp_ray.preflight.needed_resources import Resources, largest_trial, trials_at_once


def slots(plan: SweepPlan) -> int:
    """Return how many trials the cluster holds at once, each with all that it starts, and room left for Ray Data.

    Raises ConfigError where not even one fits.
    """
    import ray

    largest = largest_of(plan)
    require_resources(largest)
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    resources = [node["Resources"] for node in alive]
    held = trials_at_once([(each.get("CPU", 0.0), each.get("GPU", 0.0)) for each in resources], largest)
    return min(held, plan.spec.max_concurrent or held, plan.num_trials)


def largest_of(plan: SweepPlan) -> Resources:
    """Return what the largest trial of the sweep holds."""
    return largest_trial([each.config for each in plan.examples])
