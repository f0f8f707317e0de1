"""The prediction heads of an export for transformers: their files, written and read.

mtp_heads.safetensors            heads.<i>.<name in a decoder layer>, i = 0 for horizon 2; rows in Hugging Face's order
mtp_heads.json                   how many there are, and of which family
custom_generate/                 generate.py and what it requires: transformers runs it on request
README.md                        what a repository shows, tagged custom_generate as transformers asks
model.safetensors.index.json     places every tensor of the model in model.safetensors: an engine that otherwise reads
                                 all *.safetensors of a directory leaves the heads alone

`custom_generate/` beside this module holds the files that are copied. They import nothing from here.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.config_file import architecture_of
from wmtp_ray.artifacts.hf.layout import block_names, to_hf_rows, to_meta_rows
from wmtp_ray.artifacts.hf.tokenizer_files import as_json
from wmtp_ray.artifacts.meta_checkpoint import read_tensors, shape_differences
from wmtp_ray.artifacts.streamed_tensors import DTYPE_NAMES, TensorForm, forms_of, write_streamed
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.json_object import read_json
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import HF_CUSTOM_GENERATE, HF_HEADS, HF_HEADS_SPEC, MODEL_CARD, HfFolder

VERSION = 1
_SHIPPED = Path(__file__).parent / HF_CUSTOM_GENERATE
_OURS = re.compile(r"extra_heads\.(\d+)\.(.+)")


def require_heads(args: ModelSpec) -> None:
    """Refuse a model without heads above horizon 1, or with heads that are no layers like the one of horizon 1."""
    if args.n_future_tokens == 1:
        raise ArtifactError(
            "found a model of one horizon, expected heads of further ones for --with-heads; leave it out, or export a "
            "model that was imported or trained with heads"
        )
    first = args.num_trunk_blocks
    rotated = {block not in args.blocks_without_rope for block in range(first, args.n_layers)}
    if len(rotated) > 1:
        raise ArtifactError(
            "found heads with and without rotary positions, expected all as horizon 1's, since generate.py builds them "
            "as layers like the model's last one; leave --with-heads out"
        )


def write_heads(
    args: ModelSpec,
    tensors: Mapping[str, Tensor],
    forms: Mapping[str, TensorForm],
    folder: HfFolder,
    *,
    dtype: torch.dtype | None,
) -> None:
    """Write the heads' files into an export; `forms` are those of model.safetensors, by Hugging Face's names.

    `tensors` bear Meta's names; `dtype` None keeps each tensor's own.
    """
    theirs_by_ours = {ours: theirs for theirs, ours in block_names(args).items()}
    heads = {name: match for name in tensors if (match := _OURS.fullmatch(name))}
    ours = {f"heads.{match[1]}.{theirs_by_ours[match[2]]}": name for name, match in heads.items()}
    head_forms = {
        name: TensorForm(dtype or tensors[own].dtype, tuple(tensors[own].shape)) for name, own in ours.items()
    }
    write_streamed(folder.heads, head_forms, lambda name: to_hf_rows(ours[name], tensors[ours[name]], args))
    spec = {
        "version": VERSION,
        "num_heads": args.n_future_tokens - 1,
        "horizons": list(range(2, args.n_future_tokens + 1)),
        "model_type": args.family,
        "architecture": architecture_of(args),
        "weights": HF_HEADS,
    }
    folder.heads_spec.write_bytes(as_json(spec))
    total = sum(form.num_bytes for form in forms.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(sorted(forms), folder.weights.name)}
    folder.weights_index.write_bytes(as_json(index))
    _ship(folder)


def _ship(folder: HfFolder) -> None:
    folder.custom_generate.mkdir()
    for name in ("generate.py", "requirements.txt"):
        (folder.custom_generate / name).write_bytes((_SHIPPED / name).read_bytes())
    folder.model_card.write_bytes((_SHIPPED / MODEL_CARD).read_bytes())


def read_heads(
    directory: Path, args: ModelSpec, forms: Mapping[str, TensorForm]
) -> tuple[dict[str, TensorForm], Callable[[str], Tensor]]:
    """Describe the heads of a directory by Meta's names, and return what reads one with its rows in Meta's order.

    Nothing where there are none. `args` and `forms` describe the model of one horizon, by Meta's names. ArtifactError
    for files that contradict each other or the model.
    """
    folder = HfFolder(directory)
    if not folder.heads_spec.exists() and not folder.heads.exists():
        return {}, _none
    if not (folder.heads_spec.exists() and folder.heads.exists()):
        raise ArtifactError(
            f"{directory}: found one of {HF_HEADS} and {HF_HEADS_SPEC}, expected both; fetch both from where the model "
            "was exported, or remove the one to import the model without its heads"
        )
    last = f"layers.{args.n_layers - 1}."
    in_last = {name.removeprefix(last): form.shape for name, form in forms.items() if name.startswith(last)}
    theirs_by_ours = {ours: theirs for theirs, ours in block_names(args).items()}
    places = {
        f"extra_heads.{head}.{name}": f"heads.{head}.{theirs_by_ours[name]}"
        for head, name in itertools.product(range(_num_heads(folder, args)), in_last)
    }
    stored = read_tensors(folder.heads)
    _require_forms(folder, stored, {theirs: in_last[ours.split(".", 2)[2]] for ours, theirs in places.items()})
    found = {ours: forms_of(stored)[theirs] for ours, theirs in places.items()}
    return found, lambda name: to_meta_rows(name, stored[places[name]], args)


def _require_forms(folder: HfFolder, stored: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that are not exactly those of the heads, or that are quantised."""
    found = shape_differences({name: tuple(tensor.shape) for name, tensor in stored.items()}, expected)
    if odd := sorted(name for name, tensor in stored.items() if tensor.dtype not in DTYPE_NAMES):
        found = f"{odd[0]} is of {stored[odd[0]].dtype}"
    if found:
        raise ArtifactError(
            f"{folder.heads}: found tensors other than those of the heads that {HF_HEADS_SPEC} counts, expected layers "
            f"like the model's last: {found}. Give the files of one export"
        )


def _num_heads(folder: HfFolder, args: ModelSpec) -> int:
    spec = read_json(folder.heads_spec)
    version, num_heads, family = spec.get("version"), spec.get("num_heads"), spec.get("model_type")
    if version != VERSION or family != args.family or type(num_heads) is not int or num_heads < 1:
        raise ArtifactError(
            f"{folder.heads_spec}: found version {version!r}, {num_heads!r} heads of {family!r}, expected version "
            f"{VERSION} and at least one head of {args.family!r}; give the files of one export"
        )
    return num_heads


def _none(name: str) -> Tensor:
    raise KeyError(name)
