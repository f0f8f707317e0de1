import hashlib
import subprocess
import sys
from pathlib import Path

import torch

from wmtp_ray.artifacts.manifest import file_sha256, tensors_sha256


def test_file_hash_is_plain_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_tensor_hash_is_name_type_shape_and_bytes_in_name_order() -> None:
    tensors = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(7)}
    digest = hashlib.sha256(b"a\0torch.int64\0()\0" + (7).to_bytes(8, "little"))
    digest.update(b"b\0torch.float32\0(1, 2)\0" + bytes.fromhex("0000c03f" + "000000c0"))
    assert tensors_sha256(tensors) == digest.hexdigest()
    assert tensors_sha256(dict(sorted(tensors.items()))) == digest.hexdigest()


def test_tensor_hash_sees_layout_free_values_in_every_dtype() -> None:
    x = torch.arange(6.0).view(2, 3)
    hashes = {tensors_sha256({"x": x.to(dtype)}) for dtype in (torch.float32, torch.bfloat16, torch.float16)}
    assert len(hashes) == 3
    assert tensors_sha256({"x": x.t()}) == tensors_sha256({"x": x.t().contiguous()})
    assert tensors_sha256({"x": x}) != tensors_sha256({"x": x.view(3, 2)})
    assert tensors_sha256({"x": x.requires_grad_()}) == tensors_sha256({"x": x.detach()})


def test_hashing_a_file_needs_no_torch() -> None:
    program = "import sys, wmtp_ray.artifacts.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
