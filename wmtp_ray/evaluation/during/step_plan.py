"""Which problems the policy is asked while it trains, and how; found out before anything starts.

The set is the first `evaluation.during_limit` problems of one file; answers and verdicts follow the settings of the
evaluation section, each draw its problem, its number and the run's seed. So two steps differ in their policy alone.
Imports neither torch nor Ray.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from wmtp_ray.config.evaluation import EvaluationConfig
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.evaluation_plan import HOW_TO_GET, PlannedDataset, plan_evaluation
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.evaluation.identity import KEY_CHARS, DatasetIdentity, JudgeIdentity

_OFF = "set evaluation.every_steps=0"


@dataclass(frozen=True)
class StepEvaluationPlan:
    """The problems, and `settings`: the evaluation section cut to them; Pass@1 is always among its K.

    `key` is a hash of all that makes scores of two steps comparable, `longest_prompt` the tokens of the longest one.
    `warnings` say what the user should know.
    """

    interval: int
    dataset: PlannedDataset
    settings: EvaluationConfig
    isolation_level: str
    key: str
    longest_prompt: int
    warnings: tuple[str, ...] = ()

    def home(self, step_evaluations: Path) -> Path:
        """Return the folder of the set below a run's `step_evaluations`."""
        return step_evaluations / self.key

    def render(self) -> str:
        """Describe it for the plan of a run."""
        settings, dataset = self.settings, self.dataset
        count = len(dataset.problems.first(settings.limit))
        ks = ", ".join(f"Pass@{k}" for k in settings.k)
        lines = [
            f"Evaluation while stage 2 trains: every {self.interval:,} steps, at step 0 and at the end",
            f"  {dataset.name}: the first {count:,} problems of {dataset.problems.path}",
            f"    format {dataset.format_words}",
            f"  {ks} of {settings.num_samples} answers, temperature {settings.temperature:g}, isolation level "
            f"{self.isolation_level}",
        ]
        return "\n".join([*lines, *(f"  {warning}" for warning in self.warnings)])


def plan_step_evaluations(config: RunConfig, asked: Asked) -> StepEvaluationPlan:
    """Read the problems, choose their format for the policy `asked`, and try the sandbox.

    Raises ConfigError where there are no problems or no decoder for them, DataError for a foreign file, SandboxError
    below the required isolation.
    """
    whole = config.evaluation
    if whole.engine == "openai":
        raise ConfigError(
            f"evaluation.every_steps={whole.step_interval} with evaluation.engine=openai: no server holds the policy "
            f"while it trains; set evaluation.engine=native, or {_OFF}"
        )
    name = _dataset_name(whole)
    settings = whole.model_copy(
        update={"datasets": (name,), "limit": whole.during_limit, "k": tuple(sorted({1, *whole.k}))}
    )
    plan = plan_evaluation(config.model_copy(update={"evaluation": settings}), asked)
    [dataset] = plan.datasets
    return StepEvaluationPlan(
        interval=whole.step_interval,
        dataset=dataset,
        settings=settings,
        isolation_level=plan.isolation_level,
        key=_set_key(dataset, settings, plan.isolation_level, config.seed),
        longest_prompt=_longest_prompt(dataset, settings, asked),
        warnings=(*plan.warnings, *_about_choosing(config, name)),
    )


def _dataset_name(settings: EvaluationConfig) -> str:
    """Return the name in evaluation.files; ConfigError where its file does not exist."""
    asked = f"evaluation.every_steps={settings.step_interval}"
    if settings.during_dataset is not None:
        path = settings.files[settings.during_dataset]
        if path.is_file():
            return settings.during_dataset
        raise ConfigError(
            f"{asked} with evaluation.during_dataset={settings.during_dataset}: {path} does not exist; {HOW_TO_GET}, "
            f"set evaluation.files.{settings.during_dataset}=FILE, or {_OFF}"
        )
    names = settings.datasets or tuple(settings.files)
    for name in names:
        if settings.files[name].is_file():
            return name
    paths = ", ".join(str(settings.files[name]) for name in names) or "evaluation.files is empty"
    raise ConfigError(
        f"{asked} has no problems: none of its files exists ({paths}); {HOW_TO_GET}, set evaluation.files.NAME=FILE "
        f"and evaluation.during_dataset=NAME, or {_OFF}"
    )


def _longest_prompt(dataset: PlannedDataset, settings: EvaluationConfig, asked: Asked) -> int:
    assert asked.tokenizer is not None, "a decoder has a tokenizer"
    problems, prompt_format = dataset.problems, dataset.prompt_format
    asked_for = problems.first(settings.limit)
    return max(len(prompt_format.prompt_ids(problem, problems, asked.tokenizer)) for problem in asked_for)


def _about_choosing(config: RunConfig, name: str) -> list[str]:
    """Say where the problems that choose a checkpoint are those that stage 3 reports."""
    reported = config.evaluation.datasets or tuple(config.evaluation.files)
    if config.train.keep_best_by != "pass@1" or name not in reported:
        return []
    return [
        f"train.keep_best_by=pass@1 chooses a checkpoint by {name}, on which stage 3 reports as well: Pass@K of the "
        "chosen one is too high there; name other problems in evaluation.during_dataset (held-out ones of the training "
        "data), and those to report in evaluation.datasets"
    ]


def _set_key(dataset: PlannedDataset, settings: EvaluationConfig, isolation_level: str, seed: int) -> str:
    problems, prompt_format = dataset.problems, dataset.prompt_format
    content = {
        "dataset": asdict(DatasetIdentity(problems.sha256, problems.kind, len(problems.first(settings.limit)))),
        "format": [prompt_format.name, prompt_format.stop, prompt_format.sanitiser, prompt_format.label],
        "sampling": [settings.num_samples, settings.temperature, settings.top_p, settings.max_new_tokens, seed],
        "judge": asdict(JudgeIdentity(isolation_level, settings.timeout_s, settings.memory_limit_mb)),
    }
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:KEY_CHARS]
