"""Open a checkpoint as Meta ships it, for conversion: consolidated.pth, params.json, tokenizer.model.

Only plain tensors are read: a pickle that would run anything else is refused. The file is mapped into memory, so a
tensor takes memory while it is written and not before. `rope.freqs`, which some checkpoints carry, is compared with
`rope_theta` and left out: it follows from it. Nothing is written here (`model_directory.write_model` does).
"""

from pathlib import Path

import torch
from torch import Tensor

from wmtp_ray.artifacts.hf.tokenizer_files import find_tokenizer
from wmtp_ray.artifacts.meta_checkpoint import read_tensors
from wmtp_ray.artifacts.model_directory import ModelToWrite
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.json_object import read_json
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import META_WEIGHTS, PARAMS, TOKENIZER_MODEL, ModelFolder

ROPE = "rope.freqs"
_UNKNOWN_VOCABULARY = -1  # what Meta writes where the tokenizer is to decide


def open_checkpoint(source: Path, *, tokenizer: Path | None, version: str | None) -> ModelToWrite:
    """Open the checkpoint in the folder `source`; every tensor keeps its dtype.

    Without a `tokenizer` the model is kept without one; `version` is the folder's name unless given. ArtifactError when
    a file is missing or damaged, would run code, or when dimensions, heads and rotary frequencies deny each other.
    """
    weights = _weights_of(source)
    args = _read_args(_required(ModelFolder(source).params, "it is shipped beside the weights"), tokenizer)
    tensors = read_tensors(weights)
    if ROPE in tensors:
        check_rotary_frequencies(tensors.pop(ROPE), args)
    source_files = {META_WEIGHTS: weights, PARAMS: ModelFolder(source).params}
    if tokenizer is not None:
        source_files[TOKENIZER_MODEL] = tokenizer
    return ModelToWrite(
        kind="policy",
        version=version or source.resolve().name,
        args=args,
        forms={name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()},
        read=tensors.__getitem__,
        tokenizer=tokenizer,
        source=source_files,
        settings={},
    )


def shipped_tokenizer(source: Path) -> Path:
    """Return the path of the tokenizer in a checkpoint's folder, whether it exists or not."""
    folder = ModelFolder(source).tokenizer
    return find_tokenizer(folder) or folder.model


def check_rotary_frequencies(frequencies: Tensor, args: ModelSpec) -> None:
    """Compare stored frequencies with theta^(-2i / head_dim), i = 0 .. head_dim/2 - 1, as exactly as their dtype can.

    Their number gives the channels of a head, which no shape of a weight does: n_heads is checked by it too.
    """
    num_pairs = args.head_dim // 2
    if tuple(frequencies.shape) != (num_pairs,):
        raise ArtifactError(
            f"{ROPE} has the shape {tuple(frequencies.shape)}, expected ({num_pairs},): half of the {args.head_dim} "
            f"channels that dim {args.dim} and n_heads {args.n_heads} give a head; correct {PARAMS}"
        )
    exponents = torch.arange(num_pairs, dtype=torch.float64) / num_pairs
    expected = args.rope_theta**-exponents
    precision = torch.finfo(frequencies.dtype)
    found = frequencies.to(torch.float64)
    if torch.allclose(found, expected, rtol=4 * precision.eps, atol=precision.smallest_normal):
        return
    theta = float(found[-1]) ** -(num_pairs / max(num_pairs - 1, 1))
    raise ArtifactError(
        f"{ROPE} belongs to a rope theta of about {theta:.4g}, {PARAMS} says {args.rope_theta:g}; write the theta that "
        f"the model was trained with into {PARAMS} as rope_theta"
    )


def _weights_of(source: Path) -> Path:
    folder = ModelFolder(source)
    parts = folder.meta_weight_parts()
    if len(parts) > 1:
        named = ", ".join(part.name for part in parts)
        raise ArtifactError(
            f"{source} holds a checkpoint cut for {len(parts)} devices ({named}), expected "
            f"one {META_WEIGHTS}; join the parts first, or take the version of the model that comes whole"
        )
    weights = parts[0] if parts else folder.meta_weights
    return _required(weights, f"give the folder that holds {META_WEIGHTS} with --source")


def _required(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; {remedy}")
    return path


def _read_args(path: Path, tokenizer: Path | None) -> ModelSpec:
    """Read params.json; where it gives no vocabulary size, take the tokenizer's."""
    params = read_json(path)
    if tokenizer is not None and params.get("vocab_size", _UNKNOWN_VOCABULARY) == _UNKNOWN_VOCABULARY:
        params["vocab_size"] = CodeTokenizer(tokenizer).vocab_size
    return ModelSpec.from_params(params, path)
