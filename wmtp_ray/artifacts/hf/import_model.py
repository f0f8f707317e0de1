"""Convert a model of one horizon (`families.py`) to a multi-token model directory in Meta's layout, tensor by tensor.

The lower blocks become the trunk, the last one the head of horizon 1, and the heads of the other horizons copies of it:
every horizon starts as the pretrained model's guess at the next token, and horizon 1 gives its logits unchanged. Heads
that a directory holds itself (`exported_heads`) are taken as they are.

    a LLaMA of 30 blocks, num_horizons = 4
    layers.0 .. layers.28  |  layers.29  extra_heads.0  extra_heads.1  extra_heads.2
    trunk: blocks 0 .. 28  |  block 29   block 29       block 29       block 29
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wmtp_ray.artifacts.hf.directory import open_directory
from wmtp_ray.artifacts.hf.gguf_file import open_gguf
from wmtp_ray.artifacts.hf.plain_model import PlainModel
from wmtp_ray.artifacts.hf.tokenizer_files import find_tokenizer, require_row_for_each_id, write_tokenizer
from wmtp_ray.artifacts.meta_checkpoint import write_params
from wmtp_ray.artifacts.model_directory import narrowed
from wmtp_ray.artifacts.streamed_tensors import TensorForm, write_streamed
from wmtp_ray.data.file_kind import (
    GGUF,
    HEAD_BYTES,
    JSON,
    PICKLE,
    SAFETENSORS,
    ZIP,
    found_instead,
    kind_of,
    remedy_for,
)
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import HF_CONFIG, HF_HEADS, ModelFolder

DEFAULT_HORIZONS = 4
_WEIGHTS_ALONE = (SAFETENSORS, ZIP, PICKLE, JSON)  # parts of a Hugging Face directory


@dataclass(frozen=True)
class ImportedModel:
    """What was written: the multi-token model's shape, the dtypes of its tensors and its tokenizer, if it has one.

    `notes` are sentences for the user (see `PlainModel`).
    """

    args: ModelSpec
    num_parameters: int
    dtypes: tuple[str, ...]
    tokenizer: Path | None
    notes: tuple[str, ...] = ()

    def render(self) -> str:
        """Describe the import in one line, then each note in a line of its own."""
        args = self.args
        facts = (
            f"{args.family}: {self.num_parameters:,} parameters in {', '.join(self.dtypes)}; "
            f"{args.num_trunk_blocks} trunk blocks, {args.n_future_tokens} heads, {args.vocab_size:,} tokens; "
            f"tokenizer: {self.tokenizer or 'none found'}"
        )
        return "\n".join([facts, *(f"note: {note}" for note in self.notes)])


def import_model(
    source: Path, out: Path, *, num_horizons: int | None = None, dtype: torch.dtype | None = None
) -> ImportedModel:
    """Write the model of a Hugging Face directory or a GGUF file to `out`; `dtype` None keeps each tensor's own.

    `num_horizons` None: as many as the source has heads for, or 4 where it has none. Fewer leave out the farthest, more
    are copies of the last block.

    `out` gets params.json, model.safetensors and the tokenizer's files, all or none. ArtifactError for a source that
    Meta's layout cannot express (see `layout.params_from_config`), a tokenizer with more ids than the model has rows,
    and an `out` that exists.
    """
    if out.exists():
        raise ArtifactError(f"{out} exists already; give a directory that does not")
    if num_horizons is not None and num_horizons < 1:
        raise ArtifactError(f"found {num_horizons} heads, expected at least 1, the head of the next token")
    model = open_model(source)
    if num_horizons is None:
        num_horizons = model.num_heads + 1 if model.heads else DEFAULT_HORIZONS
    origins = _origins(model, num_horizons)
    found = {**model.forms, **model.heads}
    forms = {name: _converted(found[origin], dtype) for name, origin in origins.items()}
    args = with_horizons(model.args, num_horizons)
    with atomic_directory(out) as temporary:
        folder = ModelFolder(temporary)
        write_tokenizer(folder.tokenizer, model.tokenizer_files)
        tokenizer = _require_fitting_tokenizer(folder, args, source)
        write_params(temporary, args)
        write_streamed(
            folder.weights,
            forms,
            lambda name: narrowed(name, model.read(origins[name]), forms[name].dtype),
        )
    return ImportedModel(
        args,
        num_parameters=sum(torch.Size(form.shape).numel() for form in forms.values()),
        dtypes=tuple(sorted({str(form.dtype).removeprefix("torch.") for form in forms.values()})),
        tokenizer=None if tokenizer is None else out / tokenizer,
        notes=(*model.notes, *_told_of_heads(model.num_heads, num_horizons - 1)),
    )


def _told_of_heads(found: int, wanted: int) -> list[str]:
    """Return what became of the heads that the source holds, and of those that it lacks."""
    if not found:
        return []
    kept = f"{min(found, wanted)} of {found} heads behind horizon 1 were read from {HF_HEADS}"
    return [f"{kept}; {wanted - found} more start as copies of the last block" if wanted > found else kept]


def with_horizons(args: ModelSpec, num_horizons: int) -> ModelSpec:
    """Describe a model of one horizon with the heads of further ones, each a copy of its last block."""
    last, num_blocks = args.n_layers - 1, args.n_layers + num_horizons - 1
    copies = tuple(range(args.n_layers, num_blocks)) if last in args.blocks_without_rope else ()
    return replace(
        args,
        n_layers=num_blocks,
        n_future_tokens=num_horizons,
        blocks_without_rope=args.blocks_without_rope + copies,
    )


def open_model(source: Path) -> PlainModel:
    """Describe the model at `source`, a directory or a .gguf file."""
    if source.is_dir():
        return open_directory(source)
    expected = f"expected a Hugging Face directory ({HF_CONFIG}) or a .gguf file"
    if not source.exists():
        raise ArtifactError(f"{source}: found nothing there, {expected}; check the path")
    with source.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if kind_of(head) is GGUF:
        return open_gguf(source)
    num_bytes = source.stat().st_size
    remedy = f"give the directory that it lies in: {source.parent}" if kind_of(head) in _WEIGHTS_ALONE else None
    raise ArtifactError(
        f"{source}: found {found_instead(head, num_bytes)}, no model, {expected}; "
        f"{remedy or remedy_for(head, 'fetch it again from where it was published, or give another file')}"
    )


def _origins(model: PlainModel, num_horizons: int) -> dict[str, str]:
    """Name, for each tensor of the multi-token model, the source's tensor that it is a copy of."""
    last_block = f"layers.{model.args.n_layers - 1}."
    in_last_block = [name for name in model.forms if name.startswith(last_block)]
    copies = {
        f"extra_heads.{head}.{name.removeprefix(last_block)}": name
        for head in range(model.num_heads, num_horizons - 1)
        for name in in_last_block
    }
    kept = {name: name for name in model.heads if int(name.split(".")[1]) < num_horizons - 1}
    return {name: name for name in model.forms} | kept | copies


def _converted(form: TensorForm, dtype: torch.dtype | None) -> TensorForm:
    return form if dtype is None else replace(form, dtype=dtype)


def _require_fitting_tokenizer(folder: ModelFolder, args: ModelSpec, source: Path) -> str | None:
    """Return the name of the tokenizer that was written, None where there is none; messages name the source."""
    path = find_tokenizer(folder.tokenizer)
    if path is None:
        return None
    try:
        require_row_for_each_id(CodeTokenizer(path), args)
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(folder.path), str(source))) from error
    return folder.name_of(path)
