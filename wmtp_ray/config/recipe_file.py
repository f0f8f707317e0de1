"""A resolved configuration as a recipe file: its differences from `configs/defaults.yaml`, ready for `recipe=FILE`."""

from pathlib import Path
from typing import Any

import yaml

from wmtp_ray.config.layers import CONFIG_DIR, merge, read_layer
from wmtp_ray.config.schema import RunConfig

_OF_THE_COMMAND = ("recipe", "preset", "run_name", "tags", "storage_root", "tracking")


def dump_recipe(config: RunConfig, comment: str, *, config_dir: Path = CONFIG_DIR) -> str:
    """Write the recipe that gives `config` without a preset, under `comment`.

    Names, tags, storage and tracking stay the command's, machine keys of a preset are written. A preset that is given
    with the recipe is applied after it.
    """
    raw = read_layer(config_dir / "defaults.yaml")
    storage = type(raw)("the run", {"storage_root": str(config.storage_root)})
    resolved, _ = merge([raw, storage])
    differences = _differing(config.model_dump(mode="json"), raw.values, resolved)
    kept = {key: value for key, value in differences.items() if key not in _OF_THE_COMMAND}
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump(kept, sort_keys=False, default_flow_style=None, width=120)


def _differing(values: dict[str, Any], raw: dict[str, Any], resolved: dict[str, Any]) -> dict[str, Any]:
    """Keep what is not as in the defaults; a mapping that stands for another key's (`${...}`) is one value."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(raw.get(key), dict):
            below = _differing(value, raw[key], resolved[key])
            kept |= {key: below} if below else {}
        elif key not in resolved or value != resolved[key]:
            kept[key] = value
    return kept
