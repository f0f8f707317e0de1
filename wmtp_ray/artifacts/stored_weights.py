"""The tensors of a file of weights, mapped into memory: safetensors, or plain tensors of torch.save.

The content decides, not the file's name. Nothing is unpickled but tensors. A file that cannot be read is named for what
it is: cut short, of another kind, or a pickle that would run code.
"""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wmtp_ray.data.file_kind import HEAD_BYTES, PICKLE, SAFETENSORS, ZIP, found_instead, kind_of, remedy_for
from wmtp_ray.errors import ArtifactError

_NOT_A_TENSOR = re.compile(r"GLOBAL ([\w.]+)|[Uu]nsupported ([\w ]+ [\w.]+)")
_NAMES_SHOWN = 5


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Map a file's tensors into the CPU's memory; ArtifactError when it is damaged or holds something else."""
    head, num_bytes = _head(path)
    kind = kind_of(head)
    if kind is SAFETENSORS:
        return _read_safetensors(path, head, num_bytes)
    if kind is ZIP or kind is PICKLE:
        return _read_saved(path, num_bytes)
    damaged = "the file is damaged, or of a kind that this program does not read: fetch or write it again"
    raise ArtifactError(
        f"{path} cannot be read as tensors: found {found_instead(head, num_bytes)}, expected safetensors or a "
        f"state_dict of torch.save; {remedy_for(head, damaged)}"
    )


def _head(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES), path.stat().st_size
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read as tensors ({error.strerror}), expected a file of weights; check the path"
        ) from error


def _read_safetensors(path: Path, head: bytes, num_bytes: int) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read as tensors: {error}. Found {num_bytes:,} bytes, of which the header takes "
            f"{8 + int.from_bytes(head[:8], 'little'):,}, expected as many as the header announces: the file is cut "
            "short or damaged; fetch or write it again"
        ) from error


def _read_saved(path: Path, num_bytes: int) -> dict[str, Tensor]:
    """Read what torch.save wrote, as a zip archive or, before torch 1.6, as a pickle."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ArtifactError(_why_not_unpickled(path, str(error))) from error
    except (EOFError, RuntimeError, OSError) as error:
        raise ArtifactError(
            f"{path} cannot be read as tensors: {error}. Found {num_bytes:,} bytes that begin as torch.save does and "
            "do not end so: the file is cut short, or an archive of something else; fetch or write it again"
        ) from error
    if isinstance(content, dict) and content and all(isinstance(tensor, Tensor) for tensor in content.values()):
        return content
    raise ArtifactError(
        f"{path} holds {_described(content)}, expected a mapping of names to tensors; save the model's state_dict alone"
    )


def _why_not_unpickled(path: Path, reason: str) -> str:
    found = _NOT_A_TENSOR.search(reason)
    if found is None:
        return f"{path} cannot be read as tensors: the pickle is cut short or damaged; fetch or write it again"
    return (
        f"{path} cannot be read as tensors: it holds more than tensors: it asks for {found[1] or found[2]}. Reading it "
        "could run code of whoever wrote it, so it was not read. Expected a state_dict: take the model as safetensors, "
        "or have it saved with torch.save(model.state_dict(), FILE)"
    )


def _described(content: object) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}, no plain mapping of names to tensors"
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    more = f" and {len(foreign) - _NAMES_SHOWN} more" if len(foreign) > _NAMES_SHOWN else ""
    listed = ", ".join(foreign[:_NAMES_SHOWN]) + more
    return f"no plain mapping of names to tensors, but {listed or 'nothing'}"
