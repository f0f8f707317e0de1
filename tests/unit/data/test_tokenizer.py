import hashlib
import io
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.contracts import Example
from wmtp_ray.data.index import build_index
from wmtp_ray.data.rows import Row, decode_row, read_rows
from wmtp_ray.data.tokenizer import (
    CodeTokenizer,
    encode_prompt,
    encode_row,
    read_examples,
    render_prompt,
    render_row,
    tokenizer_hash,
)
from wmtp_ray.errors import ArtifactError, DataError

REAL_DATA = Path(__file__).parents[4] / "shared" / "data"

TrainTokenizer = Callable[..., Path]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PIECES = ["\n", "\n\n", " ", "   ", "\t", "▁", "\0", "</s>", "<s>", "<0x0A>", "é", "日", "d", ":"]
TRICKY = st.lists(st.sampled_from(PIECES)).map("".join)
CODE = st.text(st.sampled_from("def x=1+():\n\t  é\u2028😀"), max_size=40)


def make_row(output: str, instruction: str = "Add two numbers.", input: str = "") -> Row:
    return Row(instruction, input, output, "sum_correct_0", True, "made_up", 1, True, 3, 0, "")


def spelled_bytes(tokenizer: CodeTokenizer, row: Row) -> list[bytes]:
    """What each piece of the row spells, by decoding ever longer prefixes: independent of the offsets."""
    text = render_row(row)
    ids = tokenizer.encode(text)
    pieces = [tokenizer._model._processor.id_to_piece(i) for i in ids]
    spelled = [
        bytes([int(piece[3:5], 16)]) if tokenizer._model._processor.is_byte(i) else piece.replace("▁", " ").encode()
        for i, piece in zip(ids, pieces, strict=True)
    ]
    spelled[0] = spelled[0].removeprefix(b" ")
    assert b"".join(spelled) == text.encode()
    return spelled


def prompt_tokens_by_loop(tokenizer: CodeTokenizer, row: Row) -> int:
    """Count BOS and the pieces that spell prompt bytes only."""
    boundary, end, count = len(render_prompt(row.instruction, row.input).encode()), 0, 1
    for spelled in spelled_bytes(tokenizer, row):
        end += len(spelled)
        if end > boundary:
            break
        count += 1
    return count


def test_the_prompt_without_input_has_no_input_section() -> None:
    assert render_prompt("Add.", "") == "### Instruction:\nAdd.\n\n### Response:\n"
    assert render_prompt("Add.", "1 2") == "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"


def test_an_example_is_bos_prompt_response_eos(tokenizer: CodeTokenizer) -> None:
    row = make_row("    x = 1\n")
    example = encode_row(row, tokenizer, row_id=9)
    tokens = example.tokens_T.tolist()
    assert (example.row_id, example.is_correct, example.tokens_T.dtype) == (9, True, np.int32)
    assert (tokens[0], tokens[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert tokens[1:-1] == tokenizer.encode(render_row(row))
    assert tokens[: example.prompt_tokens] == encode_prompt(row.instruction, row.input, tokenizer).tolist()


@given(output=TEXTS | CODE, instruction=TEXTS, input=TEXTS)
def test_the_boundary_equals_a_loop_over_spelled_bytes(
    tokenizer: CodeTokenizer, output: str, instruction: str, input: str
) -> None:
    row = make_row(output, instruction, input)
    assert encode_row(row, tokenizer, 0).prompt_tokens == prompt_tokens_by_loop(tokenizer, row)


@given(output=CODE | st.sampled_from(["def f", " x", "d", "\nd", "    d"]))
def test_the_boundary_equals_the_loop_when_a_piece_straddles_it(
    straddling_tokenizer: CodeTokenizer, output: str
) -> None:
    row = make_row(output)
    assert encode_row(row, straddling_tokenizer, 0).prompt_tokens == prompt_tokens_by_loop(straddling_tokenizer, row)


@given(output=TEXTS | CODE)
def test_supervised_tokens_spell_the_output(tokenizer: CodeTokenizer, output: str) -> None:
    example = encode_row(make_row(output), tokenizer, 0)
    prompt, response = np.split(example.tokens_T, [example.prompt_tokens])
    assert tokenizer.decode_continuation(prompt.tolist(), response.tolist()) == output


def test_a_straddling_piece_is_supervised_and_no_prompt_piece_is(straddling_tokenizer: CodeTokenizer) -> None:
    row = make_row("def f(): pass")
    example = encode_row(row, straddling_tokenizer, 0)
    spelled = spelled_bytes(straddling_tokenizer, row)
    assert spelled[example.prompt_tokens - 1] == b"\nd"
    assert b"".join(spelled[: example.prompt_tokens - 1]) == render_prompt(row.instruction, "").encode()[:-1]


def test_all_bytes_of_a_byte_spelled_first_character_are_supervised(tokenizer: CodeTokenizer) -> None:
    example = encode_row(make_row("😀"), tokenizer, 0)
    assert len(example.tokens_T) - example.prompt_tokens == len("😀".encode()) + 1  # and EOS


def test_an_empty_output_supervises_eos_alone(tokenizer: CodeTokenizer) -> None:
    example = encode_row(make_row(""), tokenizer, 0)
    assert len(example.tokens_T) - example.prompt_tokens == 1
    assert example.tokens_T[-1] == tokenizer.eos_id


def test_special_tokens_written_in_a_row_stay_text(tokenizer: CodeTokenizer) -> None:
    tokens = encode_row(make_row("print('</s><s>')"), tokenizer, 0).tokens_T.tolist()
    assert tokens.count(tokenizer.eos_id) == tokens.count(tokenizer.bos_id) == 1


def test_indentation_survives_decoding_a_continuation(tokenizer: CodeTokenizer) -> None:
    prompt = [tokenizer.bos_id, *tokenizer.encode("if x:\n")]
    whole = [tokenizer.bos_id, *tokenizer.encode("if x:\n    y = 1")]
    assert whole[: len(prompt)] == prompt
    assert tokenizer.decode_continuation(prompt, whole[len(prompt) :]) == "    y = 1"


@given(TEXTS | CODE)
def test_offsets_never_decrease_and_cover_the_text(tokenizer: CodeTokenizer, text: str) -> None:
    ids, spans = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode(text)
    assert [begin for begin, _ in spans] == sorted(begin for begin, _ in spans)
    covered = b"".join(text.encode()[begin:end] for begin, end in spans)
    assert covered == text.encode()


MARKED = st.lists(st.sampled_from(["▁", "▁▁", " ", "\n", "x", "'", "▂█", "    "])).map("".join)


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_a_lower_one_eighth_block_in_a_text_stays_one(
    tmp_path: Path, train_tokenizer: TrainTokenizer, add_dummy_prefix: bool
) -> None:
    tokenizer = CodeTokenizer(train_tokenizer(tmp_path / "m", 380, add_dummy_prefix=add_dummy_prefix))

    @given(text=MARKED, head=MARKED)
    def comes_back(text: str, head: str) -> None:
        ids, spans = tokenizer.encode_with_offsets(text)
        assert tokenizer.decode(ids) == text
        assert ids == tokenizer.encode(text)
        assert b"".join(text.encode()[begin:end] for begin, end in spans) == text.encode()
        assert tokenizer.decode(tokenizer.encode_pair(head + "\n", text)[0].tolist()) == f"{head}\n{text}"

    comes_back()


def test_what_stands_around_the_block_is_encoded_as_without_it(tokenizer: CodeTokenizer) -> None:
    around = [piece for part in ("bar = '", "' * 8\n") for piece in tokenizer.encode(part)]
    ids = tokenizer.encode("bar = '▁' * 8\n")
    assert tokenizer.decode(ids) == "bar = '▁' * 8\n"
    assert len(ids) <= len(around) + 3


CUT_AT_NEWLINES = {
    "newline is a piece": {"symbols": ("\n",)},
    "newline ends a piece": {"symbols": (":\n", "\n")},
    "newline is a byte": {"symbols": ()},
    "newline is a byte, no blank in front": {"symbols": (), "add_dummy_prefix": False},
}
NEVER_CUT = {
    "newline opens a piece": {"symbols": ("\nd", "\n")},
    "folded": {"symbols": ("\n",), "normalization_rule_name": "nfkc"},
    "blanks dropped": {"symbols": ("\n",), "remove_extra_whitespaces": True},
    "blanks behind": {"symbols": ("\n",), "treat_whitespace_as_suffix": True},
    "unigram": {"symbols": ("\n",), "model_type": "unigram", "hard_vocab_limit": False},
    "newline is unknown": {"symbols": (), "byte_fallback": False, "hard_vocab_limit": False},
}
LINES = ["### Instruction:", "Add two numbers.", "### Response:", "def add(a, b):", "    return a + b", "\t\tx = 3"]


def train_on_lines(path: Path, symbols: tuple[str, ...], **options: object) -> None:
    """Like `train_tokenizer`, but no newline is ever seen: it is spelled as a byte, or unknown."""
    model = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "num_threads": 1}
    settings |= {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "minloglevel": 2}
    lines, size = iter(LINES * 9), 310 if options.get("byte_fallback", True) else 50
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=size, **(settings | options)
    )
    path.write_bytes(model.getvalue())


@pytest.fixture(scope="session")
def kinds(train_tokenizer: TrainTokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CodeTokenizer]:
    """The tokenizers of CUT_AT_NEWLINES and NEVER_CUT, by name."""
    found = {}
    for kind, options in (CUT_AT_NEWLINES | NEVER_CUT).items():
        path = tmp_path_factory.mktemp("kind") / "tokenizer.model"
        train_one = train_on_lines if not options["symbols"] else partial(train_tokenizer, vocab_size=380)
        train_one(path, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of them are not fit for code
            found[kind] = CodeTokenizer(path)
    return found


def pair_by_offsets(tokenizer: CodeTokenizer, prompt: str, response: str) -> tuple[list[int], int]:
    """The whole text encoded at once, and a loop over its pieces' spans to find the response."""
    ids, spans = tokenizer.encode_with_offsets(prompt + response)
    boundary, prompt_tokens = len(prompt.encode()), 1
    for begin, end in spans:
        if end > boundary or begin >= boundary:
            break
        prompt_tokens += 1
    return [tokenizer.bos_id, *ids, tokenizer.eos_id], prompt_tokens


def encoded_pair(tokenizer: CodeTokenizer, prompt: str, response: str) -> tuple[list[int], int]:
    tokens_T, prompt_tokens = tokenizer.encode_pair(prompt, response)
    assert tokens_T.dtype == np.int32
    return tokens_T.tolist(), prompt_tokens


@pytest.mark.parametrize("kind", [*CUT_AT_NEWLINES, *NEVER_CUT])
@given(prompt=TRICKY | TEXTS, response=TRICKY | TEXTS | CODE)
def test_a_pair_is_encoded_as_its_whole_text(
    kinds: dict[str, CodeTokenizer], kind: str, prompt: str, response: str
) -> None:
    for head in (prompt, prompt + "\n"):
        assert encoded_pair(kinds[kind], head, response) == pair_by_offsets(kinds[kind], head, response)


@pytest.mark.parametrize("kind", [*CUT_AT_NEWLINES, *NEVER_CUT])
def test_a_text_is_cut_behind_newlines_only_where_no_piece_crosses_them(
    kinds: dict[str, CodeTokenizer], kind: str
) -> None:
    """The property above would hold, slowly, if nothing were ever cut; and a wrong cut would show in it."""
    assert kinds[kind]._model.newline_ends_pieces == (kind in CUT_AT_NEWLINES)


def test_the_hash_is_that_of_the_file(tokenizer: CodeTokenizer, tokenizer_path: Path) -> None:
    digest = hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()
    assert tokenizer.sha256 == tokenizer_hash(tokenizer_path) == digest


def test_a_pickled_tokenizer_encodes_the_same(tokenizer: CodeTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("def f(x):\n    return x") == tokenizer.encode("def f(x):\n    return x")


def test_a_pickled_tokenizer_refuses_another_file_in_its_place(tmp_path: Path, train_tokenizer: TrainTokenizer) -> None:
    path = train_tokenizer(tmp_path / "tokenizer.model", 380)
    message = pickle.dumps(CodeTokenizer(path))
    train_tokenizer(path, 390)
    with pytest.raises(ArtifactError, match="same on every node"):
        pickle.loads(message)


def test_a_missing_tokenizer_names_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"set tokenizer\.path"):
        CodeTokenizer(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file, no SentencePiece model.*fetch the file again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "found a Git LFS pointer.*git lfs pull"),
        (b"IQ== 0\nIg== 1\n", r"found a tiktoken vocabulary, as LLaMA 3 has.*give the tokenizer\.json"),
        (b'{"model": {}}', "found a JSON file"),
    ],
)
def test_a_file_that_is_no_model_is_named_and_the_remedy_fits(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        CodeTokenizer(path)


def test_a_model_that_is_cut_short_is_told_from_one_of_another_kind(tmp_path: Path, tokenizer_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_path.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match=r"cut short or damaged.*fetch the file again"):
        CodeTokenizer(path)


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path, train_tokenizer: TrainTokenizer) -> None:
    path = train_tokenizer(tmp_path / "tokenizer.model", 380, eos_id=-1)
    with pytest.raises(ArtifactError, match="eos_id -1"):
        CodeTokenizer(path)


def test_a_tokenizer_that_folds_newlines_warns(tmp_path: Path, train_tokenizer: TrainTokenizer) -> None:
    path = train_tokenizer(tmp_path / "tokenizer.model", 380, normalization_rule_name="nmt_nfkc")
    with pytest.warns(UserWarning, match="identity normalisation"):
        tokenizer = CodeTokenizer(path)
    assert tokenizer.decode(tokenizer.encode("a\nb")) != "a\nb"


def test_examples_read_from_a_file_equal_examples_encoded_from_rows(
    tmp_path: Path, tokenizer: CodeTokenizer, line: Callable[..., bytes]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(line(output=f"print({n})", is_correct=n % 2 == 0) for n in range(5)))
    index = build_index(path, on_error="fail").index
    order = [4, 1, 3]
    examples = read_examples(path, index.offset_R[order].tolist(), index.num_bytes_R[order].tolist(), order, tokenizer)
    rows = read_rows(path, index.offset_R[order].tolist(), index.num_bytes_R[order].tolist())
    for example, row, row_id in zip(examples, rows, order, strict=True):
        assert_same(example, encode_row(row, tokenizer, row_id))
    assert [example.is_correct for example in examples] == [True, False, False]


def test_reading_examples_of_a_replaced_file_is_refused(
    tmp_path: Path, tokenizer: CodeTokenizer, line: Callable[..., bytes]
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line())
    index = build_index(path, on_error="fail").index
    path.write_bytes(b"\n" + line())
    with pytest.raises(DataError, match="no whole row"):
        read_examples(path, index.offset_R.tolist(), index.num_bytes_R.tolist(), [0], tokenizer)


def test_every_real_row_is_encoded_as_its_whole_text() -> None:
    model_path, path = (
        REAL_DATA / "tokenizer" / "tokenizer.model.v1",
        REAL_DATA / "codecontests_sample" / "alpaca.jsonl",
    )
    if not (model_path.exists() and path.exists()):
        pytest.skip("the real rows are not here; the generated ones above prove the same")
    tokenizer = CodeTokenizer(model_path)
    assert tokenizer._model.newline_ends_pieces
    for line in path.read_bytes().splitlines():
        row = decode_row(line)
        prompt = render_prompt(row.instruction, row.input)
        assert encoded_pair(tokenizer, prompt, row.output) == pair_by_offsets(tokenizer, prompt, row.output)


@pytest.mark.parametrize("file", ["codecontests_sample/alpaca.jsonl", "mbpp_verified/valid.jsonl"])
def test_real_rows_decode_to_their_output(file: str) -> None:
    model_path, path = REAL_DATA / "tokenizer" / "tokenizer.model.v1", REAL_DATA / file
    if not (model_path.exists() and path.exists()):
        pytest.skip("the real rows are not here; the generated ones above prove the same")
    tokenizer = CodeTokenizer(model_path)
    index = build_index(path, on_error="fail").index
    for row in read_rows(path, index.offset_R[:200].tolist(), index.num_bytes_R[:200].tolist()):
        example = encode_row(row, tokenizer, 0)
        prompt, response = np.split(example.tokens_T, [example.prompt_tokens])
        assert tokenizer.decode_continuation(prompt.tolist(), response.tolist()) == row.output
        assert example.prompt_tokens == prompt_tokens_by_loop(tokenizer, row)


def assert_same(one: Example, other: Example) -> None:
    assert one.tokens_T.tolist() == other.tokens_T.tolist()
    assert (one.row_id, one.prompt_tokens, one.is_correct) == (other.row_id, other.prompt_tokens, other.is_correct)
