import io
from pathlib import Path

import pytest
import sentencepiece

from vendor.meta_llama import Tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "for i in range(10):\n    print(i)\n", "while x > 0:\n    x = x - 1\n"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, vocab_size=300, model_type="bpe", byte_fallback=True,
        pad_id=-1, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return Tokenizer(path)


def test_surface_is_metas(tokenizer: Tokenizer) -> None:
    assert (tokenizer.n_words, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (300, 1, 2, -1)


def test_begin_and_end_ids_stand_where_asked_and_decode_to_nothing(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode(TEXTS[0], bos=False, eos=False)
    assert tokenizer.encode(TEXTS[0], bos=True, eos=True) == [1, *plain, 2]
    assert tokenizer.decode([1, *plain, 2]) == tokenizer.decode(plain)


@pytest.mark.parametrize("text", TEXTS)
def test_code_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) == text
