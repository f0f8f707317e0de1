"""From a command line to a RunConfig: defaults <- recipe <- preset <- overrides, merged, resolved and validated.

Every mistake of the user is reported at once, in one ConfigError. Imports neither torch, ray nor mlflow, so that a
bad configuration is refused in well under a second. Does not look at the files a run needs: `check_files` does.
"""

import functools
import operator
import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from wmtp_ray.config.arguments import Arguments, parse_arguments
from wmtp_ray.config.dataset_suffix import FILE_KEYS, with_suffix
from wmtp_ray.config.earlier_names import existing_path
from wmtp_ray.config.explain import (
    explain_errors,
    explain_unset,
    misplaced_booleans,
    one_message,
    path_keys,
    unset_keys,
)
from wmtp_ray.config.files import check_files, earlier_names
from wmtp_ray.config.layers import (
    COMMAND_LINE,
    CONFIG_DIR,
    UNSET,
    Key,
    Layer,
    config_dirs,
    default_layers,
    merge,
    named_layer,
    override_layer,
    read_layer,
    short_name,
    source_of,
    whole,
)
from wmtp_ray.config.schema import SUFFIX, RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.run_folder import runs_of

__all__ = [
    "CONFIG_DIR",
    "Arguments",
    "check_files",
    "dump_config",
    "earlier_names",
    "load_config",
    "load_resolved",
    "parse_arguments",
]


def load_config(arguments: Arguments, *, config_dir: Path = CONFIG_DIR, now: datetime) -> RunConfig:
    """Resolve the configuration of a run; `now` dates its name when none was given.

    Files of `arguments.config_dir` come before those of `config_dir`. Relative paths count from the current directory.
    Raises one ConfigError listing every problem.
    """
    layers, unreadable = _layers(arguments, config_dirs(arguments.config_dir, config_dir), now)
    values, unresolved = merge(layers)
    problems = unresolved if unreadable else {key: explain_unset(key) for key in unset_keys(values)} | unresolved
    _make_paths_absolute(values, Path.cwd())
    config, errors = _validate(values)
    unset = set(unset_keys(values))
    problems |= {key: text for key, text in errors if key not in unset}
    if unreadable or problems or config is None:
        every_problem = [((), text) for text in unreadable] + list(problems.items())
        raise ConfigError(one_message(every_problem, lambda key: source_of(key, layers)))
    if arguments.resume and arguments.run_name is None:
        raise ConfigError(_resume_needs_a_name(config))
    return config


def dump_config(config: RunConfig) -> str:
    """Write a configuration as YAML that `load_resolved` reads back equal; keys in the schema's order."""
    return yaml.dump(
        config.model_dump(mode="json"), Dumper=_ShortListsInline, sort_keys=False, default_flow_style=False
    )


def load_resolved(path: Path) -> RunConfig:
    """Read a `config.yaml` that `dump_config` wrote; ConfigError when it is missing or does not fit the schema.

    A key that is younger than the file has its default.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected the config.yaml of a run, check run_name") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not the YAML that a run saves ({type(error).__name__}); restore it") from None
    defaults, _ = merge([read_layer(CONFIG_DIR / "defaults.yaml")])
    config, errors = _validate(_completed(values if isinstance(values, dict) else {}, defaults))
    if config is None:
        raise ConfigError(f"{path}: " + one_message(errors, lambda key: None))
    return config


def _completed(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return saved values with the defaults of the keys that they lack; what was saved is not interpreted again."""
    missing = {key: value for key, value in defaults.items() if key not in values and value != UNSET}
    both = {
        key: _completed(value, defaults[key])
        for key, value in values.items()
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    }
    return values | both | missing


class _ShortListsInline(yaml.SafeDumper):
    """Writes a list of plain values on one line: `stages: [0, 1, 2]`."""


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    flow_style = not any(isinstance(item, dict | list) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow_style)


_ShortListsInline.add_representer(list, _represent_list)


def _layers(arguments: Arguments, dirs: Sequence[Path], now: datetime) -> tuple[list[Layer], list[str]]:
    """Read every layer in order; leave out and report those that cannot be read."""
    layers = default_layers("defaults.yaml", dirs)
    readers = [partial(named_layer, "recipe", arguments.recipe, dirs)]
    readers += [partial(named_layer, "preset", preset, dirs) for preset in _presets(arguments)]
    readers += [partial(_micro_model)] if arguments.use_micro_model else []
    readers += [partial(override_layer, word) for word in arguments.overrides]
    unreadable: list[str] = []
    for reader in readers:
        try:
            layers.append(reader())
        except ConfigError as error:
            unreadable.append(str(error))
    return [*layers, _names(arguments, now)], unreadable


def _presets(arguments: Arguments) -> list[str]:
    """Return the presets in the order in which they are applied."""
    return [] if arguments.preset is None else arguments.preset.split(",")


def _micro_model() -> Layer:
    models = Path("${storage_root}/models_v2")
    policy = ModelFolder(models / "micro-mtp", in_parts=True)  # a flat one is found by `existing_path`
    return Layer(
        COMMAND_LINE,
        {
            "model": {"path": str(policy.path)},
            "tokenizer": {"path": str(policy.tokenizer.model)},
            "reference": {"path": str(models / "micro-ref"), "tokenizer_path": None},
        },
    )


def _names(arguments: Arguments, now: datetime) -> Layer:
    recipe = short_name("recipe", arguments.recipe)
    preset = ",".join(short_name("preset", each) for each in _presets(arguments)) or None
    run_name = arguments.run_name or f"{recipe}-{now:%Y%m%d-%H%M%S}"
    tags = {name: whole(text) for name, text in arguments.tags.items()}
    names = {"recipe": recipe, "preset": preset, "run_name": run_name, "tags": tags}
    return Layer(COMMAND_LINE, names)


def _validate(values: dict[str, Any]) -> tuple[RunConfig | None, list[tuple[Key, str]]]:
    """Validate merged values; return the configuration, or None and the errors."""
    booleans = misplaced_booleans(values)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        return None, [*booleans.items(), *explain_errors(error)]
    return (None, list(booleans.items())) if booleans else (config, [])


def _make_paths_absolute(values: dict[str, Any], base: Path) -> None:
    """Turn every path of `values` into an absolute one, in place, and find storage of an earlier generation."""
    storage_root = base / Path(str(values.get("storage_root"))).expanduser()
    data = values.get("data")
    suffix = str(data.get("suffix") or "") if isinstance(data, dict) else ""
    suffix = suffix if re.fullmatch(SUFFIX, suffix) else ""  # any other is refused by the schema
    for key in path_keys(values):
        section: Any = functools.reduce(operator.getitem, key[:-1], values)  # type: ignore[arg-type]
        path = base / Path(section[key[-1]]).expanduser()
        if suffix and key in FILE_KEYS:
            path = with_suffix(path, suffix, storage_root)
        section[key[-1]] = str(existing_path(path, storage_root))


def _resume_needs_a_name(config: RunConfig) -> str:
    runs = sorted(path.name for path in runs_of(config.storage_root).glob("*") if path.is_dir())
    found = f"{runs_of(config.storage_root)} holds: {', '.join(runs)}" if runs else "no run has been saved yet"
    return f"--resume was given without the name of the run; expected run_name=NAME ({found})"
