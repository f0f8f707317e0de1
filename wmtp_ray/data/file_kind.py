"""Recognise a file's kind by its first bytes, so that a message about an unexpected file can name its kind.

Downloads fail in ways that leave a file by the right name: a Git LFS pointer, a login page, an archive. Other files are
whole and of another kind, and to fetch those again changes nothing.
"""

import re
from dataclasses import dataclass

from wmtp_ray.model_folder import WEIGHTS

HEAD_BYTES = 4096  # of a file, enough for every kind
_PICKLE_PROTOCOLS = b"\x02\x03\x04\x05"
_TIKTOKEN = re.compile(rb"(?:[A-Za-z0-9+/]+={0,2} \d+\r?\n){2}|[A-Za-z0-9+/]+={0,2} \d+\r?\n?\Z")


@dataclass(frozen=True)
class FileKind:
    """A kind of file in the words of a message, and what to do with one that stands in the place of another."""

    name: str
    remedy: str


EMPTY = FileKind("an empty file", "fetch the file again")
SAFETENSORS = FileKind("a safetensors file", f"these are weights: give them the name {WEIGHTS}")
ZIP = FileKind("a zip archive, such as torch.save writes", "these are weights or an archive: unpack or rename it")
PICKLE = FileKind("a Python pickle", "these may be weights of torch.save: give the file that was asked for")
GGUF = FileKind("a GGUF file", "a whole model: import it with wmtp import FILE.gguf")
TIKTOKEN = FileKind(
    "a tiktoken vocabulary, as LLaMA 3 has under this name",
    "give the tokenizer.json of the same model, with its tokenizer_config.json beside it",
)
JSON = FileKind("a JSON file", "give it the name *.json, or give the file that was asked for")
_UNPACK = "unpack it and give the file inside"
_MAGIC = (
    (b"version https://git-lfs", FileKind("a Git LFS pointer", "run git lfs pull where it was cloned, or download it")),
    (b"\x1f\x8b", FileKind("a gzip archive", _UNPACK)),
    (b"\xfd7zXZ\x00", FileKind("an xz archive", _UNPACK)),
    (b"BZh", FileKind("a bzip2 archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileKind("a zstd archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", _UNPACK)),
    (b"PK\x03\x04", ZIP),
    (b"GGUF", GGUF),
    (b"\x89HDF", FileKind("an HDF5 file, as TensorFlow writes", "give the weights as safetensors")),
    *(
        (magic, FileKind("a GGML file of before GGUF", "take the model as GGUF or as a Hugging Face directory"))
        for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")
    ),
)
_PAGE = FileKind(
    "a web page (HTML or XML)",
    "the download was answered with a page, often a login or an error: fetch the file again, with access to it",
)
_TAR = FileKind("a tar archive", _UNPACK)


def kind_of(head: bytes) -> FileKind | None:
    """Recognise a file by its first HEAD_BYTES (fewer: the whole file); None for what is none of the kinds here."""
    if not head:
        return EMPTY
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return _TAR
    if head[:1] == b"\x80" and head[1:2] in _PICKLE_PROTOCOLS:
        return PICKLE
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 32:
        return SAFETENSORS
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> FileKind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:14].lower() == b"<!doctype html" or text[:5].lower() in (b"<html", b"<?xml"):
        return _PAGE
    if _TIKTOKEN.match(head):
        return TIKTOKEN
    return JSON if text[:1] in (b"{", b"[") else None


def found_instead(head: bytes, num_bytes: int) -> str:
    """Return what was found where something else was expected: "an empty file", "512 bytes of no kind known here"."""
    kind = kind_of(head)
    return f"{num_bytes} bytes of no kind known here" if kind is None else kind.name


def remedy_for(head: bytes, otherwise: str) -> str:
    """Return what to do about a file of another kind; `otherwise` for bytes of no kind known here."""
    kind = kind_of(head)
    return otherwise if kind is None else kind.remedy
