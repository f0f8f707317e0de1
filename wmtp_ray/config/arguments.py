"""The words of a launch command: `recipe=NAME [preset=NAME] [key=value ...] [flags]`. Reads no file."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from wmtp_ray.config.layers import RAW_TEXT_KEYS
from wmtp_ray.config.other_names import other_name
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.section import Section
from wmtp_ray.errors import ConfigError

USAGE = """\
usage: python -m wmtp_ray.launch recipe=NAME [preset=NAME] [run_name=NAME] [key=value ...] [flags]

  recipe=verifiable          what is trained: configs/recipe.NAME.yaml (required)
  preset=cpu                 on what machine: configs/preset.NAME.yaml, applied after the recipe
  run_name=NAME              folder under storage_root/runs; default <recipe>-<date>-<time>
  weighting.beta=0.5         any key of configs/defaults.yaml; lists are YAML: stages=[0,2]; text is taken whole

  sweep=NAME                 many runs instead of one: configs/sweep.NAME.yaml, run_name names the sweep (docs/sweep.md)
  sweep.seeds=[1,2]          any key of configs/sweep_defaults.yaml

  --dry-run                  print the resolved configuration and the plan, train nothing
  --resume                   continue run_name=NAME from its newest checkpoint
  --run-name NAME            the same as run_name=NAME
  --dataset-suffix small     the same as data.suffix=small: read train_small.jsonl in place of train.jsonl
  --use-micro-model          policy, tokenizer and reference are models_v2/micro-mtp and models_v2/micro-ref, unless
                             a key says otherwise
  --tags a=b [c=d ...]       free tags of the run; a configuration key ends the list
  -h, --help                 print this
"""
FLAGS = ("--dry-run", "--resume", "--run-name", "--dataset-suffix", "--use-micro-model", "--tags", "--help", "-h")


@dataclass(frozen=True)
class Arguments:
    """A launch command, split but not yet checked against the schema.

    `overrides` are the `key=value` words other than recipe, preset, run_name and sweep, in order; `sweep_overrides`
    those that began with `sweep.`, without it. `recipe` is None only when `show_help` is set.
    """

    recipe: str | None
    preset: str | None = None
    run_name: str | None = None
    overrides: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    dry_run: bool = False
    resume: bool = False
    show_help: bool = False
    sweep: str | None = None
    sweep_overrides: tuple[str, ...] = ()
    use_micro_model: bool = False


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the words of a command line (without the program's name).

    When a key is given twice the last one wins. Raises one ConfigError that lists every word it cannot place.
    """
    words = _Words(list(argv))
    words.read()
    if words.recipe is None and not words.show_help:
        words.problems.append("no recipe was given; expected recipe=NAME, for example recipe=verifiable")
    if words.sweep is None and words.sweep_overrides:
        words.problems.append(f"sweep.{words.sweep_overrides[0]} stands without a sweep; expected sweep=NAME as well")
    if words.problems and not words.show_help:
        lines = "".join(f"\n  {problem}" for problem in words.problems)
        raise ConfigError(f"the command cannot be read:{lines}\n--help shows every form")
    return Arguments(
        recipe=words.recipe,
        preset=words.preset,
        run_name=words.run_name,
        overrides=tuple(words.overrides),
        tags=words.tags,
        dry_run=words.dry_run,
        resume=words.resume,
        show_help=words.show_help,
        sweep=words.sweep,
        sweep_overrides=tuple(words.sweep_overrides),
        use_micro_model=words.use_micro_model,
    )


class _Words:
    """What has been read so far of a command line."""

    def __init__(self, argv: list[str]) -> None:
        self.rest = argv
        self.recipe: str | None = None
        self.preset: str | None = None
        self.run_name: str | None = None
        self.sweep: str | None = None
        self.overrides: list[str] = []
        self.sweep_overrides: list[str] = []
        self.tags: dict[str, str] = {}
        self.dry_run = self.resume = self.show_help = self.use_micro_model = False
        self.problems: list[str] = []

    def read(self) -> None:
        while self.rest:
            word = self.rest.pop(0)
            if word.startswith("-"):
                self._flag(word)
            else:
                self._key_value(word)

    def _flag(self, word: str) -> None:
        name, has_value, value = word.partition("=")
        if name in ("--run-name", "--dataset-suffix", "--tags"):
            if has_value:
                self.rest.insert(0, value)
            self._tags() if name == "--tags" else self._named(name)
        elif word == "--use-micro-model":
            self.use_micro_model = True
        elif word == "--dry-run":
            self.dry_run = True
        elif word == "--resume":
            self.resume = True
        elif word in ("--help", "-h"):
            self.show_help = True
        else:
            self.problems.append(f"unknown flag {word}; {_nearest_form(word)}")

    def _named(self, flag: str) -> None:
        if not self.rest or self.rest[0].startswith("-"):
            self.problems.append(f"{flag} stands without a name; expected {flag} NAME")
        elif flag == "--run-name":
            self.run_name = self.rest.pop(0)
        else:
            self.overrides.append(f"data.suffix={self.rest.pop(0)}")

    def _tags(self) -> None:
        before = len(self.tags)
        while self.rest and _is_tag(self.rest[0]):
            key, _, value = self.rest.pop(0).partition("=")
            self.tags[key] = value
        if len(self.tags) == before:
            found = f"is followed by {self.rest[0]}" if self.rest else "stands without a tag"
            self.problems.append(f"--tags {found}; expected --tags NAME=TEXT [NAME=TEXT ...]")

    def _key_value(self, word: str) -> None:
        key, has_value, value = word.partition("=")
        if not has_value or "" in key.split("."):
            self.problems.append(f"{word!r} is not of the form key=value; {_nearest_form(word)}")
        elif key.startswith("sweep."):
            self.sweep_overrides.append(word.removeprefix("sweep."))
        elif key not in (*RAW_TEXT_KEYS, "sweep"):
            self.overrides.append(word)
        elif not value:
            self.problems.append(f"{word!r} names nothing; expected {key}=NAME")
        else:
            setattr(self, key, value)


def _is_tag(word: str) -> bool:
    """Tell a tag from what follows the tags.

    A configuration key is never a tag: `--tags team=a weighting.beta=0.5` sets beta and `weighting.bta=0.5` is
    refused as a typo, where taking either for a tag would train something else than was asked for.
    """
    key, has_value, _ = word.partition("=")
    section, dot, _ = key.partition(".")
    top_level = RunConfig.model_fields.get(section)
    if section == "sweep":
        return False
    if top_level is None:
        return bool(has_value) and bool(key) and not word.startswith("-")
    is_section = isinstance(top_level.annotation, type) and issubclass(top_level.annotation, Section)
    return is_section and not dot and bool(has_value)


def _nearest_form(word: str) -> str:
    """Say what a misplaced word was probably meant to be."""
    stem, has_value, value = word.lstrip("-").partition("=")
    forms = {flag.lstrip("-"): flag for flag in FLAGS if flag != "-h"}
    forms |= {name: f"{name}={value if has_value else 'VALUE'}" for name in ("sweep", *RunConfig.model_fields)}
    if "." in stem and stem.partition(".")[0] in RunConfig.model_fields:
        return f"did you mean {stem}={value if has_value else 'VALUE'}?"
    if stem not in (*FLAGS, *forms) and (other := other_name(stem)) is not None:
        target = other.targets[0]
        given = target if "=" in target else f"{target}={value if has_value else 'VALUE'}"
        return f"did you mean {given}?" + (f" Here: {other.note}" if other.note else "")
    names = {name.replace("_", "-"): name for name in forms}
    nearest = difflib.get_close_matches(stem.replace("_", "-"), names, n=1)
    if nearest:
        return f"did you mean {forms[names[nearest[0]]]}?"
    if word.startswith("-"):
        return f"expected one of: {', '.join(FLAGS)}"
    return "expected recipe=NAME, preset=NAME or an override such as weighting.beta=0.5"
