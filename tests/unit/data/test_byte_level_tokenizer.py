"""CodeTokenizer over a tokenizer.json: the same promises as over SentencePiece (`test_tokenizer.py`)."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.byte_level_tokenizer import BEGIN, END, write_byte_level
from wmtp_ray.data.byte_level_model import ALPHABET
from wmtp_ray.data.rows import Row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_prompt, encode_row, tokenizer_hash
from wmtp_ray.errors import ArtifactError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECES = ["\n", "\n\n", " ", "   ", "\t", "Ġ", "\0", END, BEGIN, "é", "日", "😀", "d", ":", "12"]
TRICKY = st.lists(st.sampled_from(PIECES)).map("".join)


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_level(tmp_path_factory.mktemp("byte_level"))


@pytest.fixture(scope="session")
def tokenizer(path: Path) -> CodeTokenizer:
    return CodeTokenizer(path)


def make_row(output: str, instruction: str = "Add two numbers.", input: str = "") -> Row:
    return Row(instruction, input, output, "sum_correct_0", True, "made_up", 1, True, 3, 0, "")


def spelled_bytes(path: Path, ids: list[int]) -> list[bytes]:
    """What each id spells, read off the file: independent of the offsets."""
    pieces = {index: piece for piece, index in json.loads(path.read_text())["model"]["vocab"].items()}
    return [bytes(ALPHABET[character] for character in pieces[index]) for index in ids]


def prompt_tokens_by_loop(path: Path, tokens: list[int], prompt: str) -> int:
    """Count BOS and the pieces that spell prompt bytes only."""
    boundary, end, count = len(prompt.encode()), 0, 1
    for spelled in spelled_bytes(path, tokens[1:-1]):
        end += len(spelled)
        if end > boundary:
            break
        count += 1
    return count


@given(text=TEXTS | TRICKY)
def test_every_text_comes_back_as_it_was_except_for_control_tokens_meant_as_such(
    tokenizer: CodeTokenizer, text: str
) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id]) == text
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)


@given(text=TEXTS | TRICKY)
def test_spans_are_the_bytes_that_each_piece_spells(tokenizer: CodeTokenizer, path: Path, text: str) -> None:
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert [text.encode()[begin:end] for begin, end in spans] == spelled_bytes(path, ids)


@given(prompt=TEXTS | TRICKY, response=TEXTS | TRICKY)
def test_a_pair_is_encoded_as_its_whole_text_and_cut_where_the_response_begins(
    tokenizer: CodeTokenizer, path: Path, prompt: str, response: str
) -> None:
    for head in (prompt, prompt + "\n"):
        tokens_T, prompt_tokens = tokenizer.encode_pair(head, response)
        tokens = tokens_T.tolist()
        assert tokens_T.dtype == np.int32
        assert tokens == [tokenizer.bos_id, *tokenizer.encode(head + response), tokenizer.eos_id]
        assert prompt_tokens == prompt_tokens_by_loop(path, tokens, head)


def test_indentation_that_merges_with_the_prompts_newline_is_supervised(tokenizer: CodeTokenizer, path: Path) -> None:
    example = encode_row(make_row("    return 1"), tokenizer, 0)
    spelled = spelled_bytes(path, example.tokens_T.tolist()[1:-1])
    assert spelled[example.prompt_tokens - 1].startswith(b"\n ")


def test_a_response_decodes_after_the_prompt_of_its_generation(tokenizer: CodeTokenizer) -> None:
    row = make_row("print(1)\n")
    example = encode_row(row, tokenizer, 0)
    prompt = encode_prompt(row.instruction, row.input, tokenizer).tolist()
    assert example.tokens_T[: example.prompt_tokens].tolist() == prompt
    assert tokenizer.decode_continuation(prompt, example.tokens_T[len(prompt) :].tolist()) == row.output


def test_a_model_without_a_begin_token_begins_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = CodeTokenizer(write_byte_level(tmp_path, bos_token=None))
    assert tokenizer.bos_id == tokenizer.eos_id
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("x = 1")]) == "x = 1"


def test_bytes_without_a_piece_are_left_out_and_count_to_the_piece_before(tmp_path: Path) -> None:
    path = write_byte_level(tmp_path)
    _change(path, lambda content: content["model"]["vocab"].pop(_character(0x04)))
    tokenizer = CodeTokenizer(path)
    ids, spans = tokenizer.encode_with_offsets("\x04ab\x04c\x04")
    assert tokenizer.decode(ids) == "abc"
    assert (spans[0][0], spans[-1][1]) == (0, 6)
    assert [end for _, end in spans[:-1]] == [begin for begin, _ in spans[1:]]


def _character(byte: int) -> str:
    return next(character for character, value in ALPHABET.items() if value == byte)


def test_the_hash_tells_end_tokens_apart(tmp_path: Path, path: Path, tokenizer: CodeTokenizer) -> None:
    other = write_byte_level(tmp_path, bos_token=END)
    assert other.read_bytes() == path.read_bytes()
    assert tokenizer_hash(path) == tokenizer.sha256 != CodeTokenizer(other).sha256


def test_a_pickled_tokenizer_encodes_the_same(tokenizer: CodeTokenizer) -> None:
    assert pickle.loads(pickle.dumps(tokenizer)).encode("def f(x):") == tokenizer.encode("def f(x):")


def test_a_pickled_tokenizer_refuses_other_files_in_its_place(tmp_path: Path) -> None:
    path = write_byte_level(tmp_path)
    message = pickle.dumps(CodeTokenizer(path))
    write_byte_level(tmp_path, vocab_size=330)
    with pytest.raises(ArtifactError, match="same on every node"):
        pickle.loads(message)


def test_a_chat_is_rendered_by_the_models_template(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{{ bos_token + message['role'] + '\n' + message['content'] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ bos_token + 'assistant\n' }}{% endif %}"
    )
    tokenizer = CodeTokenizer(write_byte_level(tmp_path, chat_template=template))
    begin, end, encode = tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode
    chat = tokenizer.encode_chat("Add.")
    assert chat is not None
    assert chat.tolist() == [begin, *encode("user\nAdd."), end, begin, *encode("assistant\n")]


def test_a_model_without_a_template_has_no_chat(tokenizer: CodeTokenizer) -> None:
    assert tokenizer.encode_chat("Add.") is None


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% if %}", "{{ ''.__class__.__mro__ }}"])
def test_a_template_that_fails_or_reaches_out_is_an_artifact_error(tmp_path: Path, template: str) -> None:
    tokenizer = CodeTokenizer(write_byte_level(tmp_path, chat_template=template))
    with pytest.raises(ArtifactError, match="chat template fails"):
        tokenizer.encode_chat("Add.")


Content = dict[str, Any]


def _change(path: Path, change: Callable[[Content], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def sequence(*normalizers: Content) -> Content:
    return {"type": "Sequence", "normalizers": list(normalizers)}


PREPEND = {"type": "Prepend", "prepend": "\u2581"}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
ADDED = {"id": 400, "content": "<x>", "single_word": False, "lstrip": True, "rstrip": False, "normalized": False}
LOOSE = ADDED | {"content": "e\u0301", "special": False, "lstrip": False, "normalized": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["model"].update(type="Unigram"), "model of type Unigram"),
        (lambda content: content["model"].update(dropout=0.1), "merges left out at random"),
        (lambda content: content["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (lambda content: content["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), "changed by Lowercase"),
        (lambda content: content.update(normalizer=sequence({"type": "NFC"}, PREPEND)), "changed by Prepend"),
        (lambda content: content.update(normalizer={"type": "ByteLevel"}), "changed by ByteLevel"),
        (
            lambda content: content.update(normalizer={"type": "NFC"}, added_tokens=[*content["added_tokens"], LOOSE]),
            "added tokens .* which its normaliser",
        ),
        (
            lambda content: content["pre_tokenizer"]["pretokenizers"].append(
                content["pre_tokenizer"]["pretokenizers"][1]
            ),
            "bytes spelled twice",
        ),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), "no ByteLevel step; text cut by White"),
        (lambda content: content["pre_tokenizer"]["pretokenizers"].append(SPLIT), "taken away by a cut"),
        (lambda content: content["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "put in front"),
        (lambda content: content["added_tokens"].append(ADDED | {"special": False}), "swallowed by <x>"),
        (lambda content: content["model"]["vocab"].pop("@"), r"1 bytes that text needs \(0x40\)"),
        (lambda content: content["model"].update(merges=[["Ġ", "no such"]]), "tokenizers refuses"),
    ],
)
def test_a_tokenizer_that_changes_text_is_refused(
    tmp_path: Path, change: Callable[[Content], object], message: str
) -> None:
    path = write_byte_level(tmp_path)
    _change(path, change)
    with pytest.raises(ArtifactError, match=message):
        CodeTokenizer(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{}", "names no eos_token"),
        ("[]", "a JSON list"),
        ("{", "no JSON"),
        ('{"eos_token": {"content": "<other>"}}', "'<other>', which is no special token"),
    ],
)
def test_settings_that_name_no_end_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    path = write_byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ArtifactError, match=message):
        CodeTokenizer(path)


def test_a_lone_tokenizer_json_asks_for_its_settings(tmp_path: Path) -> None:
    path = write_byte_level(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json is missing"):
        CodeTokenizer(path)
