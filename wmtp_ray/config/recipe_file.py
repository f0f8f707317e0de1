"""A resolved configuration as a recipe file: its differences from `configs/defaults.yaml`, ready for `recipe=FILE`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from wmtp_ray.config.layers import CONFIG_DIR, Key, Layer, merge, read_layer
from wmtp_ray.config.schema import RunConfig

_OF_THE_COMMAND = ("recipe", "preset", "run_name", "tags", "storage_root", "tracking")


def dump_recipe(config: RunConfig, comment: str, *, always: Sequence[str] = (), config_dir: Path = CONFIG_DIR) -> str:
    """Write the recipe that gives `config` without a preset, under `comment`; keys of `always` even at their default.

    Names, tags, storage and tracking stay the command's, and paths in the storage count from it; machine keys of a
    preset are written. A preset that is given with the recipe is applied after it.
    """
    raw = read_layer(config_dir / "defaults.yaml").values
    resolved, _ = merge([Layer("defaults", raw), Layer("run", {"storage_root": str(config.storage_root)})])
    named: set[Key] = {tuple(key.split(".")) for key in always}
    differences = _differing(config.model_dump(mode="json"), raw, resolved, named, ())
    kept = {key: value for key, value in differences.items() if key not in _OF_THE_COMMAND}
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(_in_storage(kept, f"{config.storage_root}/"), sort_keys=False, width=120)


def _differing(
    values: dict[str, Any], raw: dict[str, Any], resolved: dict[str, Any], named: set[Key], above: Key
) -> dict[str, Any]:
    """Keep values that differ from the defaults; a mapping that stands for another key's (`${...}`) is one value."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        key = (*above, name)
        if isinstance(value, dict) and isinstance(raw.get(name), dict):
            below = _differing(value, raw[name], resolved[name], named, key)
            kept |= {name: below} if below else {}
        elif name not in resolved or value != resolved[name] or key in named:
            kept[name] = value
    return kept


def _in_storage(value: Any, storage: str) -> Any:
    """/data/storage/models_v2/x -> ${storage_root}/models_v2/x."""
    if isinstance(value, dict):
        return {key: _in_storage(below, storage) for key, below in value.items()}
    if isinstance(value, list):
        return [_in_storage(below, storage) for below in value]
    is_inside = isinstance(value, str) and value.startswith(storage)
    return f"${{storage_root}}/{value.removeprefix(storage)}" if is_inside else value
