import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from wmtp_ray.artifacts.hf.sentencepiece_json import sentencepiece_as_json
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError

REAL_TOKENIZER = Path(__file__).parents[5] / "shared" / "data" / "tokenizer" / "tokenizer.model.v1"
TEXTS = [
    "### Instruction:\nAdd two numbers and print the sum.\n\n### Response:\n",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))",
    "    if x == 1:\n        x = 2\n    else:\n\t\tx = 3",
]
PIECES = [" ", "  ", "    ", "\t", "\n", "\n\n", "a", "aa", "return", "def ", "é", "日", "😀", "(", "1"]
CODE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=30).filter(
    lambda text: "▁" not in text and text.isprintable()
)


def train(path: Path, **options: object) -> Path:
    model = io.BytesIO()
    settings: dict[str, object] = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    settings |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "minloglevel": 2}
    settings |= {"num_threads": 1, "vocab_size": 360}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 4), model_writer=model, **(settings | options)
    )
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("models")
    symbols = ["### Response:\n", "▁▁▁▁"]
    found = {
        "blank in front": train(directory / "front.model"),
        "no blank in front": train(directory / "plain.model", add_dummy_prefix=False),
        "symbols": train(directory / "symbols.model", add_dummy_prefix=False, user_defined_symbols=symbols),
    }
    return found | ({"real": REAL_TOKENIZER} if REAL_TOKENIZER.exists() else {})


@pytest.fixture(scope="session")
def both(models: dict[str, Path]) -> dict[str, tuple[CodeTokenizer, Tokenizer]]:
    return {
        kind: (CodeTokenizer(path), Tokenizer.from_buffer(sentencepiece_as_json(path.read_bytes(), path)))
        for kind, path in models.items()
    }


@pytest.mark.parametrize("kind", ["blank in front", "no blank in front", "symbols", "real"])
@given(text=CODE)
def test_texts_come_out_as_the_same_ids_behind_bos_and_as_the_same_text(
    both: dict[str, tuple[CodeTokenizer, Tokenizer]], kind: str, text: str
) -> None:
    if kind not in both:
        pytest.skip("the real tokenizer is not here; the trained ones prove the same")
    ours, theirs = both[kind]
    ids = theirs.encode(text).ids
    assert ids == [ours.bos_id, *ours.encode(text)]
    assert theirs.decode(ids) == ours.decode(ids) == text


def test_a_control_token_written_in_a_text_is_one(both: dict[str, tuple[CodeTokenizer, Tokenizer]]) -> None:
    ours, theirs = both["no blank in front"]
    assert theirs.encode("a</s>").ids == [ours.bos_id, *ours.encode("a"), ours.eos_id]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "hard_vocab_limit": False}, "no BPE"),
        ({"byte_fallback": False, "hard_vocab_limit": False, "vocab_size": 60}, "no byte fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "folding of characters"),
        ({"remove_extra_whitespaces": True}, "folding of blanks"),
        ({"treat_whitespace_as_suffix": True}, "blanks behind words"),
    ],
)
def test_a_model_that_changes_text_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = train(tmp_path / "tokenizer.model", **options)
    with pytest.raises(ArtifactError, match=message):
        sentencepiece_as_json(path.read_bytes(), path)
