"""Whether a documented command would be understood: by the parsers it is for, by the configuration, by what is there.

Runs no command. Argument parsers are stopped as soon as they have read their words, so what is checked is the real
command line. A program that is not known here is an objection too: no command may pass unchecked.
"""

import argparse
import importlib.util
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from datetime import datetime
from functools import cache
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import yaml

from tests.documents import ROOT
from wmtp_ray.cli.command import read
from wmtp_ray.config.load import Arguments, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.config.sweep import load_sweep
from wmtp_ray.config.sweep_points import listed_points, trial_arguments
from wmtp_ray.errors import WmtpError

NOW = datetime(2026, 1, 1)
LAUNCH_VERBS = ("launch", "sweep")
PLACEHOLDERS = {("--step", "N"): "1", ("--format", "NAME"): "instruct"}


class ObjectionError(Exception):
    """Why a command would not do what its document says."""


class _ParsedError(Exception):
    def __init__(self, found: argparse.Namespace) -> None:
        super().__init__()
        self.found = found


def objection(words: Sequence[str], place: Path) -> str | None:
    """Say what is wrong with a command; None where nothing is. `place` is an empty folder that it may be tried in."""
    try:
        _check([word.replace("$PWD", str(place)) for word in words], place)
    except (ObjectionError, WmtpError) as error:
        return str(error)
    return None


def launch_words(words: Sequence[str]) -> list[str] | None:
    """Return the words of the launch that a command comes to, directly or as a job; None where it is none."""
    rest = list(words)
    if rest[:1] in (["ray"], ["docker"]) and "--" in rest:
        rest = rest[rest.index("--") + 1 :]
    return rest[3:] if rest[:3] == ["python", "-m", "wmtp_ray.launch"] else None


def _check(words: list[str], place: Path) -> None:
    program, *rest = words
    check = _CHECKS.get(program)
    if check is None:
        raise ObjectionError(f"{program}: not known to tests/command_checks.py")
    check(rest, place)


def _check_make(words: list[str], _: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    _require_known(words, targets, "make target")


def _check_wmtp(words: list[str], place: Path) -> None:
    if words[:1] and words[0] in LAUNCH_VERBS:
        _check_launch(words[1:], place)
        return
    try:
        found = read(_filled_in(words))
    except WmtpError as error:
        raise ObjectionError(str(error)) from None
    _check_keys(words[0], found)


def _check_keys(verb: str, found: argparse.Namespace) -> None:
    """Load the configuration that the verb would: `doctor` and `inspect` as for launch, `evaluate` of its flags."""
    given = list(getattr(found, "words", []))
    if verb == "evaluate":
        flags = {name.removeprefix("key:"): value for name, value in vars(found).items() if name.startswith("key:")}
        given += [f"{key}={value}" for key, value in flags.items() if value is not None]
        given += [f"evaluation.k={list(found.k)}"] if found.k else []
        given += ["evaluation.num_samples=100", "evaluation.temperature=1"] if found.samples else []
        load_config(Arguments(recipe="baseline", preset=found.preset, overrides=tuple(given)), now=NOW)
    elif hasattr(found, "words"):
        has_recipe = any(word.startswith("recipe=") for word in given)
        load_config(parse_arguments(given if has_recipe else ["recipe=verifiable", *given]), now=NOW)


def _check_launch(words: list[str], place: Path) -> None:
    if {"-h", "--help"} & set(words):
        return
    arguments = parse_arguments([in_place(word, place) for word in words])
    load_config(arguments, now=NOW)
    if arguments.sweep is not None:
        spec = load_sweep(arguments.sweep, arguments.sweep_overrides)
        for point in listed_points(spec)[:1]:
            load_config(trial_arguments(arguments, "sweep", "trial", point.values, spec.seeds[0]), now=NOW)


def in_place(word: str, place: Path) -> str:
    """Return the word, having made what it names: a directory DIR, a recipe that a sweep would have left."""
    if word == "DIR":
        (place / word).mkdir(exist_ok=True)
    if not (word.startswith("recipe=") and word.endswith(".yaml")):
        return word
    recipe = place / word.removeprefix("recipe=")
    recipe.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "configs" / "recipe.verifiable.yaml", recipe)
    return f"recipe={recipe}"


def _check_python(words: list[str], place: Path) -> None:
    if words[:2] == ["-m", "wmtp_ray.launch"]:
        _check_launch(words[2:], place)
    elif words[:1] == ["-m"]:
        _require(importlib.util.find_spec(words[1]) is not None, f"there is no module {words[1]}")
    else:
        _require((ROOT / words[0]).is_file(), f"there is no script {words[0]}")
        _read_by(_main_of(words[0]), words[1:], words[0])


@cache
def _main_of(script: str) -> Callable[[], int]:
    spec = importlib.util.spec_from_file_location(f"documented_{Path(script).stem}", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.object(sys, "path", [str((ROOT / script).parent), *sys.path]):  # as Python runs a script
        spec.loader.exec_module(module)
    main: Callable[[], int] = module.main
    return main


def _check_pip(words: list[str], _: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")]
    _require_known(extras, project["optional-dependencies"], "extra")
    if "-c" in words:
        _require_files([words[words.index("-c") + 1]])


def _check_ray(words: list[str], place: Path) -> None:
    import click
    from ray.scripts.scripts import cli as ray_command

    ours = words[words.index("--") + 1 :] if "--" in words else []
    command: click.Command = ray_command
    rest = words
    try:
        while isinstance(command, click.Group):
            name = rest[0]
            found = command.get_command(click.Context(command), name)
            if found is None:
                raise ObjectionError(f"there is no ray {name}")
            command, rest = found, rest[1:]
        command.make_context(command.name, rest)
    except click.ClickException as error:
        raise ObjectionError(f"ray: {error.format_message()}") from error
    if ours:
        _check(ours, place)


def _check_docker(words: list[str], place: Path) -> None:
    _require(words[0] == "compose", "docker: only compose is documented")
    if words[1] == "exec":
        services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
        _require_known([words[2]], services, "service of compose.yaml")
        _check(words[3:], place)


def _check_vessl(words: list[str], _: Path) -> None:
    _require_files([words[words.index("-f") + 1]])


def _check_copy(words: list[str], _: Path) -> None:
    _require_files(words[:-1])


def _check_export(words: list[str], _: Path) -> None:
    _require(re.fullmatch(r"RAY_[A-Z_]+=\S+", words[0]) is not None, f"export {words[0]}: not a variable of Ray")


def _check_source(words: list[str], _: Path) -> None:
    _require(words == [".venv/bin/activate"], f"source {words[0]}: not the environment that make makes")


_CHECKS: dict[str, Callable[[list[str], Path], None]] = {
    "make": _check_make,
    "wmtp": _check_wmtp,
    "python": _check_python,
    "python3": _check_python,
    "pip": _check_pip,
    "ray": _check_ray,
    "docker": _check_docker,
    "vessl": _check_vessl,
    "cp": _check_copy,
    "export": _check_export,
    "source": _check_source,
}


def _filled_in(words: Sequence[str]) -> list[str]:
    pairs = zip(["", *words], words, strict=False)
    return [PLACEHOLDERS.get(pair, pair[1]) for pair in pairs]


def _read_by(main: Callable[..., int], words: Sequence[str], program: str) -> argparse.Namespace:
    """Return what a script's own parser makes of the words; ObjectionError with its message."""
    said = StringIO()
    try:
        with _stopped_parsers(), redirect_stderr(said), patch("sys.argv", [program, *words]):
            main()
    except _ParsedError as parsed:
        return parsed.found
    except SystemExit:
        raise ObjectionError(said.getvalue().strip().splitlines()[-1]) from None
    raise AssertionError(f"{words} went past its parser")


@contextmanager
def _stopped_parsers() -> Iterator[None]:
    original = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None) -> None:
        raise _ParsedError(original(self, args))

    with patch.object(argparse.ArgumentParser, "parse_args", stop):
        yield


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ObjectionError(otherwise)


def _require_known(names: Sequence[str], known: object, what: str) -> None:
    assert hasattr(known, "__contains__")
    strangers = [name for name in names if name not in known]
    _require(not strangers, f"no {what}: {', '.join(strangers)}")


def _require_files(names: Sequence[str]) -> None:
    absent = [name for name in names if not (ROOT / name).exists()]
    _require(not absent, f"no such file: {', '.join(absent)}")


def key_exists(key: str) -> bool:
    """Tell whether a dotted name is a key of the configuration; below a mapping of free names, anything is."""
    section: object = RunConfig
    for part in key.split("."):
        fields = getattr(section, "model_fields", None)
        if fields is None:
            return True
        if part not in fields:
            return False
        section = _section_of(fields[part].annotation)
    return True


def _section_of(annotation: object) -> object:
    """Return the section in an annotation: `LoraConfig | None` -> LoraConfig; a plain type is itself."""
    options = [option for option in getattr(annotation, "__args__", ()) if hasattr(option, "model_fields")]
    return options[0] if options else annotation
