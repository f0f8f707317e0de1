"""A model directory written whole: weights tensor by tensor, then compared with their source, then renamed into place.

    configs/params.json  configs/meta_adapter.yaml  safetensors/model.safetensors
    tokenizer/tokenizer.model (or tokenizer.json)  tokenizer/tokenizer_config.json  metadata.json
    configs/config.json, of a model that Hugging Face's layout describes so

Where tensors come from is the caller's part (`convert_checkpoint`, `reference_shards`, `micro`). A directory that holds
another model is never touched. A writer that is killed leaves a hidden folder that the next one removes.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from wmtp_ray.artifacts.hf.plain_model import require_forms
from wmtp_ray.artifacts.hf.tokenizer_files import find_tokenizer, write_tokenizer
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import write_params
from wmtp_ray.artifacts.model_record import (
    Kind,
    ModelRecord,
    SharedTokenizer,
    adapter_text,
    damaged_files,
    digest_of,
    read_model_record,
)
from wmtp_ray.artifacts.streamed_tensors import TensorForm, write_streamed
from wmtp_ray.artifacts.tokenizer_description import described_tokenizer
from wmtp_ray.data.dataset_manifest import FileDigest
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.durable_files import atomic_directory, atomic_write
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import WEIGHTS, ModelFolder
from wmtp_ray.saved_records import write_record

_TEMPORARY = re.compile(r"[0-9a-f]{32}")

Say = Callable[[str], None]


@dataclass(frozen=True)
class ModelToWrite:
    """A model that exists elsewhere: `read` returns the tensor of a name, in the form that `forms` declares.

    `source` holds the files that it is made of by name, `settings` all else that its bytes depend on. `tokenizer` is
    None for a model that is kept without one, `hf_config` the config.json to keep beside params.json. `target_device`
    is for whoever reads metadata.json.
    """

    kind: Kind
    version: str
    args: ModelSpec
    forms: Mapping[str, TensorForm]
    read: Callable[[str], Tensor]
    tokenizer: Path | None
    source: Mapping[str, Path]
    settings: Mapping[str, int | str]
    tokenizer_shared_with: SharedTokenizer | None = None
    hf_config: Path | None = None
    target_device: str | None = None

    @property
    def num_bytes(self) -> int:
        return sum(form.num_bytes for form in self.forms.values())

    @property
    def num_parameters(self) -> int:
        return sum(torch.Size(form.shape).numel() for form in self.forms.values())

    @property
    def dtype(self) -> str:
        """Name the tensors' dtypes: float16, or float32+bfloat16 where tensors differ."""
        return "+".join(sorted({str(form.dtype).removeprefix("torch.") for form in self.forms.values()}))


def write_model(out: Path, model: ModelToWrite, now: datetime, say: Say, *, dry_run: bool) -> None:
    """Write a model's directory, or leave a whole one of the same source alone; `dry_run` ends after the checks.

    Raises ArtifactError before anything is written when tensors, params.json and tokenizer do not fit each other, when
    `out` holds something else, or when the disk is too small.
    """
    _require_consistent(model)
    source = {name: digest_of(path) for name, path in model.source.items()}
    damaged = _looked_at(out, model, source)
    if damaged == []:
        say(f"{out}: whole, and of the same source: nothing to do")
        return
    say(f"{out}: {_described(model)}" + (f"; written anew, damaged: {', '.join(damaged)}" if damaged else ""))
    _require_space(out, model.num_bytes)
    if dry_run:
        return
    _remove_left_over(out)
    with atomic_directory(out) as staged:
        _write_weights(staged, model)
        _describe(staged, model, source, now)
    say(f"{out}: written; {len(model.forms)} tensors compared with their source, all equal")


def keep_place(out: Path, now: datetime, say: Say, *, dry_run: bool) -> None:
    """Write a placeholder directory for an optional reward model; its metadata.json marks it as optional."""
    found = read_model_record(out)
    if found is not None and found.status == "optional":
        say(f"{out}: is one already: nothing to do")
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(
            f"{out} holds something already, which is never overwritten; name another folder with --out"
        )
    say(f"{out}: a place for a reward model, optional")
    if not dry_run:
        date = now.isoformat("T", "seconds")
        record = ModelRecord("reward", "optional", "none", "none", 0, {}, {}, {}, None, date=date)
        write_record(ModelFolder(out).metadata, record)


def say_how_to_run(directory: Path, say: Say) -> None:
    """Name the settings with which a run starts from a model that was written."""
    tokenizer = find_tokenizer(ModelFolder(directory).tokenizer)
    own = "" if tokenizer is None else f" tokenizer.path={tokenizer}"
    say(f"run it with model.path={directory}{own}")


def narrowed(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a tensor; ArtifactError when a finite number becomes infinite."""
    narrow = tensor.to(dtype)
    if not torch.equal(narrow.isfinite(), tensor.isfinite()):
        largest = float(tensor[tensor.isfinite()].abs().max())
        raise ArtifactError(f"{name} holds {largest:.6g}, more than {dtype} can; keep the model in a wider dtype")
    return narrow


def _require_consistent(model: ModelToWrite) -> None:
    """Require that every tensor has the shape that params.json gives it, and every token of the tokenizer a row."""
    require_forms(next(iter(model.source.values())).parent, model.args, model.forms)
    if model.tokenizer is None:
        return
    vocab_size = CodeTokenizer(model.tokenizer).vocab_size
    if vocab_size > model.args.vocab_size:
        raise ArtifactError(
            f"The tokenizer {model.tokenizer} has {vocab_size} tokens, the model has rows for {model.args.vocab_size}; "
            "expected at most as many: give the tokenizer that the model was made for (--tokenizer)"
        )


def _looked_at(out: Path, model: ModelToWrite, source: dict[str, FileDigest]) -> list[str] | None:
    """Check `out` and return the damaged files of the same model; None if there is nothing yet."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    found = read_model_record(out) if out.is_dir() else None
    wanted = (model.kind, source, dict(model.settings), model.tokenizer_shared_with)
    if found is None or (found.kind, found.source, found.settings, found.tokenizer_shared_with) != wanted:
        what = "something else" if found is None else f"another model ({found.kind} {found.version})"
        raise ArtifactError(f"{out} holds {what}, which is never overwritten; name another folder with --out")
    return damaged_files(out, found)


def _described(model: ModelToWrite) -> str:
    args = model.args
    return (
        f"{model.kind} {model.version}: {model.num_parameters:,} parameters in {model.dtype}, "
        f"{model.num_bytes / 1e6:,.1f} MB; dim {args.dim}, {args.n_heads} heads of {args.head_dim}, "
        f"{args.num_kv_heads} of them with keys, feed-forward {args.hidden_dim}, {args.num_trunk_blocks} trunk blocks, "
        f"{args.n_future_tokens} prediction heads, {args.vocab_size} tokens, rope theta {args.rope_theta:g}"
    )


def _require_space(out: Path, num_bytes: int) -> None:
    existing = next(path for path in out.absolute().parents if path.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise ArtifactError(
            f"{existing} has {free / 1e9:.1f} GB free, the model takes {num_bytes / 1e9:.1f} GB; free space or name "
            "another folder with --out"
        )


def _remove_left_over(out: Path) -> None:
    prefix = f".{out.name}."
    for path in out.parent.glob(f"{prefix}*"):
        if _TEMPORARY.fullmatch(path.name.removeprefix(prefix)):
            shutil.rmtree(path, ignore_errors=True)


def _write_weights(staged: Path, model: ModelToWrite) -> None:
    """Write the tensors, then read each back and compare it, bit by bit, with what it was made from."""
    write_streamed(ModelFolder(staged, in_parts=True).weights, model.forms, model.read)
    different = [name for name in model.forms if not _same_bits(_read_back(staged, name), model.read(name))]
    if different:
        raise ArtifactError(f"{WEIGHTS} does not hold what was written: {', '.join(different)}; check the disk")


def _read_back(staged: Path, name: str) -> Tensor:
    """Read one tensor; the file is opened for each, since what was read stays in memory while it is open."""
    with safe_open(ModelFolder(staged).weights, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Compare bit by bit, NaN and signed zeros included."""
    same_form = one.dtype == other.dtype and one.shape == other.shape
    return same_form and torch.equal(
        one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8)
    )


def _describe(staged: Path, model: ModelToWrite, source: dict[str, FileDigest], now: datetime) -> None:
    folder = ModelFolder(staged)
    write_params(staged, model.args)
    assert ModelSpec.read(staged) == model.args
    if model.tokenizer is not None:
        write_tokenizer(folder.tokenizer, described_tokenizer(model.tokenizer))
    if model.hf_config is not None:
        atomic_write(folder.hf_config, model.hf_config.read_bytes())
    atomic_write(folder.meta_adapter, adapter_text(folder, model.args, model.dtype).encode())
    record = ModelRecord(
        kind=model.kind,
        status="ready",
        version=model.version,
        dtype=model.dtype,
        num_parameters=model.num_parameters,
        source=source,
        settings=dict(model.settings),
        files={folder.name_of(path): digest_of(path) for path in sorted(staged.rglob("*")) if path.is_file()},
        tokenizer_shared_with=model.tokenizer_shared_with,
        date=now.isoformat("T", "seconds"),
        sha256=file_sha256(folder.weights),
        target_device=model.target_device,
    )
    write_record(folder.metadata, record)
