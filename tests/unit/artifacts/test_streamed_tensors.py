from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from wmtp_ray.artifacts.streamed_tensors import TensorForm, forms_of, write_streamed

TENSORS = {
    "half": torch.tensor([[1.0, float("nan"), -0.0]], dtype=torch.float16),
    "wide": torch.tensor([1 / 3, 2.0]),
    "scalar": torch.tensor(7.0, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}


def test_the_safetensors_package_reads_what_was_written_bit_by_bit(tmp_path: Path) -> None:
    write_streamed(tmp_path / "model.safetensors", forms_of(TENSORS), TENSORS.__getitem__)
    read = load_file(tmp_path / "model.safetensors")
    assert forms_of(read) == forms_of(TENSORS)
    for name, tensor in TENSORS.items():
        bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, read[name])]
        assert torch.equal(*bits), name


def test_engines_find_the_format_they_ask_for(tmp_path: Path) -> None:
    write_streamed(tmp_path / "model.safetensors", forms_of(TENSORS), TENSORS.__getitem__)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_are_converted_to_the_dtype_announced(tmp_path: Path) -> None:
    form = TensorForm(torch.bfloat16, (2,))
    write_streamed(tmp_path / "model.safetensors", {"wide": form}, TENSORS.__getitem__)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["wide"], TENSORS["wide"].bfloat16())


def test_a_reader_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_streamed(tmp_path / "model.safetensors", {"absent": TensorForm(torch.float32, (1,))}, TENSORS.__getitem__)
    assert list(tmp_path.iterdir()) == []
