"""Horizon 1 of a multi-token model as a standard LlamaForCausalLM, for every engine that serves one.

The heads of the other horizons and the value head stay behind. Where embedding and output matrix are the same bits, the
matrix is written once and tied, as the model it came from had it.
"""

from collections.abc import Mapping
from pathlib import Path

import orjson
import torch
from torch import Tensor

from vendor.meta_llama.model import ModelArgs
from wmtp_ray.artifacts.hf.config_file import config_from_params
from wmtp_ray.artifacts.hf.directory import CONFIG
from wmtp_ray.artifacts.hf.layout import hf_name, to_hf_rows
from wmtp_ray.artifacts.hf.plain_model import EMBEDDING, OUTPUT
from wmtp_ray.artifacts.hf.sentencepiece_json import sentencepiece_as_json, sentencepiece_end_tokens
from wmtp_ray.artifacts.hf.tokenizer_files import (
    SENTENCEPIECE,
    TOKENIZER_JSON,
    files_of_tokenizer,
    require_row_for_each_id,
)
from wmtp_ray.artifacts.manifest import atomic_directory
from wmtp_ray.artifacts.meta_checkpoint import WEIGHTS
from wmtp_ray.artifacts.streamed_tensors import TensorForm, write_streamed
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.tokenizer_settings import SETTINGS
from wmtp_ray.errors import ArtifactError

UNSTATED_POSITIONS = 4096  # the context of Meta's multi-token models, whose params.json does not state it


def export_model(
    args: ModelArgs, tensors: Mapping[str, Tensor], tokenizer_path: Path, out: Path, *, dtype: torch.dtype | None = None
) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files to `out`, all or none.

    `tensors` bear Meta's names; `dtype` None keeps each tensor's own. ArtifactError for an `out` that exists, and for a
    tokenizer with more ids than the model has rows.
    """
    if out.exists():
        raise ArtifactError(f"{out} exists already; give a directory that does not")
    tokenizer = CodeTokenizer(tokenizer_path)
    require_row_for_each_id(tokenizer, args)
    tied = torch.equal(tensors[EMBEDDING], tensors[OUTPUT])
    ours = {theirs: name for name in tensors if (theirs := hf_name(name)) is not None and not (tied and name == OUTPUT)}
    forms = {
        theirs: TensorForm(dtype or tensors[name].dtype, tuple(tensors[name].shape)) for theirs, name in ours.items()
    }
    config = config_from_params(args, tied=tied, max_positions=args.max_seq_len or UNSTATED_POSITIONS)
    ends: dict[str, object] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    with atomic_directory(out) as temporary:
        stored = str(forms["model.embed_tokens.weight"].dtype).removeprefix("torch.")
        (temporary / CONFIG).write_bytes(_json(config | ends | {"torch_dtype": stored}))
        (temporary / "generation_config.json").write_bytes(_json(ends))
        for name, content in _tokenizer_files(tokenizer).items():
            (temporary / name).write_bytes(content)
        write_streamed(temporary / WEIGHTS, forms, lambda theirs: to_hf_rows(ours[theirs], tensors[ours[theirs]], args))


def _tokenizer_files(tokenizer: CodeTokenizer) -> dict[str, bytes]:
    """The tokenizer's own files; a SentencePiece model also as tokenizer.json, whose ids are the same everywhere.

    transformers 5 makes its own of a lone tokenizer.model, which cuts runs of blanks differently.
    """
    path = tokenizer.model_path
    files = files_of_tokenizer(path)
    if SENTENCEPIECE not in files:
        return files
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    ends = sentencepiece_end_tokens(files[SENTENCEPIECE])
    files[TOKENIZER_JSON] = sentencepiece_as_json(files[SENTENCEPIECE], path)
    files[SETTINGS] = _json(settings | ends)
    return files


def _json(content: Mapping[str, object]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)
