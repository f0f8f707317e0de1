"""Miniatures of the real model, random or cut out of it: the same layout and code paths, small enough for a laptop.

A slice keeps the first channels, heads, feed-forward units and tokens, the lowest trunk blocks, and the prediction
heads of the first horizons: every tensor is a part of the base's tensor of the same role. Grouped queries stay with the
keys they had. Nothing is learned: a miniature proves that code runs, not that a method works.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.hf.layout import with_hidden_dim
from wmtp_ray.artifacts.meta_checkpoint import (
    read_tensors,
    save_transformer,
    weights_file,
)
from wmtp_ray.artifacts.model_directory import ModelToWrite, narrowed
from wmtp_ray.artifacts.streamed_tensors import TensorForm
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import TOKENIZER_MODEL, ModelFolder

DTYPE = torch.float16
MAX_BYTES = 50_000_000
TARGET_DEVICE = "cpu"  # what metadata.json says a miniature is made for; it runs anywhere

Part = slice | Tensor


@dataclass(frozen=True)
class _Kept:
    """Which channels of each axis a slice keeps."""

    width: Part
    queries: Part
    keys: Part
    query_norm: Part
    key_norm: Part
    inner: Part
    tokens: Part

    def of(self, name: str) -> tuple[Part, ...]:
        """Return the parts of a tensor's axes, by its name."""
        axes: tuple[Part, ...] = {
            "norm": (self.width,),
            "attention_norm": (self.width,),
            "ffn_norm": (self.width,),
            "tok_embeddings": (self.tokens, self.width),
            "output": (self.tokens, self.width),
            "wq": (self.queries, self.width),
            "wk": (self.keys, self.width),
            "q_norm": (self.query_norm,),
            "k_norm": (self.key_norm,),
            "wv": (self.keys, self.width),
            "wo": (self.width, self.queries),
            "w1": (self.inner, self.width),
            "w2": (self.width, self.inner),
            "w3": (self.inner, self.width),
        }[name.split(".")[-2]]
        return axes[:1] if name.endswith(".bias") else axes


@dataclass(frozen=True)
class MicroShape:
    """The requested sizes of a miniature; None takes the base's size, or without a base `ModelSpec`'s default."""

    n_layers: int
    dim: int
    n_heads: int
    n_kv_heads: int | None
    hidden_dim: int | None
    vocab_size: int | None
    n_future_tokens: int | None


def micro_args(shape: MicroShape, base: ModelSpec) -> ModelSpec:
    """Complete a shape; queries share keys as in the base. ArtifactError when it cannot be built."""
    if wrong := [f"{key} {size}" for key, size in asdict(shape).items() if size is not None and size < 1]:
        raise ArtifactError(f"found {', '.join(wrong)} in the shape asked for, expected whole numbers above 0")
    group, num_horizons = base.n_heads // base.num_kv_heads, shape.n_future_tokens or base.n_future_tokens
    try:
        args = replace(
            base,
            dim=shape.dim,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            vocab_size=shape.vocab_size or base.vocab_size,
            n_kv_heads=shape.n_kv_heads or max(shape.n_heads // group, 1),
            n_future_tokens=num_horizons,
            max_seq_len=None,
            max_batch_size=None,
            attention_head_dim=_head_dim(shape, base),
            blocks_without_rope=_without_rope(shape.n_layers, num_horizons, base),
        )
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        raise ArtifactError(
            f"No model has this shape: {reason}; choose --layers, --dim, --heads, --kv-heads and --horizons that fit"
        ) from error
    return with_hidden_dim(args, shape.hidden_dim) if shape.hidden_dim else args


def _head_dim(shape: MicroShape, base: ModelSpec) -> int | None:
    """Return the channels of a head where the base's are not dim / heads: the same multiple of dim / heads."""
    if base.attention_head_dim is None:
        return None
    return 2 * max(1, round(base.query_dim * shape.dim / (2 * base.dim * shape.n_heads)))


def _without_rope(num_blocks: int, num_horizons: int, base: ModelSpec) -> tuple[int, ...]:
    """Return which of the miniature's blocks have no rotary positions: those of the base that it keeps."""
    num_trunk = num_blocks - num_horizons
    in_base = [block if block < num_trunk else block - num_trunk + base.num_trunk_blocks for block in range(num_blocks)]
    return tuple(block for block, theirs in enumerate(in_base) if theirs in base.blocks_without_rope)


def make_micro_model(directory: Path, args: ModelSpec, seed: int, dtype: torch.dtype = DTYPE) -> None:
    """Write a freshly initialised model; the same arguments and seed give the same tensors."""
    save_transformer(directory, _random(args, seed), dtype=dtype)


def open_random(args: ModelSpec, seed: int, tokenizer: Path) -> ModelToWrite:
    """Describe a freshly initialised float16 model of at most MAX_BYTES; ArtifactError for an invalid shape."""
    _require_micro(args)
    tensors = {name: tensor.to(DTYPE) for name, tensor in _random(args, seed).state_dict().items()}
    return _micro(args, tensors.__getitem__, "random", tokenizer, {TOKENIZER_MODEL: tokenizer}, {"seed": seed})


def open_slice(base: Path, args: ModelSpec, tokenizer: Path | None) -> ModelToWrite:
    """Describe the part of the model in `base` that has the shape `args`, in float16.

    `tokenizer` is the base's tokenizer.model unless given. ArtifactError names every size that the base does not have.
    """
    base_args = ModelSpec.read(base)
    _require_micro(args)
    _require_within(args, base_args)
    weights = weights_file(base)
    tensors, kept = read_tensors(weights), _kept(args, base_args)

    def read(name: str) -> Tensor:
        rows, *columns = kept.of(name)
        part = tensors[_name_in_base(name, args, base_args)][rows]
        return narrowed(name, part[:, columns[0]] if columns else part, DTYPE)

    folder = ModelFolder(base)
    vocabulary = tokenizer or folder.tokenizer.model
    source = {path.name: path for path in (weights, folder.params, vocabulary)}
    return _micro(args, read, f"slice of {base.resolve().name}", vocabulary, source, settings={})


def _random(args: ModelSpec, seed: int) -> Transformer:
    with torch.device("meta"):
        transformer = Transformer(args)
    transformer.to_empty(device="cpu").init_weights(torch.Generator().manual_seed(seed))
    return transformer


def _micro(
    args: ModelSpec,
    read: Callable[[str], Tensor],
    version: str,
    tokenizer: Path,
    source: Mapping[str, Path],
    settings: dict[str, int | str],
) -> ModelToWrite:
    shape: dict[str, int | str] = {
        "n_layers": args.n_layers,
        "n_future_tokens": args.n_future_tokens,
        "dim": args.dim,
        "n_heads": args.n_heads,
        "n_kv_heads": args.num_kv_heads,
        "hidden_dim": args.hidden_dim,
        "vocab_size": args.vocab_size,
    }
    forms = {name: TensorForm(DTYPE, shape) for name, shape in _shapes(args).items()}
    whole = shape | settings
    return ModelToWrite("micro", version, args, forms, read, tokenizer, source, whole, target_device=TARGET_DEVICE)


def _shapes(args: ModelSpec) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Transformer(args).state_dict().items()}


def _require_micro(args: ModelSpec) -> None:
    if args.num_trunk_blocks < 1:
        raise ArtifactError(
            f"{args.n_layers} layers with {args.n_future_tokens} prediction heads have no trunk; expected more layers "
            "than heads: raise --layers or lower --horizons"
        )
    num_bytes = DTYPE.itemsize * sum(torch.Size(shape).numel() for shape in _shapes(args).values())
    if num_bytes >= MAX_BYTES:
        raise ArtifactError(
            f"A model of this shape takes {num_bytes / 1e6:.1f} MB, expected less than {MAX_BYTES / 1e6:.0f} MB: lower "
            "--dim, --layers, --ffn or --vocab"
        )


def _require_within(args: ModelSpec, base: ModelSpec) -> None:
    sizes = {
        "trunk blocks": (args.num_trunk_blocks, base.num_trunk_blocks),
        "prediction heads": (args.n_future_tokens, base.n_future_tokens),
        "width": (args.dim, base.dim),
        "heads with keys": (args.num_kv_heads, base.num_kv_heads),
        "heads for each of them": (args.n_heads // args.num_kv_heads, base.n_heads // base.num_kv_heads),
        "channels a head": (args.head_dim, base.head_dim),
        "feed-forward units": (args.hidden_dim, base.hidden_dim),
        "tokens": (args.vocab_size, base.vocab_size),
    }
    if too_large := [f"{wanted} {what} of {there}" for what, (wanted, there) in sizes.items() if wanted > there]:
        raise ArtifactError(f"A slice cannot have more than its base: found {'; '.join(too_large)}; ask for less")


def _kept(args: ModelSpec, base: ModelSpec) -> _Kept:
    """Return the kept channels; a query's channels are ordered by key head, by query of that head, then within it.

    8 heads in 4 pairs, cut to 2 heads in 2 groups: heads 0 and 2, not 0 and 1, which share their keys.
    """
    keys = torch.arange(base.num_kv_heads * base.head_dim).view(base.num_kv_heads, base.head_dim)
    queries = torch.arange(base.query_dim).view(base.num_kv_heads, -1, base.head_dim)
    group, one_head = args.n_heads // args.num_kv_heads, slice(args.head_dim)
    kept_queries = queries[: args.num_kv_heads, :group, : args.head_dim].flatten()
    kept_keys = keys[: args.num_kv_heads, : args.head_dim].flatten()
    by_head = args.query_key_norm == "head"
    return _Kept(
        width=slice(args.dim),
        queries=kept_queries,
        keys=kept_keys,
        query_norm=one_head if by_head else kept_queries,
        key_norm=one_head if by_head else kept_keys,
        inner=slice(args.hidden_dim),
        tokens=slice(args.vocab_size),
    )


def _name_in_base(name: str, args: ModelSpec, base: ModelSpec) -> str:
    """The block behind the trunk predicts horizon 1 in both: (layers.2.x, 3 of 7 blocks) -> layers.6.x."""
    head = f"layers.{args.num_trunk_blocks}."
    return f"layers.{base.num_trunk_blocks}.{name.removeprefix(head)}" if name.startswith(head) else name
