"""CPUs and GPUs that a run holds at a time, stage by stage: one place for launch, doctor and the joined cluster."""

from dataclasses import dataclass

from wmtp_ray.config.schema import RunConfig

DATA_CPUS = 0.1  # Ray Data needs part of a CPU too, or no row ever comes


@dataclass(frozen=True)
class Resources:
    """What one stage holds at a time, and the keys that lower it (NAME stands for cpus or gpus)."""

    subject: str
    cpus: float
    gpus: float
    knobs: str

    def refusal(self, name: str, needed: float, where: str, found: float) -> str:
        """Say that `where` has too little of `CPU` or `GPU`."""
        knobs = self.knobs.replace("NAME", f"{name.lower()}s")
        hint = " (on this machine alone: raise cluster.num_cpus)" if name == "CPU" else ""
        return f"{self.subject} asks for {needed:g} {name}s, {where} has {found:g}. Lower {knobs}{hint}"


def training_resources(config: RunConfig) -> Resources:
    """Return what the ranks and the scorers of stages 1 and 2 hold together."""
    cluster = config.cluster
    scorers = config.critic.pool_size if config.uses_critic or config.needs_reference else 0
    ranks = config.train.num_workers
    return Resources(
        "The run",
        ranks * cluster.cpus_per_worker + scorers * cluster.cpus_per_critic + DATA_CPUS,
        ranks * cluster.gpus_per_worker + scorers * cluster.gpus_per_critic,
        "cluster.NAME_per_worker, cluster.NAME_per_critic, critic.pool_size, train.num_workers",
    )


def evaluation_resources(config: RunConfig, *, with_decoders: bool) -> Resources:
    """Return what decoders and judges hold together."""
    cluster, settings = config.cluster, config.evaluation
    decoders = settings.num_decoders if with_decoders else 0
    return Resources(
        "The evaluation",
        decoders * cluster.cpus_per_decoder + settings.num_judges * cluster.cpus_per_judge,
        decoders * cluster.gpus_per_decoder,
        "evaluation.num_decoders, evaluation.num_judges, or their shares in cluster",
    )


def needed_resources(config: RunConfig) -> list[Resources]:
    """Return what each part of a run needs; the parts follow one another."""
    needed = [training_resources(config)] if set(config.stages) & {1, 2} else []
    evaluates = 3 in config.stages and _has_problems(config)
    return [*needed, evaluation_resources(config, with_decoders=True)] if evaluates else needed


def _has_problems(config: RunConfig) -> bool:
    settings = config.evaluation
    return settings.datasets is not None or any(path.is_file() for path in settings.files.values())
