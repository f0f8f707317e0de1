"""Check that the files exist that a run will open. Other modules read them."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wmtp_ray.config.earlier_names import earlier_names_in
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.model_folder import ModelFolder


@dataclass(frozen=True)
class NeededFile:
    """A path that the run will open; any one of `any_of` will do. `remedy` says where it comes from."""

    key: str
    any_of: tuple[Path, ...]
    remedy: str


def check_files(config: RunConfig) -> None:
    """Raise one ConfigError naming every missing path that the configured stages and arm need."""
    missing = [needed for needed in _needed(config) if not any(path.exists() for path in needed.any_of)]
    if missing:
        head = "1 path that this run needs is missing" if len(missing) == 1 else f"{len(missing)} paths are missing"
        raise ConfigError(head + ":" + "".join(f"\n  {_described(needed)}" for needed in missing))


def earlier_names(config: RunConfig) -> list[str]:
    """List the paths of a configuration that have names of an earlier generation. They are read under those names."""
    paths = {
        "model.path": config.model.path,
        "tokenizer.path": config.tokenizer.path,
        "data.train_file": config.data.train_file,
        "data.valid_file": config.data.valid_file,
        "weighting.compared_file": config.weighting.compared_file,
        "reference.path": config.reference.path,
        "reference.tokenizer_path": config.reference.tokenizer_path,
        "reference.incorrect_path": config.reference.incorrect_path,
        "reference.incorrect_tokenizer_path": config.reference.incorrect_tokenizer_path,
        "critic.path": config.critic.path,
    }
    names = {key: earlier_names_in(path, config.storage_root) for key, path in paths.items() if path is not None}
    return [f"{key}: {paths[key]}, an earlier name: {', '.join(found)}" for key, found in names.items() if found]


def _needed(config: RunConfig) -> Iterator[NeededFile]:
    stages = set(config.stages)
    if stages:
        remedy = "point model.path at a directory in Meta's layout (params.json beside the weights)"
        yield from _model_directory("model.path", config.model.path, remedy)
        remedy = "set tokenizer.path=FILE (a SentencePiece tokenizer.model)"
        yield NeededFile("tokenizer.path", (config.tokenizer.path,), remedy)
    if config.rounds.collects:
        remedy = "set rounds.problems=FILE.jsonl (training problems with tests: docs/collect.md says which)"
        yield NeededFile("rounds.problems", (config.rounds.problems,), remedy)
    if stages & {1, 2} and config.rounds.reads_file:
        remedy = _how_to_get_small(config) or "set data.train_file=FILE.jsonl (one row a line, README.md says how)"
        yield NeededFile("data.train_file", (config.data.train_file,), remedy)
    if stages & {1, 2} and config.data.valid_file is not None:
        remedy = "set data.valid_file=FILE.jsonl, or null to hold out problems of data.train_file"
        remedy = _how_to_get_small(config) + "; or " + remedy if config.data.suffix else remedy
        yield NeededFile("data.valid_file", (config.data.valid_file,), remedy)
    if config.compared_file is not None:
        remedy = "set weighting.compared_file=FILE.jsonl, or null to compare with the rows of data.train_file"
        yield NeededFile("weighting.compared_file", (config.compared_file,), remedy)
    yield from _references(config)
    yield from _critic(config)


def _how_to_get_small(config: RunConfig) -> str:
    """Return the command that writes the files of a suffix; "" without a suffix."""
    if config.data.suffix is None:
        return ""
    return "scripts/setup_datasets.py writes the _small files of a data set; data.suffix=null reads the whole ones"


def _references(config: RunConfig) -> Iterator[NeededFile]:
    if not set(config.stages) & {0, 2}:
        return
    for each in config.references:
        remedy = f"point {each.prefix}path at a model with the policy's tokenizer"
        yield from _model_directory(f"{each.prefix}path", each.path, remedy)
        if each.tokenizer_path is not None:
            remedy = f"set {each.prefix}tokenizer_path=FILE, or null when it is the policy's own"
            yield NeededFile(f"{each.prefix}tokenizer_path", (each.tokenizer_path,), remedy)


def _critic(config: RunConfig) -> Iterator[NeededFile]:
    """The bundle that stage 1 continues from, or that stage 2 starts with."""
    is_read = 1 in config.stages or (2 in config.stages and config.uses_critic)
    if config.critic.path is not None and is_read:
        remedy = "set critic.path=DIR to a critic bundle, or null to train one with stage 1"
        yield NeededFile("critic.path", (config.critic.path,), remedy)


def _model_directory(key: str, directory: Path, remedy: str) -> Iterator[NeededFile]:
    """A directory in Meta's layout: named as a whole when absent, by what it lacks otherwise."""
    if not directory.is_dir():
        yield NeededFile(key, (directory,), remedy)
        return
    model = ModelFolder(directory)
    yield NeededFile(key, (model.params,), remedy)
    yield NeededFile(key, model.weights_choices, remedy)


def _described(needed: NeededFile) -> str:
    path = needed.any_of[0]
    names = " or ".join([str(path), *(other.name for other in needed.any_of[1:])])
    siblings = [sibling.name for sibling in path.parent.glob("*")] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.7)
    hint = f" ({nearest[0]} lies beside it)" if nearest else ""
    return f"{needed.key}: {names} does not exist{hint}; {needed.remedy}"
