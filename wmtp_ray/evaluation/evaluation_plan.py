"""What stage 3 will evaluate, found out before anything starts: problems read, formats chosen, the sandbox tried.

Imports neither torch nor Ray.
"""

from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.formats import Asked, choose_format, without_shown
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.problems import ProblemSet, read_problems
from wmtp_ray.evaluation.prompts import PromptFormat
from wmtp_ray.tracking.decisions import EvaluatedAs

HOW_TO_GET = "`python scripts/setup_datasets.py humaneval|mbpp|codecontests --help` says how to get them"


@dataclass(frozen=True)
class PlannedDataset:
    """A data set that will be evaluated, under its name in evaluation.files."""

    name: str
    problems: ProblemSet
    prompt_format: PromptFormat
    format_reason: str

    @property
    def format_words(self) -> str:
        """Name the format and why it was chosen."""
        return f"{self.prompt_format.name} ({self.format_reason})"


@dataclass(frozen=True)
class EvaluationPlan:
    """All data sets, the isolation level that programs will have ("" without any), and what the user should know.

    `absent` names the data sets that are left out, since their files do not exist and the command does not name them.
    """

    datasets: tuple[PlannedDataset, ...]
    isolation_level: str
    warnings: tuple[str, ...]
    absent: tuple[str, ...] = ()

    @property
    def evaluated_as(self) -> dict[str, EvaluatedAs]:
        """Return what `auto` was resolved to, for the record."""
        return {
            each.name: EvaluatedAs(each.prompt_format.name, each.format_reason, self.isolation_level)
            for each in self.datasets
        }

    def render(self, settings: EvaluationConfig) -> str:
        """Describe it for the plan of a run."""
        lines = ["Plan of stage 3"]
        for each in self.datasets:
            count = len(each.problems.first(settings.limit))
            lines.append(f"  {each.name}: {count:,} problems, {each.problems.path}")
            lines.append(f"    format {each.format_words}")
        if self.datasets:
            ks = ", ".join(f"Pass@{k}" for k in settings.k)
            lines.append(
                f"  {ks} of {settings.num_samples} answers, temperature {settings.temperature:g}, top_p "
                f"{settings.top_p:g}, at most {settings.max_new_tokens} tokens; programs run at isolation level "
                f"{self.isolation_level}"
            )
            if self.absent:
                lines.append(f"  not evaluated, since there is no file: {', '.join(self.absent)}")
        return "\n".join([*lines, *(f"  {warning}" for warning in self.warnings)])


def plan_evaluation(config: RunConfig, asked: Asked | None) -> EvaluationPlan:
    """Read the problems of `evaluation.datasets`, choose their formats for the policy `asked`, and try the sandbox.

    `asked` is None where the answers exist already.
    Raises ConfigError for a data set that is asked for by name and not there, DataError for a foreign file,
    SandboxError below the required isolation.
    """
    settings = config.evaluation
    named = settings.files if settings.datasets is None else {name: settings.files[name] for name in settings.datasets}
    absent = {name: path for name, path in named.items() if not path.is_file()}
    if absent and settings.datasets is not None:
        name, path = next(iter(absent.items()))
        raise ConfigError(
            f"evaluation.datasets names {name}, but {path} does not exist; {HOW_TO_GET}, set evaluation.files.{name}="
            "FILE, or leave it out"
        )
    present = [(name, path) for name, path in named.items() if name not in absent]
    if not present:
        return EvaluationPlan((), "", (_nothing(list(absent.values())),), tuple(absent))
    datasets = tuple(_planned(name, path, settings, asked) for name, path in present)
    left_out = (f"{each.name}: left out are {part}" for each in datasets for part in each.problems.left_out)
    return EvaluationPlan(datasets, found_isolation(settings), tuple(left_out), tuple(absent))


def found_isolation(settings: EvaluationConfig) -> str:
    """Return the level that this machine gives; raises SandboxError when it is below what is required."""
    with Judge(settings.isolation, num_workers=1, isolation_required=settings.isolation_required) as judge:
        return judge.isolation_level


def _planned(name: str, path: Path, settings: EvaluationConfig, asked: Asked | None) -> PlannedDataset:
    problems = read_problems(path)
    chosen = choose_format(problems, settings.formats, asked)
    if asked is not None:
        problems = without_shown(problems, chosen.format)
    return PlannedDataset(name, problems, chosen.format, chosen.reason)


def _nothing(absent: list[Path]) -> str:
    paths = ", ".join(map(str, absent))
    return (
        f"Stage 3 evaluates nothing: none of its files exists ({paths}); {HOW_TO_GET}, or set "
        "evaluation.files.NAME=FILE"
    )
