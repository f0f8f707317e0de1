"""What stage 3 will evaluate, found out before anything starts: problems read, formats chosen, the sandbox tried.

Imports neither torch nor Ray.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.problems import ProblemSet, read_problems
from wmtp_ray.evaluation.prompts import PromptFormat, format_for

HOW_TO_GET = "`python scripts/setup_datasets.py humaneval|mbpp|codecontests --help` says how to get them"


@dataclass(frozen=True)
class PlannedDataset:
    """A data set that will be evaluated, under its name in evaluation.files."""

    name: str
    problems: ProblemSet
    prompt_format: PromptFormat
    format_reason: str = ""


@dataclass(frozen=True)
class EvaluationPlan:
    """All data sets, the isolation level that programs will have ("" without any), and what the user should know."""

    datasets: tuple[PlannedDataset, ...]
    isolation_level: str
    warnings: tuple[str, ...]

    def render(self, settings: EvaluationConfig) -> str:
        """Describe it for the plan of a run."""
        lines = ["Plan of stage 3"]
        for each in self.datasets:
            count = len(each.problems.first(settings.limit))
            lines.append(f"  {each.name}: {count:,} problems, format {each.prompt_format.name}, {each.problems.path}")
        if self.datasets:
            ks = ", ".join(f"Pass@{k}" for k in settings.k)
            lines.append(
                f"  {ks} of {settings.num_samples} answers, temperature {settings.temperature:g}, top_p "
                f"{settings.top_p:g}, at most {settings.max_new_tokens} tokens; programs are held by isolation level "
                f"{self.isolation_level}"
            )
        return "\n".join([*lines, *(f"  {warning}" for warning in self.warnings)])


def plan_evaluation(config: RunConfig) -> EvaluationPlan:
    """Read the problems of `evaluation.datasets` and try the sandbox.

    Raises ConfigError for a data set that is asked for by name and not there, DataError for a foreign file,
    SandboxError below the required isolation.
    """
    settings = config.evaluation
    asked = settings.files if settings.datasets is None else {name: settings.files[name] for name in settings.datasets}
    absent = {name: path for name, path in asked.items() if not path.is_file()}
    if absent and settings.datasets is not None:
        name, path = next(iter(absent.items()))
        raise ConfigError(
            f"evaluation.datasets names {name}, but {path} does not exist; {HOW_TO_GET}, set evaluation.files.{name}="
            "FILE, or leave it out"
        )
    present = [(name, path) for name, path in asked.items() if name not in absent]
    if not present:
        return EvaluationPlan((), "", (_nothing(list(absent.values())),))
    datasets = tuple(_planned(name, path, settings) for name, path in present)
    left_out = (f"{each.name}: left out are {part}" for each in datasets for part in each.problems.left_out)
    return EvaluationPlan(datasets, found_isolation(settings), tuple(left_out))


def found_isolation(settings: EvaluationConfig) -> str:
    """Return the level that this machine gives; raises SandboxError when it is below what is required."""
    with Judge(settings.isolation, num_workers=1, isolation_required=settings.isolation_required) as judge:
        return judge.isolation_level


def _planned(name: str, path: Path, settings: EvaluationConfig) -> PlannedDataset:
    problems = read_problems(path)
    return PlannedDataset(name, problems, format_for(problems, settings.formats))


def _nothing(absent: list[Path]) -> str:
    paths = ", ".join(map(str, absent))
    return (
        f"Stage 3 evaluates nothing: none of its files exists ({paths}); {HOW_TO_GET}, or set "
        "evaluation.files.NAME=FILE"
    )
