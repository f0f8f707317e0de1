"""What is refused in a GGUF file, and its byte-level tokenizers; `test_hf_parity.py` imports whole files."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.byte_level_tokenizer import BEGIN, END, write_byte_level
from wmtp_ray.artifacts.hf.gguf_file import open_gguf
from wmtp_ray.artifacts.hf.gguf_tokenizer import tokenizer_from_metadata
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError

TEXTS = st.lists(st.sampled_from(["\n", "    ", "\t", "def ", "print(", END, "é", "日", "123", "'s"])).map("".join)


def metadata_of(path: Path, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter would write about a tokenizer.json."""
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    control = {token["id"] for token in content["added_tokens"]}
    metadata = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": [piece for piece, _ in vocabulary],
        "token_type": [3 if index in control else 1 for _, index in vocabulary],
        "merges": [" ".join(merge) for merge in content["model"]["merges"]],
        "bos_token_id": content["model"]["vocab"][BEGIN],
        "eos_token_id": content["model"]["vocab"][END],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (metadata | changes).items()}


def written(directory: Path, metadata: dict[str, Any]) -> CodeTokenizer:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_from_metadata(Path("model.gguf"), metadata).items():
        (directory / name).write_bytes(content)
    return CodeTokenizer(directory / "tokenizer.json")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[CodeTokenizer, CodeTokenizer]:
    """A byte-level tokenizer, and the one made from what a GGUF file says about it."""
    directory = tmp_path_factory.mktemp("gguf")
    path = write_byte_level(directory / "original")
    return CodeTokenizer(path), written(directory / "made", metadata_of(path))


@given(text=TEXTS)
def test_a_byte_level_tokenizer_comes_out_as_it_went_in(pair: tuple[CodeTokenizer, CodeTokenizer], text: str) -> None:
    original, made = pair
    assert made.encode(text) == original.encode(text)
    assert (made.bos_id, made.eos_id, made.vocab_size) == (original.bos_id, original.eos_id, original.vocab_size)


def test_llama_3_keeps_up_to_three_digits_together(tmp_path: Path) -> None:
    path = write_byte_level(tmp_path / "original")
    tokens = [*metadata_of(path)["tokenizer.ggml.tokens"], "12", "123", "1234"]
    merges = [*metadata_of(path)["tokenizer.ggml.merges"], "1 2", "12 3", "123 4"]
    changes = {"pre": "llama-bpe", "tokens": tokens, "token_type": [3, 3, *[1] * (len(tokens) - 2)], "merges": merges}
    tokenizer = written(tmp_path / "made", metadata_of(path, **changes))
    assert tokenizer.encode("1234") == [tokens.index("123"), tokens.index("4")]


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    metadata = metadata_of(write_byte_level(tmp_path / "original"))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}"
    tokenizer = written(tmp_path / "made", metadata | {"tokenizer.chat_template": template})
    chat = tokenizer.encode_chat("Add.")
    assert chat is not None
    assert chat.tolist() == [*tokenizer.encode("Add."), tokenizer.eos_id]


@pytest.mark.parametrize(
    ("changes", "message"), [({"pre": "qwen2"}, "the rule 'qwen2'"), ({"model": "bert"}, "of kind 'bert'")]
)
def test_an_unknown_tokenizer_is_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    metadata = metadata_of(write_byte_level(tmp_path), **changes)
    with pytest.raises(ArtifactError, match=message):
        tokenizer_from_metadata(Path("model.gguf"), metadata)


ABOUT = {
    "block_count": 1,
    "embedding_length": 16,
    "feed_forward_length": 40,
    "attention.head_count": 2,
    "context_length": 32,
}


@pytest.mark.parametrize(
    ("architecture", "changes", "tensor", "message"),
    [
        ("gemma", {}, "token_embd.weight", "architecture 'gemma', expected llama"),
        ("llama", {"expert_count": 8}, "token_embd.weight", "found 8 experts"),
        ("llama", {"rope.dimension_count": 4}, "token_embd.weight", "positions on 4 of 8 channels"),
        ("llama", {"attention.key_length": 16}, "token_embd.weight", "heads of 16 channels, not 8"),
        ("llama", {"rope.scaling.type": "yarn"}, "token_embd.weight", "scaled by 'yarn'"),
        ("llama", {"block_count": None}, "token_embd.weight", r"llama\.block_count is missing"),
        ("llama", {}, "token_embd.weight", r"missing: layers\.0\.attention\.wq\.weight"),
        ("llama", {}, "rope_freqs.weight", "found the tensor rope_freqs.weight"),
    ],
)
def test_what_the_layout_cannot_express_is_named(
    tmp_path: Path, architecture: str, changes: dict[str, Any], tensor: str, message: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", architecture)
    for key, value in (ABOUT | changes).items():
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tensor(tensor, np.zeros((11, 16), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match=message):
        open_gguf(tmp_path / "model.gguf")
