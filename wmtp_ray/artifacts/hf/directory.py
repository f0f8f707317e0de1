"""A model in a Hugging Face directory: config.json, weights in one file or many, tokenizer files. It only reads.

config.json
model.safetensors, or model.safetensors.index.json and its parts      preferred
pytorch_model.bin, or pytorch_model.bin.index.json and its parts      plain tensors only, no other pickles
tokenizer.model, or tokenizer.json with tokenizer_config.json
mtp_heads.safetensors and mtp_heads.json                              heads of an export of ours (`exported_heads`)

Names of tensors may carry the prefix of a wrapper around the model (`tensor_names`). Where the file has an output
matrix of its own, that is the output matrix, whatever `tie_word_embeddings` says, as in transformers 5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.config_file import architecture_of, is_tied, native_heads, params_from_config
from wmtp_ray.artifacts.hf.exported_heads import read_heads
from wmtp_ray.artifacts.hf.layout import block_names, meta_name, to_meta_rows
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT, PlainModel, require_forms
from wmtp_ray.artifacts.hf.tensor_names import without_native_heads, without_wrappers
from wmtp_ray.artifacts.hf.tokenizer_files import imported_tokenizer
from wmtp_ray.artifacts.meta_checkpoint import read_tensors
from wmtp_ray.artifacts.streamed_tensors import forms_of
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.json_object import read_json
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import HF_ADAPTER_CONFIG, HF_CONFIG, HF_WEIGHTS, PARAMS, HfFolder, ModelFolder


def open_directory(directory: Path) -> PlainModel:
    """Describe the model of a directory; ArtifactError for what is missing, damaged or of no known family.

    All names and shapes are checked here; values stay in the memory-mapped files until they are read.
    """
    _require_model(directory)
    config = read_json(HfFolder(directory).config)
    args = params_from_config(config)
    tensors, notes = meta_tensors(directory, args, native_heads(config))
    notes += _complete_output(tensors, config, directory)
    forms = forms_of(tensors)
    require_forms(directory, args, forms)
    heads, read_head = read_heads(directory, args, forms)
    tokenizer_files, told = imported_tokenizer(directory, config)
    return PlainModel(
        args,
        forms,
        read=lambda name: read_head(name) if name in heads else to_meta_rows(name, tensors[name], args),
        tokenizer_files=tokenizer_files,
        notes=(*notes, *told),
        heads=heads,
    )


def meta_tensors(directory: Path, args: ModelSpec, announced: Mapping[str, int]) -> tuple[dict[str, Tensor], list[str]]:
    """Map the tensors of a directory's weights, under Meta's names, rows still in Hugging Face's order.

    Beside them, what the user should know about their names. `announced` as in `without_native_heads`.
    """
    named, told = without_wrappers(_stored_tensors(directory), directory)
    named, left_out = without_native_heads(named, announced, args.n_layers)
    notes = told + left_out
    names, architecture = block_names(args), architecture_of(args)
    ours = {theirs: meta_name(theirs, names, architecture) for theirs in named}
    tensors = {name: named[theirs] for theirs, name in ours.items() if name is not None}
    return tensors, notes


def _require_model(directory: Path) -> None:
    """Refuse a directory that is no Hugging Face model and name what it holds: an adapter, Meta's layout, GGUF."""
    if HfFolder(directory).config.exists():
        return
    ggufs = sorted(directory.glob("*.gguf"))
    if HfFolder(directory).adapter_config.exists():
        raise ArtifactError(
            f"{directory}: found an adapter ({HF_ADAPTER_CONFIG}) without the model that it belongs to, expected a "
            "whole model; merge it into its base (peft: model.merge_and_unload().save_pretrained(DIR)) and import that"
        )
    if ModelFolder(directory).params.exists():
        raise ArtifactError(
            f"{directory}: found a model in Meta's layout ({PARAMS}), expected Hugging Face's ({HF_CONFIG}); convert "
            f"it with python scripts/setup_models.py policy --source {directory}"
        )
    if ggufs:
        raise ArtifactError(f"{directory}: found no {HF_CONFIG}, but {ggufs[0].name}; give the file: {ggufs[0]}")


def _merged(parts: Mapping[Path, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the tensors of parts; ArtifactError for a name that two parts give different values."""
    tensors: dict[str, Tensor] = {}
    for path, part in parts.items():
        for name, tensor in part.items():
            if name in tensors and not torch.equal(tensors[name], tensor):
                raise ArtifactError(
                    f"{path} holds another {name} than a part before it, expected each tensor once; the parts are of "
                    "different models: fetch all parts of one"
                )
            tensors[name] = tensor
    return tensors


def _complete_output(tensors: dict[str, Tensor], config: Mapping[str, Any], directory: Path) -> list[str]:
    """Add the embedding or the output matrix that a file of tied weights omits; return a note for the user.

    ArtifactError where config.json says that there are two.
    """
    tied, there = is_tied(config), [name for name in (EMBEDDING, OUTPUT) if name in tensors]
    if len(there) == 1 and not tied:
        missing = "lm_head.weight" if there == [EMBEDDING] else "model.embed_tokens.weight"
        raise ArtifactError(
            f"{directory}: found no {missing} in the weights, expected it because {HF_CONFIG} does not tie embedding "
            f'and output matrix; fetch all parts of the weights, or write "tie_word_embeddings": true into {HF_CONFIG} '
            "if the model was trained so"
        )
    if len(there) == 1:
        tensors[OUTPUT if there == [EMBEDDING] else EMBEDDING] = tensors[there[0]]
    if len(there) == 2 and tied and not torch.equal(tensors[EMBEDDING], tensors[OUTPUT]):
        return [
            f"{HF_CONFIG} ties the output matrix to the embedding, but the weights hold a lm_head.weight that differs: "
            "it was kept, as transformers 5 does"
        ]
    return []


def _stored_tensors(directory: Path) -> dict[str, Tensor]:
    """Map all tensors of the weights: of the whole file, else of the parts that an index names."""
    for whole, index in HfFolder(directory).weights_choices():
        if whole.exists():
            return read_tensors(whole)
        if index.exists():
            places = _places(index)
            parts = {path: read_tensors(path) for path in sorted(set(places.values()))}
            _require_places(index, places, parts)
            return _merged(parts)
    others = [path.name for pattern in ("*.safetensors", "*.bin", "*.pth") for path in sorted(directory.glob(pattern))]
    found = f"; found {', '.join(others[:3])}, which has no index or another name" if others else ""
    raise ArtifactError(
        f"{directory} holds neither {' nor '.join(HF_WEIGHTS)}, whole or with an index{found}; fetch the weights"
    )


def _places(index: Path) -> dict[str, Path]:
    """Return the file of each tensor; ArtifactError for an index without any, and for files that are not there."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ArtifactError(
            f"{index} names no parts, expected a weight_map from tensors to files; fetch the index that was published "
            "with the parts"
        )
    if odd := [part for part in weight_map.values() if not isinstance(part, str) or Path(part).name != part]:
        raise ArtifactError(
            f"{index} names {odd[0]!r} as a part, expected the name of a file beside it; fetch the index that was "
            "published with the parts"
        )
    parts = sorted(set(weight_map.values()))
    if missing := [part for part in parts if not (index.parent / part).exists()]:
        raise ArtifactError(
            f"{index} names {len(parts)} parts, but {', '.join(missing[:3])} "
            f"{'is' if len(missing) == 1 else 'are'} not beside it; fetch what is missing"
        )
    return {name: index.parent / part for name, part in weight_map.items()}


def _require_places(index: Path, places: Mapping[str, Path], parts: Mapping[Path, Mapping[str, Tensor]]) -> None:
    """Require that every tensor is in the part that the index names: else index and parts are of two models."""
    elsewhere = [name for name, path in places.items() if name not in parts[path]]
    if not elsewhere:
        return
    name = elsewhere[0]
    holder = next((path.name for path, part in parts.items() if name in part), "no part")
    raise ArtifactError(
        f"{index} places {len(elsewhere)} of {len(places)} tensors in another part than the one that holds them: "
        f"found {name} in {holder}, expected it in {places[name].name}; fetch index and parts of one model"
    )
