"""A safetensors file written tensor by tensor: a model is copied or converted without ever being in memory whole.

The format is that of the safetensors package, which reads these files: the header's length in 8 bytes, little end
first; a JSON header with dtype, shape and place of each tensor; the bytes of the tensors, one behind the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from torch import Tensor

from wmtp_ray.durable_files import atomic_file

DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True)
class TensorForm:
    """What a header says about a tensor before its values are read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def forms_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorForm]:
    """Describe tensors in memory."""
    return {name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def write_streamed(path: Path, forms: Mapping[str, TensorForm], read: Callable[[str], Tensor]) -> None:
    """Write the tensors that `read` returns by name, one at a time, converted to the dtype of their form.

    The file is whole or absent. Memory holds one tensor, and its converted copy.
    """
    names = sorted(forms, key=lambda name: -forms[name].dtype.itemsize)  # wide ones first: every tensor lies aligned
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        header = _header({name: forms[name] for name in names})
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for name in names:
            tensor = read(name).detach().cpu().to(forms[name].dtype).contiguous()
            assert tuple(tensor.shape) == forms[name].shape, name
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _header(forms: Mapping[str, TensorForm]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers opens no file without it
    end = 0
    for name, form in forms.items():
        begin, end = end, end + form.num_bytes
        entries[name] = {"dtype": DTYPE_NAMES[form.dtype], "shape": form.shape, "data_offsets": [begin, end]}
    text = orjson.dumps(entries)
    return text + b" " * (-len(text) % _ALIGNMENT_BYTES)
