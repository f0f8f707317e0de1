"""Horizon 1 of a multi-token model as a standard model of its family in transformers, for every engine that serves one.

The heads of the other horizons go beside it on request (`exported_heads`), the value head is not exported. Where
embedding and output matrix are the same bits, the matrix is written once and tied, as the model it came from had it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.config_file import config_from_params
from wmtp_ray.artifacts.hf.export_tokenizer import exported_tokenizer
from wmtp_ray.artifacts.hf.exported_heads import require_heads, write_heads
from wmtp_ray.artifacts.hf.layout import block_names, hf_name, to_hf_rows
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT
from wmtp_ray.artifacts.hf.tokenizer_files import as_json, require_row_for_each_id, write_tokenizer
from wmtp_ray.artifacts.streamed_tensors import TensorForm, write_streamed
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import HfFolder

UNSTATED_POSITIONS = 4096  # the context of Meta's multi-token models, whose params.json does not state it


def export_model(
    args: ModelSpec,
    tensors: Mapping[str, Tensor],
    tokenizer_path: Path,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    with_heads: bool = False,
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files to `out`, all or none.

    `tensors` bear Meta's names; `dtype` None keeps each tensor's own; `with_heads` adds the other horizons' heads.
    ArtifactError for an `out` that exists, for a tokenizer with more ids than the model has rows, and with heads for a
    model that has none.
    """
    if out.exists():
        raise ArtifactError(f"{out} exists already; give a directory that does not")
    if with_heads:
        require_heads(args)
    tokenizer = CodeTokenizer(tokenizer_path)
    require_row_for_each_id(tokenizer, args)
    tied = torch.equal(tensors[EMBEDDING], tensors[OUTPUT])
    kept, names = [name for name in tensors if not (tied and name == OUTPUT)], block_names(args)
    ours = {theirs: name for name in kept if (theirs := hf_name(name, names)) is not None}
    forms = {
        theirs: TensorForm(dtype or tensors[name].dtype, tuple(tensors[name].shape)) for theirs, name in ours.items()
    }
    config = config_from_params(args, tied=tied, max_positions=args.max_seq_len or UNSTATED_POSITIONS)
    others = sorted(tokenizer.end_ids - {tokenizer.eos_id})
    ends: dict[str, object] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.eos_id, *others] if others else tokenizer.eos_id,
    }
    with atomic_directory(out) as temporary:
        stored = str(forms["model.embed_tokens.weight"].dtype).removeprefix("torch.")
        folder = HfFolder(temporary)
        folder.config.write_bytes(as_json(config | ends | {"torch_dtype": stored}))
        write_tokenizer(folder.tokenizer, exported_tokenizer(tokenizer))
        folder.tokenizer.generation_config.write_bytes(as_json(ends))
        write_streamed(folder.weights, forms, lambda theirs: to_hf_rows(ours[theirs], tensors[ours[theirs]], args))
        if with_heads:
            write_heads(args, tensors, forms, folder, dtype=dtype)
