"""A LLaMA in a Hugging Face directory: config.json, weights in one file or many, tokenizer files. It only reads.

config.json
model.safetensors, or model.safetensors.index.json and its parts      preferred
pytorch_model.bin, or pytorch_model.bin.index.json and its parts      plain tensors only, no other pickles
tokenizer.model, or tokenizer.json with tokenizer_config.json
"""

from pathlib import Path

from torch import Tensor

from wmtp_ray.artifacts.hf.layout import is_tied, meta_name, params_from_config, to_meta_rows
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT, PlainModel, require_forms
from wmtp_ray.artifacts.hf.tokenizer_files import files_of_tokenizer, find_tokenizer
from wmtp_ray.artifacts.meta_checkpoint import read_json, read_tensors
from wmtp_ray.artifacts.streamed_tensors import forms_of
from wmtp_ray.errors import ArtifactError

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def open_directory(directory: Path) -> PlainModel:
    """Describe the model of a directory; ArtifactError for what is missing, damaged or no plain LLaMA.

    All names and shapes are checked here; values stay in the memory-mapped files until they are read.
    """
    config = read_json(directory / CONFIG)
    args = params_from_config(config)
    tensors = meta_tensors(directory)
    if is_tied(config) and EMBEDDING in tensors:
        tensors[OUTPUT] = tensors[EMBEDDING]
    forms = forms_of(tensors)
    require_forms(directory, args, forms)
    tokenizer = find_tokenizer(directory)
    return PlainModel(
        args,
        forms,
        read=lambda name: to_meta_rows(name, tensors[name], args),
        tokenizer_files={} if tokenizer is None else files_of_tokenizer(tokenizer),
    )


def meta_tensors(directory: Path) -> dict[str, Tensor]:
    """Map the tensors of a directory's weights, under Meta's names, rows still in Hugging Face's order."""
    tensors: dict[str, Tensor] = {}
    for path in _weights_files(directory):
        for theirs, tensor in read_tensors(path).items():
            if (ours := meta_name(theirs)) is not None:
                tensors[ours] = tensor
    return tensors


def _weights_files(directory: Path) -> list[Path]:
    for name in WEIGHTS:
        if (directory / name).exists():
            return [directory / name]
        if (directory / f"{name}.index.json").exists():
            return _parts(directory / f"{name}.index.json")
    raise ArtifactError(f"{directory} holds neither {' nor '.join(WEIGHTS)}, whole or with an index; fetch the weights")


def _parts(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(f"{index} names no parts, expected a weight_map from tensors to files; fetch it again")
    parts = [index.parent / name for name in sorted(set(weight_map.values()))]
    if missing := [path.name for path in parts if not path.exists()]:
        raise ArtifactError(f"{index} names {len(parts)} parts, but {missing[0]} is not beside it; fetch it")
    return parts
