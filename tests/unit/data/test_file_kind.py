import gzip
import io
import pickle
import tarfile

import pytest

from wmtp_ray.data.file_kind import found_instead, kind_of, remedy_for


def tar() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"))
    return archive.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "remedy"),
    [
        (b"", "an empty file", "fetch the file again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", "git lfs pull"),
        (b"\n<!doctype HTML><p>", "a web page", "a login or an error"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "a web page", "a login or an error"),
        (gzip.compress(b"x", mtime=0), "a gzip archive", "unpack"),
        (tar(), "a tar archive", "unpack"),
        (pickle.dumps([1]), "a Python pickle", "torch.save"),
        ((16).to_bytes(8, "little") + b'{"a": 1}', "a safetensors file", "model.safetensors"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file", "wmtp import"),
        (b"tjgg\x01\x00\x00\x00", "a GGML file of before GGUF", "take the model as GGUF"),
        (b"IQ== 0\nIg== 1\n", "a tiktoken vocabulary", "tokenizer.json"),
        (b'\xef\xbb\xbf {"a": 1}', "a JSON file", "*.json"),
    ],
)
def test_a_file_is_told_by_its_first_bytes(content: bytes, name: str, remedy: str) -> None:
    kind = kind_of(content)
    assert kind is not None
    assert kind.name.startswith(name)
    assert remedy in kind.remedy


@pytest.mark.parametrize("content", [b"def f():\n", b"\x0a\x0e\x0a\x05<unk>", b"\x00" * 300])
def test_a_file_of_no_kind_known_here_is_not_taken_for_one(content: bytes) -> None:
    assert kind_of(content) is None
    assert found_instead(content, 300) == "300 bytes of no kind known here"
    assert remedy_for(content, "look at it") == "look at it"
