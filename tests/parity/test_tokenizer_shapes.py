"""Byte-level tokenizers of today's families against the library tokenizers and transformers: the same ids."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.byte_level_shapes import SHAPES, write_shape
from tests.byte_level_tokenizer import BEGIN, END
from wmtp_ray.data.byte_level_model import ALPHABET
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer

transformers = pytest.importorskip("transformers")

PIECES = ["\n", "\n\n", " ", "   ", "\t", "\r\n", "\u0301", "e", "é", "日本", "😀", "add", "'s", "12345", "(", "print"]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@pytest.fixture(scope="session", params=list(SHAPES))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("shape"), request.param)


@pytest.fixture(scope="session")
def ours(path: Path) -> CodeTokenizer:
    return CodeTokenizer(path)


@pytest.fixture(scope="session")
def library(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


@given(text=TEXTS)
def test_ids_are_those_of_the_library_whether_or_not_it_normalises(
    ours: CodeTokenizer, library: Tokenizer, text: str
) -> None:
    assert ours.encode(text) == library.encode(text, add_special_tokens=False).ids


@given(text=TEXTS)
def test_a_text_has_offsets_in_its_own_bytes_or_is_refused(ours: CodeTokenizer, path: Path, text: str) -> None:
    content = json.loads(path.read_text())
    if content["normalizer"] == {"type": "NFC"} and unicodedata.normalize("NFC", text) != text:
        with pytest.raises(ChangedText, match="in the form NFC"):
            ours.encode_with_offsets(text)
        return
    pieces = {index: piece for piece, index in content["model"]["vocab"].items()}
    ids, spans = ours.encode_with_offsets(text)
    assert ids == ours.encode(text)
    spelled = [bytes(ALPHABET[character] for character in pieces[index]) for index in ids]
    assert [text.encode()[begin:end] for begin, end in spans] == spelled
    assert ours.decode(ids) == text


def test_ids_are_those_of_transformers(ours: CodeTokenizer, path: Path) -> None:
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(path.parent)
    for text in ("def add(a, b):\n    return a + b\n", "    e\u0301 = 12345  # 日本語\r\n\r\n", "it's\t\t😀"):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)


def test_a_word_that_is_a_piece_is_one_token_where_merges_are_ignored(tmp_path: Path) -> None:
    """No merge makes "qzx": as a piece of the vocabulary it is one token all the same."""
    path = write_shape(tmp_path, "llama 3")
    content = json.loads(path.read_text())
    content["model"]["vocab"]["qzx"] = max(content["model"]["vocab"].values()) + 1
    path.write_text(json.dumps(content))
    assert len(CodeTokenizer(path).encode("qzx")) == 1
    content["model"]["ignore_merges"] = False
    path.write_text(json.dumps(content))
    assert len(CodeTokenizer(path).encode("qzx")) == 3


@pytest.mark.parametrize(
    "flags",
    [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}],
    ids=lambda flags: "+".join(flags) or "plain",
)
@pytest.mark.parametrize("text", ["a <|x|> b", "a<|x|>b", "a\n  <|x|>\n  b", "<|x|><|x|> <|x|>", " <|x|>", "(<|x|>)"])
def test_special_tokens_of_a_chat_take_white_space_as_in_the_library(
    tmp_path: Path, flags: dict[str, bool], text: str
) -> None:
    template = "{{ messages[0]['content'] }}" + END
    path = write_shape(tmp_path, "qwen", chat_template=template)
    library = Tokenizer.from_file(str(path))
    plain = {"id": library.get_vocab_size(), "content": "<|x|>", "special": True, "normalized": False}
    content = json.loads(path.read_text())
    content["added_tokens"].append(plain | {"lstrip": False, "rstrip": False, "single_word": False} | flags)
    path.write_text(json.dumps(content))
    library, chat = Tokenizer.from_file(str(path)), CodeTokenizer(path).encode_chat(text)
    assert chat is not None
    assert chat.tolist() == library.encode(text + END, add_special_tokens=False).ids
    assert BEGIN not in text
