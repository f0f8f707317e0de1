"""Runs grouped into arms: what was compared, under short names that are all different.

Two runs belong to one arm if their configurations differ in seeds, names, the machine, and the critic of a seed alone.
What counts is what ran: a run that critic.gate sent back to uniform weights is no run of the method.
An arm is called after what makes it one: its recipe or its weighting, the rows where they are unusual, then whatever
else tells it from an arm of the same name: `verifiable beta=0.2`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wmtp_ray.config.arms import BASELINE, Role, arm_named, place_in_reports
from wmtp_ray.config.schema import effects
from wmtp_ray.report.saved_run import SavedRun
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.training_difference import (
    SEED_KEYS,
    TrainedPolicy,
    TrainingDifference,
    training_difference,
)

CRITIC = "critic.path"
_WORDS_OF_NAME = 3
_VALUE_CHARS = 24


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seeds, in the order of these."""

    name: str
    runs: tuple[SavedRun, ...]

    @property
    def weighting(self) -> str:
        """The weighting that its runs share."""
        return self.runs[0].weighting

    @property
    def role(self) -> Role:
        """Its role in comparisons: the method, a baseline, or a control."""
        return arm_named(self.weighting).role

    @property
    def recipe(self) -> str:
        """The recipe that its runs share."""
        return str(self.runs[0].config.get("recipe"))


def settings_of(run: SavedRun) -> dict[str, Any]:
    """Return the configuration as it ran, without seeds, names, and what only concerns the machine."""
    return {k: value for k, value in run.settings.items() if effects().is_of_training(k) and k not in SEED_KEYS}


def differing_keys(runs: Sequence[SavedRun]) -> list[str]:
    """Return the keys in which the runs' settings differ, in the order of the files."""
    settings = [settings_of(run) for run in runs]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]


def group_runs(runs: Sequence[SavedRun]) -> list[Arm]:
    """Group runs by their settings; uniform weights first, controls last."""
    groups: dict[str, list[SavedRun]] = {}
    for run in runs:
        settings = {key: value for key, value in settings_of(run).items() if key != CRITIC}
        groups.setdefault(repr(sorted(settings.items(), key=str)), []).append(run)
    parts = [part for group in groups.values() for part in _split_by_critic(group)]
    ordered = sorted(
        parts, key=lambda group: (place_in_reports(group[0].weighting), str(group[0].config.get("data.policy_rows")))
    )
    names = _names([group[0] for group in ordered])
    return [
        Arm(name, tuple(sorted(group, key=lambda run: (run.seed is None, run.seed or 0, run.name))))
        for name, group in zip(names, ordered, strict=True)
    ]


def reference_arm(arms: Sequence[Arm]) -> Arm:
    """Return the arm that others are compared with: uniform weights, trained as long and from the same start as most.

    Among equals one of the baseline's recipe.
    """
    uniform = [arm for arm in arms if arm.role == "baseline"] or list(arms)[:1]
    return min(
        uniform, key=lambda arm: (sum(bool(confounds(other, arm)) for other in arms), arm.recipe != BASELINE.recipe)
    )


def confounds(arm: Arm, base: Arm, dataset: str | None = None) -> tuple[str, ...]:
    """Return, as clauses, differences in the training of two arms that confound the comparison of the method.

    Of an evaluation on `dataset` it is the training of the policies that were evaluated, which may be checkpoints.
    """
    found = _training_differences(arm, base, dataset)
    return tuple(dict.fromkeys(clause for each in found for clause in each.confounds))


def caution(arm: Arm, base: Arm, dataset: str | None = None) -> str | None:
    """Return the caution that belongs to a verdict on two arms, None where only the method differs."""
    found = _training_differences(arm, base, dataset)
    return next((words for each in found if (words := each.caution) is not None), None)


def _training_differences(arm: Arm, base: Arm, dataset: str | None) -> list[TrainingDifference]:
    """One for each of the arm's runs, against the run of the same seed, where there is one."""
    of_seed = {run.seed: run for run in reversed(base.runs)}
    return [
        training_difference(
            _trained(of_seed.get(run.seed, base.runs[0]), base.name, dataset), _trained(run, arm.name, dataset)
        )
        for run in arm.runs
    ]


def _trained(run: SavedRun, name: str, dataset: str | None) -> TrainedPolicy:
    evaluation = run.evaluations.get(dataset) if dataset is not None else None
    evaluated = evaluation.sources.training if evaluation is not None else None
    return TrainedPolicy(name, str(RunFolder(run.path).final.absolute()), None, evaluated or run.training)


def _split_by_critic(group: list[SavedRun]) -> list[list[SavedRun]]:
    """Seeds may have a critic each; critics are compared only where one seed ran with two of them."""
    critics = {(run.seed, str(run.config.get(CRITIC))) for run in group}
    if len({seed for seed, _ in critics}) == len(critics):
        return [group]
    parts: dict[str, list[SavedRun]] = {}
    for run in group:
        parts.setdefault(str(run.config.get(CRITIC)), []).append(run)
    return list(parts.values())


def _names(first_runs: Sequence[SavedRun]) -> list[str]:
    """Lengthen names by the settings that tell their arms apart, until all differ."""
    plain = [_plain_name(run) for run in first_runs]
    names = list(plain)
    for name in [name for name, count in Counter(plain).items() if count > 1]:
        places = [place for place, each in enumerate(plain) if each == name]
        keys = _telling_keys([first_runs[place] for place in places])
        for place in places:
            words = [f"{key.rpartition('.')[2]}={_short(first_runs[place].settings.get(key))}" for key in keys]
            names[place] = " ".join([name, *words])
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        names[place] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return names


def _telling_keys(runs: Sequence[SavedRun]) -> list[str]:
    """Return all keys in which the runs differ, or, of too many for a name, as many short ones as tell all apart."""
    keys = differing_keys(runs)
    if len(keys) <= _WORDS_OF_NAME:
        return keys
    keys.sort(key=lambda key: max(len(str(run.settings.get(key))) for run in runs))
    for count in range(1, _WORDS_OF_NAME):
        if len({repr([run.settings.get(key) for key in keys[:count]]) for run in runs}) == len(runs):
            return keys[:count]
    return keys[:_WORDS_OF_NAME]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _VALUE_CHARS else f"…{text[1 - _VALUE_CHARS :]}"


def _plain_name(run: SavedRun) -> str:
    recipe, rows = str(run.config.get("recipe")), run.config.get("data.policy_rows")
    arm = arm_named(run.weighting)
    name = recipe if arm.recipe == recipe else run.weighting
    return name if rows in (arm.usual_rows, None) else f"{name} on {str(rows).replace('_', ' ')} rows"
