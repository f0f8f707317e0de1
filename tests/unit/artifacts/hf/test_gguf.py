"""What is refused in a GGUF file, and its byte-level tokenizers; `test_hf_parity.py` imports whole files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from tests.byte_level_tokenizer import BEGIN, END, write_byte_level
from wmtp_ray.artifacts.hf.gguf_file import open_gguf
from wmtp_ray.artifacts.hf.gguf_metadata import params_from_metadata
from wmtp_ray.artifacts.hf.gguf_tokenizer import tokenizer_from_metadata
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
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


def test_qwen_2_keeps_no_two_digits_together_and_a_word_with_the_sign_before_it(tmp_path: Path) -> None:
    path = write_byte_level(tmp_path / "original")
    tokens = [*metadata_of(path)["tokenizer.ggml.tokens"], "12", ".x", ".x1"]
    merges = [*metadata_of(path)["tokenizer.ggml.merges"], "1 2", ". x", ".x 1"]
    changes = {"pre": "qwen2", "tokens": tokens, "token_type": [3, 3, *[1] * (len(tokens) - 2)], "merges": merges}
    tokenizer = written(tmp_path / "made", metadata_of(path, **changes))
    digits = [tokens.index("1"), tokens.index("2")]
    assert tokenizer.encode(".x12") == [tokens.index(".x"), *digits]
    assert json.loads((tmp_path / "made" / "tokenizer.json").read_text())["normalizer"] == {"type": "NFC"}


def test_the_chat_template_comes_along(tmp_path: Path) -> None:
    metadata = metadata_of(write_byte_level(tmp_path / "original"))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ eos_token }}"
    tokenizer = written(tmp_path / "made", metadata | {"tokenizer.chat_template": template})
    chat = tokenizer.encode_chat("Add.")
    assert chat is not None
    assert chat.tolist() == [*tokenizer.encode("Add."), tokenizer.eos_id]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "qwen35"}, "the rule 'qwen35'"),
        ({"model": "bert"}, "of kind 'bert'"),
        ({"merges": None}, "no merges"),
        ({"token_type": [1]}, "token_type of another length"),
        ({"eos_token_id": 99999}, "eos_token_id = 99999"),
    ],
)
def test_an_unknown_tokenizer_is_named(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    metadata = metadata_of(write_byte_level(tmp_path), **changes)
    with pytest.raises(ArtifactError, match=message):
        tokenizer_from_metadata(Path("model.gguf"), metadata)


def test_a_byte_level_tokenizer_without_an_end_is_named_and_what_to_do(tmp_path: Path) -> None:
    metadata = metadata_of(write_byte_level(tmp_path))
    del metadata["tokenizer.ggml.eos_token_id"]
    with pytest.raises(ArtifactError, match=r"without tokenizer\.ggml\.eos_token_id.*gguf-set-metadata"):
        tokenizer_from_metadata(Path("model.gguf"), metadata)


EOT = "tokenizer.ggml.eot_token_id"


@pytest.mark.parametrize("left_out", [("bos_token_id",), ("eos_token_id",), ("bos_token_id", "eos_token_id")])
def test_a_sentencepiece_has_llama_cpps_ends_where_it_names_none_and_its_chat_comes_along(
    tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    train_tokenizer(["def f(x):\n    return x"], tmp_path / "original.model", 275)
    original = SentencePieceProcessor(model_file=str(tmp_path / "original.model"))
    pieces = range(original.vocab_size())
    kinds = [2, 3, 3, *(6 if original.is_byte(index) else 1 for index in pieces[3:])]
    metadata = {
        "model": "llama",
        "tokens": [original.id_to_piece(index) for index in pieces],
        "scores": [original.get_score(index) for index in pieces],
        "token_type": kinds,
        "add_space_prefix": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    written = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if key not in left_out}
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    written |= {"tokenizer.chat_template": template, "tokenizer.chat_template.rag": "documents"}
    for name, content in tokenizer_from_metadata(Path("model.gguf"), written | {EOT: 9}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    tokenizer = CodeTokenizer(tmp_path / "tokenizer.model")
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("def f") == original.encode("def f")
    chat = tokenizer.encode_chat("def f")
    assert chat is not None
    assert chat.tolist() == [1, *original.encode("[INST] def f [/INST]")]
    assert (tmp_path / "additional_chat_templates" / "rag.jinja").read_text() == "documents"
    assert tokenizer.end_ids == {2, 9}


ABOUT = {
    "block_count": 1,
    "embedding_length": 16,
    "feed_forward_length": 40,
    "attention.head_count": 2,
    "context_length": 32,
}


SCALED = "rotary positions scaled by"


def write_model(
    path: Path, changes: dict[str, Any], *, architecture: str = "llama", tensors: Sequence[str] = ("token_embd.weight",)
) -> Path:
    """A GGUF file with the metadata of a LLaMA and few tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (ABOUT | {"attention.layer_norm_rms_epsilon": 1e-5} | changes).items():
        full_key = key if key.startswith(("general.", "split.", "tokenizer.", "note.")) else f"llama.{key}"
        if isinstance(value, bool):
            writer.add_bool(full_key, value)
        elif isinstance(value, str):
            writer.add_string(full_key, value)
        elif isinstance(value, float):
            writer.add_float32(full_key, value)
        elif isinstance(value, list):
            writer.add_array(full_key, value)
        elif value is not None:
            writer.add_uint32(full_key, value)
    for tensor in tensors:
        writer.add_tensor(tensor, np.zeros((11, 16), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, "found 8 experts"),
        ({"rope.dimension_count": 4}, "positions on 4 of 8 channels"),
        ({"attention.key_length": 16}, "values of 8 channels a head for keys of 16"),
        ({"attention.value_length": 16}, "values of 16 channels a head for keys of 8"),
        ({"rope.scaling.type": "yarn"}, f"{SCALED} 'yarn'"),
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}, f"{SCALED} 'longrope' with the factor 4"),
        ({"rope.scaling.attn_factor": 1.2}, r"llama\.rope\.scaling\.attn_factor = 1\.2"),
        ({"attention.sliding_window": 16}, r"llama\.attention\.sliding_window = 16"),
        ({"logit_scale": 0.25, "residual_scale": 0.5}, r"logit_scale = 0\.25; llama\.residual_scale = 0\.5"),
        ({"embedding_scale": 12.0}, r"llama\.embedding_scale = 12"),
        ({"attention.scale": 0.01}, r"attention\.scale = 0\.01"),
        ({"attention.causal": False}, r"llama\.attention\.causal = False"),
        ({"attn_logit_softcapping": 50.0}, r"llama\.attn_logit_softcapping = 50"),
        ({"nobody.knows": 1}, r"llama\.nobody\.knows = 1"),
        ({"feed_forward_length": [40, 48]}, r"feed-forward of width \[40, 48\]"),
        ({"vocab_size": 12}, r"an embedding of 11 rows for llama\.vocab_size = 12"),
        ({"tokenizer.ggml.nobody": "knows"}, r"tokenizer\.ggml\.nobody = 'knows'"),
        ({"block_count": None}, r"llama\.block_count is missing"),
        ({"split.count": 2, "split.no": 0}, r"part 1 of a model in 2 GGUF files.*llama-gguf-split --merge"),
        ({"general.type": "adapter"}, "of type 'adapter'"),
        ({}, r"missing: layers\.0\.attention\.wq\.weight"),
    ],
)
def test_what_the_layout_cannot_express_and_what_nobody_reads_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_model(tmp_path / "model.gguf", changes)
    with pytest.raises(ArtifactError, match=message):
        open_gguf(path)


def test_another_architecture_and_a_foreign_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="architecture 'gemma', expected llama"):
        open_gguf(write_model(tmp_path / "one.gguf", {}, architecture="gemma"))
    for tensor, about in (
        ("rope_freqs.weight", r"\(scaled rotary positions\) of other numbers than LLaMA 3"),
        ("blk.0.attn_k.bias", r"\(a bias\)"),
        ("blk.0.attn_q_norm.weight", r"\(a norm that this architecture does not have\)"),
        ("blk.0.ffn_gate_exps.weight", r"\(a mixture of experts\)"),
    ):
        with pytest.raises(ArtifactError, match=f"found the tensor {tensor} {about}"):
            open_gguf(write_model(tmp_path / f"{tensor}.gguf", {}, tensors=("token_embd.weight", tensor)))
    with pytest.raises(ArtifactError, match=r"found 1 tensors and no token_embd\.weight"):
        open_gguf(write_model(tmp_path / "two.gguf", {}, tensors=("output.weight",)))


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, 4.0),
        ({"rope.scaling.factor": 4.0}, 4.0),
        ({"rope.scale_linear": 2.5}, 2.5),
        ({"rope.scaling.type": "none", "rope.scale_linear": 2.5}, 1.0),
    ],
)
def test_a_linear_scaling_is_read_from_either_key(tmp_path: Path, changes: dict[str, Any], factor: float) -> None:
    path = write_model(tmp_path / "model.gguf", changes)
    metadata = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    assert params_from_metadata(path, metadata, num_rows=11).rope_scaling_factor == factor


@pytest.mark.parametrize(
    "changes",
    [
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 1.0},
        {"rope.scaling.factor": 0.0},
        {"attention.sliding_window": 0, "logit_scale": 0.0, "expert_count": 0, "attention.causal": True},
        {"attention.scale": 8**-0.5},
        {"attention.head_count": [2, 2]},
        {"note.written_by": "somebody", "general.name": "a model"},
    ],
)
def test_metadata_that_change_nothing_describe_the_plain_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_model(tmp_path / "model.gguf", changes)
    metadata = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    args = params_from_metadata(path, metadata, num_rows=11)
    assert (args.dim, args.n_heads, args.n_layers, args.hidden_dim, args.rope_theta) == (16, 2, 1, 40, 10000.0)


def test_a_file_that_is_cut_short_says_so(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", {})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match=r"cannot be read as GGUF.*cut short.*fetch it again"):
        open_gguf(path)


def test_a_type_of_quantisation_that_cannot_be_read_is_refused_before_any_tensor_is(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((11, 16), dtype=np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match=r"tensors of the type I8.*another type"):
        open_gguf(tmp_path / "model.gguf")
