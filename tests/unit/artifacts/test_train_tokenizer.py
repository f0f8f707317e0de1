"""Rules of tokenizer training: exact round trip, LLaMA's ids, reproducible bytes, refusals with numbers."""

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.errors import DataError

HEADERS = ("### Instruction:\n", "\n\n### Response:\n")
PROGRAMS = (
    "def f(a):\n    a = [x + 2 for x in a]\n    return sum(a)",
    "def f(xs):\n    for x in xs:\n        if x < 0:\n            return x\n\n    return 0\n",
    "class A:\n\tdef g(self):\n\t\treturn {'é': 1}\r\n",
)
TEXTS = tuple(f"{HEADERS[0]}task {n}{HEADERS[1]}{program}" for n in range(5) for program in PROGRAMS)
VOCAB_SIZE = 360


def load(path: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> sentencepiece.SentencePieceProcessor:
    path = tmp_path_factory.mktemp("tokenizer") / "new_directory" / "tokenizer.model"
    train_tokenizer(TEXTS, path, VOCAB_SIZE, user_defined_symbols=HEADERS)
    return load(path)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS[:3],
        "",
        " ",
        "\n",
        "\n\n\n",
        "    indented",
        "trailing  ",
        "\tx\r\n",
        "two  blanks",
        "never seen: 漢字 🙂\0",
    ],
)
def test_decoding_gives_the_text_back(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(alphabet=" \n\r\t\0\u2028(x:)1#é漢🙂", max_size=30))
def test_any_text_survives(tokenizer: sentencepiece.SentencePieceProcessor, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_as_in_llama(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, 1, 2, -1)
    assert tokenizer.vocab_size() == VOCAB_SIZE
    assert tokenizer.piece_to_id("<0x0A>") != tokenizer.unk_id()


def test_indentation_is_one_piece(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    assert len(tokenizer.encode("    return")) == 2


def test_a_symbol_with_blanks_and_newlines_is_one_piece(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    pieces = tokenizer.encode("".join(HEADERS), out_type=str)
    assert [piece.replace("\u2581", " ") for piece in pieces] == list(HEADERS)


def test_a_text_begins_with_the_same_pieces_as_its_prompt(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    for text in TEXTS:
        prompt = tokenizer.encode(text[: text.index(HEADERS[1]) + len(HEADERS[1])])
        assert tokenizer.encode(text)[: len(prompt)] == prompt


def test_same_texts_give_same_bytes_wherever_written(tmp_path: Path) -> None:
    paths = [tmp_path / "first.model", tmp_path / "elsewhere" / "second.model"]
    for path in paths:
        train_tokenizer(iter(TEXTS), path, VOCAB_SIZE)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    train_tokenizer(TEXTS[:5], paths[1], 330)
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_long_texts_are_not_dropped(tmp_path: Path) -> None:
    train_tokenizer(["word " * 2000 + "ü"], tmp_path / "long.model", 270)
    assert "ü" in load(tmp_path / "long.model").encode("ü", out_type=str)


def test_too_large_vocabulary_names_the_largest_possible(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of 5000 pieces .* at most (\d+): lower vocab_size") as refusal:
        train_tokenizer(TEXTS, tmp_path / "large.model", 5000)
    largest = int(str(refusal.value).split("at most ")[1].split(":")[0])
    train_tokenizer(TEXTS, tmp_path / "fits.model", largest)
    assert load(tmp_path / "fits.model").vocab_size() == largest
    assert not (tmp_path / "large.model").exists()


def test_too_small_vocabulary_names_the_smallest_possible(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"of 100 pieces .* need at least (\d+) .*: raise vocab_size") as refusal:
        train_tokenizer(TEXTS, tmp_path / "small.model", 100)
    smallest = int(str(refusal.value).split("at least ")[1].split(" ")[0])
    train_tokenizer(TEXTS, tmp_path / "fits.model", smallest)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts, tmp_path / "empty.model", 300)
