"""Layers of a configuration: the YAML files under `configs/`, the words `key=value`, and their deep merge.

Later layers win key by key; a list replaces a list. Interpolations (`${storage_root}`) are resolved after the merge,
so that an override of `storage_root` moves everything below it; text of the command line is taken whole and refers to
nothing, but for a path that begins with `${storage_root}/`. Which keys are allowed is `wmtp_ray.config.explain`'s part,
what a text means `schema_nodes`'s.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmtp_ray.config.schema_nodes import Plain, Schema, run_schema
from wmtp_ray.config.schema_nodes import is_path as takes_path
from wmtp_ray.config.yaml_texts import load_texts
from wmtp_ray.errors import ConfigError

_PACKAGED, _CHECKOUT = (Path(__file__).resolve().parents[up] / "configs" for up in (1, 2))
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT  # a wheel carries configs/ inside the package
COMMAND_LINE = "the command line"
UNSET = "???"
RAW_TEXT_KEYS = ("recipe", "preset", "run_name")

Key = tuple[str | int, ...]
IN_STORAGE = "${storage_root}/"  # the one reference that a path of the command line may begin with
_MARK = "\ue000"  # of Unicode's private use: stands in no value of a user


class Whole(str):
    """A text of the command line in which `${` stands for itself."""

    __slots__ = ()


@dataclass(frozen=True)
class Layer:
    """Values from one place, as nested mappings; `source` names it in messages."""

    source: str
    values: dict[str, Any]


def config_dirs(own: Path | None, packaged: Path = CONFIG_DIR) -> tuple[Path, ...]:
    """Return where layers are looked for: in the user's directory (`--config-dir`), then in the packaged one.

    ConfigError where `own` is no directory.
    """
    if own is None:
        return (packaged,)
    if not own.is_dir():
        raise ConfigError(f"--config-dir {own}: there is no such directory; expected one that holds your YAML files")
    return (own, packaged)


def layer_names(kind: str, dirs: Sequence[Path]) -> list[str]:
    """List the NAMEs for which `<kind>.NAME.yaml` exists; kind is "recipe", "preset" or "sweep"."""
    files = {path.name for folder in dirs for path in folder.glob(f"{kind}.*.yaml")}
    return sorted(name.split(".", 1)[1].removesuffix(".yaml") for name in files)


def default_layers(name: str, dirs: Sequence[Path], schema: Schema | None = None) -> list[Layer]:
    """Read the packaged defaults and, to be merged over them, those of one's own, which need not give every key."""
    *own, packaged = dirs
    present = [folder for folder in own if (folder / name).is_file()]
    return [read_layer(folder / name, schema) for folder in (packaged, *present)]


def named_layer(kind: str, name: str, dirs: Sequence[Path], schema: Schema | None = None) -> Layer:
    """Read `<kind>.<name>.yaml` of the first directory that has it, or the file itself where `name` is a path.

    ConfigError that lists what exists when there is none.
    """
    if is_path(name):
        return read_layer(Path(name).expanduser(), schema)
    file = next((path for folder in dirs if (path := folder / f"{kind}.{name}.yaml").is_file()), None)
    if file is None:
        names = layer_names(kind, dirs)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {kind}={nearest[0]}?" if nearest else ""
        raise ConfigError(
            f"{kind}={name}: there is no {kind} of that name; expected one of: {', '.join(names) or '(none)'}, "
            f"the {kind}.NAME.yaml files of {' and '.join(map(str, dirs))}.{hint}"
        )
    return read_layer(file, schema)


def is_path(name: str) -> bool:
    """Whether a layer is given by its path, which ends in .yaml, and not by its NAME."""
    return name.endswith(".yaml")


def short_name(kind: str, name: str) -> str:
    """Return the NAME of a layer: runs/my_sweep/recipe.best.yaml -> best; verifiable -> verifiable."""
    return Path(name).name.removeprefix(f"{kind}.").removesuffix(".yaml") if is_path(name) else name


def read_layer(path: Path, schema: Schema | None = None) -> Layer:
    """Read a YAML file of nested keys, each value by its type in `schema` (the run's); no key may be given twice."""
    try:
        values = load_texts(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not path.name.endswith("defaults.yaml"):
            raise ConfigError(f"{path} does not exist; expected a file of `key: value` lines") from None
        raise ConfigError(
            f"{path} does not exist; expected the configs/ folder, which a checkout holds beside the package wmtp_ray "
            "and a wheel inside it: install again, from a checkout with `pip install -e .`"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML that can be read: {one_line(error)}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} holds a {type(values).__name__}, expected `key: value` lines")
    return Layer(path.name, _typed(values or {}, schema, of_file=True))


def override_layer(word: str, schema: Schema | None = None) -> Layer:
    """Turn one `key=value` word into a layer; the value is read by the type of its key in `schema` (the run's).

    `train.max_steps=3` -> {"train": {"max_steps": 3}}; `stages=[0,2]` -> {"stages": [0, 2]}; text, paths, names and
    tags are taken whole: `storage_root=/x/st #2`, `run_name=2024`, `tags.ticket=17`.
    """
    key, _, text = word.partition("=")
    is_raw = key in RAW_TEXT_KEYS or key.startswith("tags.")
    value: Any = whole(text) if is_raw else _value(key, text, schema or run_schema())
    for part in reversed(key.split(".", 1) if key.startswith("tags.") else key.split(".")):
        value = {part: value}
    return Layer(COMMAND_LINE, _typed(value, schema, of_file=False))


def whole(text: str) -> str:
    """Return a text of the command line that refers to nothing, whatever is in it."""
    return Whole(text) if "${" in text else text


def merge(layers: Sequence[Layer]) -> tuple[dict[str, Any], dict[Key, str]]:
    """Merge layers, later ones winning, and resolve interpolations.

    Returns the values and the problems found by key; a value with a problem is left as UNSET.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values = _merged(values, layer.values)
    whole: list[str] = []
    merged = OmegaConf.create(_without_whole(values, whole))
    problems: dict[Key, str] = {}
    _resolve(merged, (), problems)
    resolved: dict[str, Any] = _with_whole(_plain(merged), whole)
    return resolved, problems


def source_of(key: Key, layers: Sequence[Layer]) -> str | None:
    """Name the layer that set `key` last; None for a section, which several may have set, and where no layer did."""
    return next((layer.source for layer in reversed(layers) if _sets(layer.values, key)), None)


def one_line(error: Exception) -> str:
    """Join the lines of a library's message; what it says about its own internals is left out."""
    internals = ("full_key:", "object_type=", 'in "<unicode string>"')
    return ", ".join(line.strip() for line in str(error).splitlines() if not line.strip().startswith(internals))


def _value(key: str, text: str, schema: Schema) -> Any:
    """A list or mapping where the key takes one and the text looks like it, else the text as it is."""
    node = schema.node_at(tuple(key.split(".")))
    types = schema.types(node)
    is_nested = text.lstrip().startswith(("[", "{")) and (not types or types & {"array", "object"})
    if not is_nested:
        in_storage = takes_path(node) and key != "storage_root" and text.startswith(IN_STORAGE)
        is_whole = "string" in types and "${" in (text.removeprefix(IN_STORAGE) if in_storage else text)
        return Whole(text) if is_whole else Plain(text)  # a number may refer to another
    try:
        return load_texts(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{key}={text}: the value is not YAML ({one_line(error)}); expected [a, b] or {{a: b}}; quote it for the "
            "shell"
        ) from None


def _typed(values: dict[str, Any], schema: Schema | None, *, of_file: bool) -> dict[str, Any]:
    schema = schema or run_schema()
    typed = schema.read(values, schema.root, of_file=of_file)
    assert isinstance(typed, dict)
    return typed


def _without_whole(values: Any, whole: list[str]) -> Any:
    """Put a mark in the place of each text in which `${` stands for itself; collect the texts."""
    if isinstance(values, dict):
        return {name: _without_whole(each, whole) for name, each in values.items()}
    if not isinstance(values, Whole):
        return values
    whole.append(str(values))
    return f"{_MARK}{len(whole) - 1}{_MARK}"


def _with_whole(values: Any, whole: Sequence[str]) -> Any:
    """Put the texts back, also into values that refer to them."""
    if isinstance(values, dict):
        return {name: _with_whole(each, whole) for name, each in values.items()}
    if isinstance(values, list):
        return [_with_whole(each, whole) for each in values]
    if not isinstance(values, str) or _MARK not in values:
        return values
    parts = values.split(_MARK)
    return "".join(whole[int(part)] if index % 2 else part for index, part in enumerate(parts))


def _merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Deep merge of two mappings; anything but a mapping on both sides is replaced."""
    result = dict(lower)
    for key, value in upper.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _resolve(node: Any, key: Key, problems: dict[Key, str]) -> None:
    """Replace every interpolation below `node` by its value, in place."""
    if not OmegaConf.is_config(node):
        return
    names = range(len(node)) if OmegaConf.is_list(node) else list(node.keys())
    for name in names:
        if OmegaConf.is_missing(node, name):
            continue
        try:
            value = node[name]
        except OmegaConfBaseException as error:
            raw: Any = OmegaConf.to_container(node, resolve=False)
            problems[(*key, name)] = f"found {raw[name]!r}, which cannot be resolved: {one_line(error)}"
            node[name] = UNSET
            continue
        if OmegaConf.is_interpolation(node, name):
            node[name] = value
        _resolve(value, (*key, name), problems)


def _plain(node: Any) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    return values


def _sets(values: Any, key: Key) -> bool:
    """Whether a layer gives `key` a value; a list counts as one value, since layers replace lists whole."""
    for part in key:
        if isinstance(values, list):
            return True
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return not isinstance(values, dict)
