"""The records in a model directory besides params.json and the weights. It reads no weights.

metadata.json       `ModelRecord`: where the weights come from, what was written and when, each file's SHA-256
meta_adapter.yaml   how params.json is understood, spelled out: sizes, which block predicts which horizon
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.data.dataset_manifest import FileDigest
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.saved_records import read_record

FORMAT = 2  # raised whenever the same source and settings give other files

Kind = Literal["policy", "reference", "micro", "reward"]


@dataclass(frozen=True)
class SharedTokenizer:
    """The model whose tokenizer.model is the same file, by its path from this directory, and the file's hash."""

    model: str
    sha256: str


@dataclass(frozen=True)
class ModelRecord:
    """The content of metadata.json.

    `status` is "optional" for a directory that only keeps a place: no run needs it. `version` is the source's, in its
    own words; `date` is ISO, with the time; `sha256` that of the file of weights; `source` and `files` by name. Both,
    and `target_device`, which a miniature was made for, are younger than format 1.
    """

    kind: Kind
    status: Literal["ready", "optional"]
    version: str
    dtype: str
    num_parameters: int
    source: dict[str, FileDigest]
    settings: dict[str, int | str]
    files: dict[str, FileDigest]
    tokenizer_shared_with: SharedTokenizer | None
    date: str = ""
    sha256: str | None = None
    target_device: str | None = None
    format: int = FORMAT


def digest_of(path: Path) -> FileDigest:
    """Hash a file."""
    return FileDigest(file_sha256(path), path.stat().st_size)


def read_model_record(directory: Path) -> ModelRecord | None:
    """Read metadata.json, None where there is none; ArtifactError when it is of another form."""
    path = ModelFolder(directory).metadata
    if not path.exists():
        return None
    return read_record(path, ModelRecord, "remove the file, or name another folder with --out")


def damaged_files(directory: Path, record: ModelRecord) -> list[str]:
    """Return the recorded files that are missing or hold other bytes."""
    return [
        name
        for name, digest in record.files.items()
        if not (directory / name).is_file() or digest_of(directory / name) != digest
    ]


def adapter_text(folder: ModelFolder, args: ModelSpec, dtype: str) -> str:
    """Return the text of meta_adapter.yaml for a folder that already holds its other files, by their paths in it."""
    tokenizer = folder.tokenizer.json if folder.tokenizer.json.exists() else folder.tokenizer.model
    heads = [f"layers.{args.num_trunk_blocks}", *(f"extra_heads.{i}" for i in range(args.n_future_tokens - 1))]
    content = {
        "model": "vendor.meta_llama.Transformer",
        "arguments": folder.name_of(folder.params),
        "weights": folder.name_of(folder.weights),
        "tokenizer": folder.name_of(tokenizer),
        "dtype": dtype,
        "dim": args.dim,
        "n_layers": args.n_layers,
        "n_future_tokens": args.n_future_tokens,
        "hidden_dim": args.hidden_dim,
        "vocab_size": args.vocab_size,
        "attention": {"n_heads": args.n_heads, "n_kv_heads": args.num_kv_heads, "head_dim": args.head_dim},
        "rope": {"theta": args.rope_theta, "pairs": "interleaved"},
        "trunk_blocks": args.num_trunk_blocks,
        "prediction_heads": dict(enumerate(heads, start=1)),
    }
    return yaml.safe_dump(content, sort_keys=False)
