"""The command line of a run: `recipe=NAME [preset=NAME] [key=value ...] [flags]`. Reads no file.

`add_run_flags` is the one definition of the flags: `wmtp launch`, `sweep` and `doctor` have them, and with them
`python -m wmtp_ray.launch`. What is no flag is a word `key=value`; words keep their order, since the last of two wins.
"""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wmtp_ray.config.layers import RAW_TEXT_KEYS
from wmtp_ray.config.other_names import other_name
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.section import Section
from wmtp_ray.errors import ConfigError

PROGRAM = "python -m wmtp_ray.launch"
_WORDS = "recipe=NAME [preset=NAME[,NAME]] [run_name=NAME] [key=value ...] [flags]"
_FORMS = """\
  recipe=verifiable          what is trained: configs/recipe.NAME.yaml (required)
  preset=cpu                 on what machine: configs/preset.NAME.yaml, applied after the recipe
  preset=a100-4,own-critic   several, the later one wins
  run_name=NAME              folder under storage_root/runs; default <recipe>-<date>-<time>
  weighting.beta=0.5         any key of configs/defaults.yaml; lists are YAML: stages=[0,2]; text is taken whole

  recipe=online rounds=R     R rounds: the policy's own programs become rows (docs/rounds.md)

  sweep=NAME                 many runs instead of one: configs/sweep.NAME.yaml, run_name names the sweep (docs/sweep.md)
  sweep.seeds=[1,2]          any key of configs/sweep_defaults.yaml
"""
_ROUNDS = "rounds"  # as a word of its own: rounds=R is rounds.count=R
_TAGS = "--tags"
_NAMED: dict[str, Any] = {"nargs": "?", "const": ""}  # "" where the name is missing, which is then said
_FLAGS: dict[str, dict[str, Any]] = {
    "--dry-run": {"action": "store_true", "help": "print the resolved configuration and the plan, train nothing"},
    "--resume": {"action": "store_true", "help": "continue run_name=NAME from its newest checkpoint"},
    "--run-name": _NAMED | {"metavar": "NAME", "help": "the same as run_name=NAME"},
    "--dataset-suffix": _NAMED
    | {"metavar": "small", "help": "the same as data.suffix=small: read train_small.jsonl in place of train.jsonl"},
    "--use-micro-model": {
        "action": "store_true",
        "help": "policy, tokenizer and reference are models_v2/micro-mtp and models_v2/micro-ref, unless a key says "
        "otherwise",
    },
    "--config-dir": _NAMED
    | {
        "metavar": "DIR",
        "help": "recipes, presets, sweeps and defaults of your own, before the packaged ones",
    },
    _TAGS: {
        "action": "append",
        "default": [],
        "metavar": "NAME=TEXT",
        "help": "a=b [c=d ...]: free tags of the run; a configuration key ends the list",
    },
}
_SAME_AS = {"--run-name": "run_name", "--dataset-suffix": "data.suffix"}
_ALL_FLAGS = (*_FLAGS, "--help", "-h")


@dataclass(frozen=True)
class Arguments:
    """The command line of a run, split but not yet checked against the schema.

    `overrides` are the `key=value` words other than recipe, preset, run_name and sweep, in order; `sweep_overrides`
    those that began with `sweep.`, without it. Files of `config_dir` come before the packaged ones.
    """

    recipe: str
    preset: str | None = None
    run_name: str | None = None
    overrides: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False
    resume: bool = False
    sweep: str | None = None
    sweep_overrides: tuple[str, ...] = ()
    use_micro_model: bool = False
    config_dir: Path | None = None


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that raises ConfigError where argparse would print and exit."""

    takes_run = False  # the command line of a run: set by `add_run_flags`

    def error(self, message: str) -> Any:
        raise ConfigError(f"the command cannot be read: {message}; {self.prog} --help shows every form")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after rewriting run flags that stand for words, so that words keep their order."""
        return super().parse_known_args(_spelled_out(args) if self.takes_run else args, namespace)


def add_run_flags(parser: CommandParser, description: str = "") -> None:
    """Add the flags of a run to a parser; call `parse_known_args`, then pass what it returns to `arguments_of`."""
    parser.takes_run = True
    parser.allow_abbrev = False
    parser.usage = f"{parser.prog} {_WORDS}"
    parser.description = f"{description}\n\n{_FORMS}".lstrip("\n")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name, how in _FLAGS.items():
        parser.add_argument(name, **how)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the words of a command line (without the program's name).

    When a key is given twice the last one wins. Raises one ConfigError that lists every word it cannot place.
    """
    parser = CommandParser(prog=PROGRAM)
    add_run_flags(parser)
    return arguments_of(*parser.parse_known_args(list(argv)))


def arguments_of(flags: argparse.Namespace, words: Sequence[str]) -> Arguments:
    """Build Arguments from the flags that a parser found and the words it left; ConfigError lists misplaced words."""
    read = _Words()
    read.add_flags(flags)
    for word in words:
        read.add(word)
    if read.recipe is None:
        read.problems.append("no recipe was given; expected recipe=NAME, for example recipe=verifiable")
    if read.sweep is None and read.sweep_overrides:
        read.problems.append(f"sweep.{read.sweep_overrides[0]} stands without a sweep; expected sweep=NAME as well")
    if read.problems or read.recipe is None:
        lines = "".join(f"\n  {problem}" for problem in read.problems)
        raise ConfigError(f"the command cannot be read:{lines}\n--help shows every form")
    return Arguments(
        recipe=read.recipe,
        preset=read.preset,
        run_name=read.run_name,
        overrides=tuple(read.overrides),
        tags=read.tags,
        dry_run=flags.dry_run,
        resume=flags.resume,
        sweep=read.sweep,
        sweep_overrides=tuple(read.sweep_overrides),
        use_micro_model=flags.use_micro_model,
        config_dir=Path(flags.config_dir).absolute() if flags.config_dir else None,
    )


class _Words:
    """The words of a command line while they are read."""

    def __init__(self) -> None:
        self.recipe: str | None = None
        self.preset: str | None = None
        self.run_name: str | None = None
        self.sweep: str | None = None
        self.overrides: list[str] = []
        self.sweep_overrides: list[str] = []
        self.tags: dict[str, str] = {}
        self.problems: list[str] = []

    def add_flags(self, flags: argparse.Namespace) -> None:
        """Take over the tags; report a flag without its value."""
        for flag in (*_SAME_AS, "--config-dir"):
            if getattr(flags, flag[2:].replace("-", "_")) == "":
                self.problems.append(f"{flag} stands without its value; expected {flag} {_FLAGS[flag]['metavar']}")
        for tag in flags.tags:
            key, is_tag, text = tag.partition("=")
            if is_tag:
                self.tags[key] = text
            else:
                found = f"is followed by {tag}" if tag else "stands without a tag"
                self.problems.append(f"{_TAGS} {found}; expected {_TAGS} NAME=TEXT [NAME=TEXT ...]")

    def add(self, word: str) -> None:
        key, has_value, value = word.partition("=")
        if word.startswith("-"):
            self.problems.append(f"unknown flag {word}; {_nearest_form(word)}")
        elif not has_value or "" in key.split("."):
            self.problems.append(f"{word!r} is not of the form key=value; {_nearest_form(word)}")
        elif key.startswith("sweep."):
            self.sweep_overrides.append(word.removeprefix("sweep."))
        elif key == _ROUNDS:
            self.overrides.append(f"{_ROUNDS}.count={value}")
        elif key not in (*RAW_TEXT_KEYS, "sweep"):
            self.overrides.append(word)
        elif not value:
            self.problems.append(f"{word!r} names nothing; expected {key}=NAME")
        else:
            setattr(self, key, value)


def _spelled_out(argv: Sequence[str]) -> list[str]:
    """`--run-name x --tags a=b c=d seed=1` -> `run_name=x --tags=a=b --tags=c=d seed=1`."""
    rest, found = list(argv), []
    while rest:
        flag, has_value, value = rest.pop(0).partition("=")
        if has_value and (flag in _SAME_AS or flag == _TAGS):
            rest.insert(0, value)
        if flag == _TAGS:
            found += [f"{_TAGS}={tag}" for tag in _leading_tags(rest)]
        elif flag in _SAME_AS and rest and not rest[0].startswith("-"):
            found.append(f"{_SAME_AS[flag]}={rest.pop(0)}")
        else:
            found.append(flag if flag in _SAME_AS else f"{flag}{has_value and '='}{value}")
    return found


def _leading_tags(rest: list[str]) -> list[str]:
    """Remove the tags from the front of `rest`; without any, return the plain word found there, or ""."""
    tags = []
    while rest and _is_tag(rest[0]):
        tags.append(rest.pop(0))
    if not tags:
        tags = [rest.pop(0) if rest and "=" not in rest[0] and not rest[0].startswith("-") else ""]
    return tags


def _is_tag(word: str) -> bool:
    """Whether a word is a tag, and not the first word after the tags.

    A configuration key is never a tag: `--tags team=a weighting.beta=0.5` sets beta and `weighting.bta=0.5` is
    refused as a typo, where taking either for a tag would train something else than was asked for.
    """
    key, has_value, _ = word.partition("=")
    section, dot, _ = key.partition(".")
    top_level = RunConfig.model_fields.get(section)
    if section == "sweep" or key == _ROUNDS:
        return False
    if top_level is None:
        return bool(has_value) and bool(key) and not word.startswith("-")
    is_section = isinstance(top_level.annotation, type) and issubclass(top_level.annotation, Section)
    return is_section and not dot and bool(has_value)


def _nearest_form(word: str) -> str:
    """Suggest the correct form of a misplaced word."""
    stem, has_value, value = word.lstrip("-").partition("=")
    forms = {flag.lstrip("-"): flag for flag in _ALL_FLAGS if flag != "-h"}
    forms |= {name: f"{name}={value if has_value else 'VALUE'}" for name in ("sweep", *RunConfig.model_fields)}
    if "." in stem and stem.partition(".")[0] in RunConfig.model_fields:
        return f"did you mean {stem}={value if has_value else 'VALUE'}?"
    if stem not in (*_ALL_FLAGS, *forms) and (other := other_name(stem)) is not None:
        target = other.targets[0]
        given = target if "=" in target else f"{target}={value if has_value else 'VALUE'}"
        return f"did you mean {given}?" + (f" Here: {other.note}" if other.note else "")
    names = {name.replace("_", "-"): name for name in forms}
    nearest = difflib.get_close_matches(stem.replace("_", "-"), names, n=1)
    if nearest:
        return f"did you mean {forms[names[nearest[0]]]}?"
    if word.startswith("-"):
        return f"expected one of: {', '.join(_ALL_FLAGS)}"
    return "expected recipe=NAME, preset=NAME or an override such as weighting.beta=0.5"
