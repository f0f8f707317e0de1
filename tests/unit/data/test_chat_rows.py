"""Training rows as chats: the prompt is what the model is asked with, the response ends as its turn ends."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tests.byte_level_shapes import write_shape
from tests.byte_level_tokenizer import BEGIN, END
from wmtp_ray.data.index import build_index, count_tokens, ensure_index
from wmtp_ray.data.rows import Row, decode_row
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, read_indexed
from wmtp_ray.errors import ArtifactError, ConfigError, DataError
from wmtp_ray.training.collect_evidence import prompt_text, response_texts

MakeLine = Callable[..., bytes]
TURNS = (
    "{% for m in messages %}" + BEGIN + "{{ m.role }}\n{{ m.content | trim }}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + BEGIN + "assistant\n{% endif %}"
)
TEXTS = st.lists(st.sampled_from(["x", " ", "\n", "    ", "é", "日", "=", "1", BEGIN, END, "print"])).map("".join)


def of_template(directory: Path, template: str = TURNS, shape: str = "qwen", **settings: object) -> CodeTokenizer:
    return CodeTokenizer(write_shape(directory, shape, chat_template=template, **settings), "chat")


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    return of_template(tmp_path_factory.mktemp("chats"))


def make_row(output: str = "x = 1\n", instruction: str = "Add.", input: str = "") -> Row:
    return Row(instruction, input, output, "sum_correct_0", True, "made_up", 1, True, 3, 0, "")


def test_a_row_is_the_prompt_of_the_template_and_an_answer_that_ends_as_a_turn(chats: CodeTokenizer) -> None:
    example = encode_row(make_row(input="1 2"), chats, 7)
    tokens, begin, end = example.tokens_T.tolist(), chats.bos_id, chats.eos_id
    asked = chats.encode_chat("Add.\n\n1 2")
    assert asked is not None
    assert tokens[: example.prompt_tokens] == asked.tolist()
    assert tokens[example.prompt_tokens :] == [*chats.encode("x = 1\n"), end]
    assert tokens.count(begin) == 2


@given(instruction=TEXTS, output=TEXTS)
def test_special_tokens_in_a_row_are_text_and_its_response_comes_back(
    chats: CodeTokenizer, instruction: str, output: str
) -> None:
    row = make_row(f"y{output}", f"q{instruction}q")
    example = encode_row(row, chats, 0)
    tokens = example.tokens_T.tolist()
    assert (tokens.count(chats.bos_id), tokens.count(chats.eos_id), tokens[-1]) == (2, 2, chats.eos_id)
    assert chats.decode_continuation(tokens[: example.prompt_tokens], tokens[example.prompt_tokens :]) == row.output
    assert tokens[: example.prompt_tokens] == chats.chat_rows.prompt_ids(row.instruction).tolist()
    texts = response_texts(row, chats)
    assert len(texts) == len(tokens) - example.prompt_tokens
    if row.output.isascii():  # a character in several tokens shows as U+FFFD
        assert "".join(texts[:-1]) == row.output


def test_the_shown_prompt_is_the_templates(chats: CodeTokenizer) -> None:
    assert prompt_text(make_row(), chats) == f"{BEGIN}user\nAdd.{END}\n{BEGIN}assistant\n"


@pytest.mark.parametrize(
    ("behind", "text", "ends"),
    [
        (END + "\n", "", "E"),
        ("\n" + END + "\n", "\n", "E"),
        (BEGIN, "", "BE"),
        ("\n\n", "", "E"),
        ("", "", "E"),
    ],
    ids=["EOS", "a newline and EOS", "another token", "no token", "nothing"],
)
def test_the_end_of_a_turn_is_supervised_with_eos_behind_it_where_decoding_would_go_on(
    tmp_path: Path, behind: str, text: str, ends: str
) -> None:
    tokenizer = of_template(tmp_path, "{% for m in messages %}{{ m.role }}: {{ m.content }}" + behind + "{% endfor %}")
    example = encode_row(make_row("x"), tokenizer, 0)
    ids = tuple({"E": tokenizer.eos_id, "B": tokenizer.bos_id}[name] for name in ends)
    response = example.tokens_T[example.prompt_tokens :].tolist()
    assert response[-len(ids) :] == list(ids)
    assert tokenizer.decode(response).endswith(f"x{text}")
    assert tokenizer.row_ends == ids


def test_an_end_of_turn_that_ends_decoding_stands_in_place_of_eos(tmp_path: Path) -> None:
    tokenizer = of_template(tmp_path / "base", bos_token=None)
    assert tokenizer.row_ends == (tokenizer.eos_id,)
    other = of_template(
        tmp_path / "other", TURNS.replace(END, "<|stop|>").replace(BEGIN, END).replace("<|stop|>", BEGIN)
    )
    begin = json.loads(other.model_path.read_text())["added_tokens"][0]["id"]
    assert other.row_ends == (begin, other.eos_id)
    (other.model_path.parent / "generation_config.json").write_text(json.dumps({"eos_token_id": [other.eos_id, begin]}))
    assert CodeTokenizer(other.model_path, "chat").row_ends == (begin,)


def test_a_model_without_a_template_is_refused_before_any_row(tmp_path: Path) -> None:
    path = write_shape(tmp_path, "qwen")
    with pytest.raises(ConfigError, match=r"data\.template=chat, but no chat template .* data\.template=plain"):
        CodeTokenizer(path, "chat")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Say it.", "leaves out the message"),
        ("{{ messages[0]['content'] }}:", "does not write an assistant's answer just once"),
        ("{{ raise_exception('no') }}", "chat template fails"),
    ],
)
def test_a_template_that_rows_cannot_be_put_into_is_refused(tmp_path: Path, template: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        of_template(tmp_path, template)


def test_a_template_with_a_date_writes_the_same_rows_every_day(tmp_path: Path) -> None:
    tokenizer = of_template(tmp_path, "{{ strftime_now('%d %b %Y') }}\n" + TURNS)
    assert prompt_text(make_row(), tokenizer).startswith("26 Jul 2024\n")


def test_a_normaliser_is_held_against_the_whole_chat(chats: CodeTokenizer, tmp_path: Path) -> None:
    for row in (make_row("\u212b"), make_row(instruction="e\u0301")):
        with pytest.raises(ChangedText, match="NFC"):
            encode_row(row, chats, 0)
    glued = of_template(
        tmp_path, "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}e{% endif %}{% endfor %}"
    )
    with pytest.raises(ChangedText, match=r"U\+0065 U\+0301"):
        encode_row(make_row("\u0301"), glued, 0)


def test_counts_are_those_of_chats_and_another_template_counts_anew(
    tmp_path: Path, line: MakeLine, chats: CodeTokenizer
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\n".join(line(task_id=f"{name}_correct_0") for name in "ab") + b"\n")
    index = ensure_index(path, chats, on_error="fail")
    assert index.tokenizer_hash == chats.counts_hash != chats.sha256
    for row, example in zip(path.read_bytes().splitlines(), read_indexed(index, index.problem_R, chats), strict=True):
        expected = encode_row(decode_row(row), chats, 0)
        assert example.tokens_T.tolist() == expected.tokens_T.tolist()
        assert len(expected.tokens_T) == index.num_tokens_R[example.row_id]
        assert expected.prompt_tokens == index.prompt_tokens_R[example.row_id]
    plain = CodeTokenizer(chats.model_path)
    assert plain.counts_hash == plain.sha256 == chats.sha256
    again = ensure_index(path, plain, on_error="fail")
    assert again.tokenizer_hash == plain.sha256
    assert (
        again.num_tokens_R.tolist()
        == count_tokens(build_index(path, on_error="fail").index, plain).num_tokens_R.tolist()
    )


def test_another_chat_template_has_other_counts(chats: CodeTokenizer, tmp_path: Path) -> None:
    assert of_template(tmp_path, TURNS.replace("user", "human") + " ").counts_hash != chats.counts_hash


def test_a_refused_row_names_the_command_of_its_template(tmp_path: Path, line: MakeLine, chats: CodeTokenizer) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(line(output="\u212b"))
    with pytest.raises(DataError, match="--template chat --on-error skip"):
        ensure_index(path, chats, on_error="fail")


def test_a_pickled_tokenizer_keeps_its_template(chats: CodeTokenizer) -> None:
    other = pickle.loads(pickle.dumps(chats))
    assert encode_row(make_row(), other, 0).tokens_T.tolist() == encode_row(make_row(), chats, 0).tokens_T.tolist()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_sentencepiece_model_puts_a_blank_where_its_chats_have_one(tmp_path: Path, legacy: bool) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["def add(a, b):\n    return a + b\n", "user assistant Add x = 1"] * 9),
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        vocab_size=310,
        control_symbols=["<|im_start|>", "<|im_end|>"],
        minloglevel=2,
        num_threads=1,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    template = TURNS.replace(BEGIN, "<|im_start|>").replace(END, "<|im_end|>")
    settings = {"chat_template": template, "legacy": legacy, "bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = CodeTokenizer(tmp_path / "tokenizer.model", "chat")
    for output in ("x = 1\n", "  \u2581é", "def"):
        example = encode_row(make_row(output), tokenizer, 0)
        tokens = example.tokens_T.tolist()
        asked = tokenizer.encode_chat("Add.")
        assert asked is not None
        assert tokens[: example.prompt_tokens] == asked.tolist() == tokenizer.chat_rows.prompt_ids("Add.").tolist()
        assert len(tokenizer.row_ends) == 2
        assert tuple(tokens[-2:]) == tokenizer.row_ends
        assert tokenizer.decode_continuation(asked.tolist(), tokens[example.prompt_tokens :]) == output
