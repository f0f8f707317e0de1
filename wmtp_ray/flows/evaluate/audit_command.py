"""`wmtp critic audit`: find a run's policy, its critic and the tests of its held-out rows; audit, save, print."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from wmtp_ray.config.load import load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.audit_critic import AuditedModels, audit_critic
from wmtp_ray.evaluation.audit_tables import audit_tables
from wmtp_ray.evaluation.evaluation_plan import HOW_TO_GET, found_isolation
from wmtp_ray.evaluation.problems import ProblemSet, read_problems
from wmtp_ray.flows.evaluate.evaluate_run import policy_of_run
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.critic_audit import AuditSettings, write_critic_audit


def audit_command(
    run_dir: Path, tests: Sequence[Path], *, rollouts: int, problems: int, seed: int | None, console: Console
) -> str:
    """Audit a run's critic, write audit.json into its folder, and return tables of what was found.

    `tests` are files of problems, none for those of the run's evaluation; `seed` None is the run's. Raises WmtpError
    before a model is loaded.
    """
    for name, number in (("--rollouts", rollouts), ("--problems", problems)):
        if number < 1:
            raise ConfigError(f"{name} is {number}, expected 1 or more")
    config = _config_of(run_dir)
    models = models_of(run_dir, config)
    found = _problem_sets(tests, config)
    found_isolation(config.evaluation)
    settings = AuditSettings(rollouts, problems, config.seed if seed is None else seed)
    audit = audit_critic(config, models, found, settings, console)
    path = write_critic_audit(run_dir, audit)
    return f"{audit_tables(audit)}\neverything is in {path}"


def models_of(run_dir: Path, config: RunConfig) -> AuditedModels:
    """Return where the run's policy and the critic that scored it lie; ConfigError or ArtifactError without a critic.

    The critic is the value head of the trained policy where critic.source=policy and stage 2 used one, else what stage
    1 left or `critic.path` names.
    """
    if config.data.condition == "label":
        raise ConfigError(
            f"{run_dir} was trained with data.condition=label, expected data.condition=none: its policy continues "
            "prompts that name a label and its critic reads prompts that do not, so they speak of different prefixes. "
            "Audit the critic with a run of the same critic without labels"
        )
    trained = policy_of_run(run_dir)
    if config.uses_critic and config.critic.source == "policy" and trained is not None:
        return AuditedModels(trained, trained)
    own = RunFolder(run_dir).critic.final
    critic = own if own.is_dir() else config.critic.path
    if critic is not None:
        return AuditedModels(trained or config.model.path, critic)
    if config.uses_critic:
        raise ArtifactError(
            f"{run_dir} holds no critic yet (neither final/ nor a checkpoint, and nothing of stage 1), expected one; "
            "let its stages 1 and 2 end first"
        )
    raise ConfigError(
        f"{run_dir} is a run without a critic (weighting.type={config.weighting.type}, train.value_coef="
        f"{config.train.value_coef:g}, no stage 1, no critic.path), expected one with a critic; audit a run of "
        "recipe=verifiable"
    )


def _config_of(run_dir: Path) -> RunConfig:
    path = RunFolder(run_dir).config
    if not path.is_file():
        raise ArtifactError(f"{run_dir} holds no config.yaml, expected the folder of a run: storage/runs/NAME")
    return load_resolved(path)


def _problem_sets(tests: Sequence[Path], config: RunConfig) -> list[ProblemSet]:
    """Read the problems of the files given, or of those of `evaluation.datasets` that exist."""
    if absent := [path for path in tests if not path.is_file()]:
        raise ConfigError(f"--tests {absent[0]}: found no such file, expected problems with tests")
    settings = config.evaluation
    named = [settings.files[name] for name in settings.datasets or settings.files]
    files = [*tests] or [path for path in named if path.is_file()]
    if not files:
        raise ConfigError(
            f"found none of the run's files of problems ({', '.join(map(str, named))}), expected tests for its "
            f"held-out rows; give them with --tests FILE, or get them: {HOW_TO_GET}"
        )
    return [read_problems(path) for path in files]
