"""Rows to tokens: the prompt template, the tokenizer and the boundary between prompt and response.

Does not train a tokenizer, cut long rows or pad. Prompt and response are encoded as ONE string, because a response
encoded alone gets a leading blank that the model never sees in context; the boundary is then found by byte offsets.

A prompt ends with a newline, and in LLaMA's vocabulary (as in most of SentencePiece) nothing is merged across one: the
pieces of the whole are then those of the prompt followed by those of the response. Such a prompt is encoded once for
all the rows of its problem, which are most of the tokens; any other tokenizer takes the offsets.
"""

import hashlib
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from wmtp_ray.config.data import Template
from wmtp_ray.contracts import Example, Int32, Int64, RowIndex
from wmtp_ray.data.byte_level_model import ByteLevelModel, read_end_tokens
from wmtp_ray.data.chat_rows import ChatRows, chat_message
from wmtp_ray.data.chat_template import render_chat
from wmtp_ray.data.prompt_label import Label, Told, label_section, told_label
from wmtp_ray.data.rows import Row, read_rows
from wmtp_ray.data.sentencepiece_model import SentencePieceModel, Span
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer_settings import ids_that_end, read_if_there
from wmtp_ray.errors import ArtifactError, DataError
from wmtp_ray.model_folder import TokenizerFolder

# Python lives on newlines, tabs and runs of blanks: a normaliser that folds them trains another language.
_ROUND_TRIP_PROBE = "def f(x):\n    if x:\n\t\treturn  x\n\n"

_PROMPTS_KEPT = 4096  # encoded prompts, some 15 MB in each process that tokenises


class TokenizerModel(Protocol):
    """The interface of a tokenizer format; its methods do what `CodeTokenizer`'s methods of the same names do."""

    vocab_size: int
    bos_id: int
    eos_id: int

    def encode(self, text: str) -> Int32: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]: ...

    def decode(self, ids: list[int]) -> str: ...

    @property
    def newline_ends_pieces(self) -> bool:
        """Whether a text may be cut behind any newline: its pieces are those of both sides."""
        ...


class CodeTokenizer:
    """A tokenizer for code: text to ids with byte offsets, and back. BOS and EOS are added by callers.

    `model_path` is a tokenizer.model (SentencePiece) or a tokenizer.json (byte-level BPE) beside its
    tokenizer_config.json. Raises ArtifactError for a missing file, one of another kind, or one without EOS. Warns when
    the model does not give code back unchanged. Pickles as path and hash: another process loads the file itself.
    With the `template` chat, rows are encoded as chats of the model (`chat_rows.py`); ConfigError where it has no chat
    template.
    """

    def __init__(self, model_path: Path, template: Template = "plain") -> None:
        self.model_path = Path(model_path)
        self.template = template
        content = _read_model(self.model_path)
        self.sha256 = _content_hash(content, self.model_path)
        self._model = _open_model(content, self.model_path)
        self.vocab_size = self._model.vocab_size
        self.bos_id = self._model.bos_id
        self.eos_id = self._model.eos_id
        _check_fitness(self)
        self._encode_head = lru_cache(maxsize=_PROMPTS_KEPT)(self._encode_prompt)
        self.counts_hash = self.sha256 if template == "plain" else _joined_hash(self.sha256, self.chat_rows.hash)

    def __reduce__(self) -> tuple[Callable[[Path, str, Template], "CodeTokenizer"], tuple[Path, str, Template]]:
        return _reload, (self.model_path, self.counts_hash, self.template)

    def encode(self, text: str) -> list[int]:
        """Ids of the text's pieces, without BOS and EOS; a literal "</s>" in the text is text, not EOS."""
        ids: list[int] = self._model.encode(text).tolist()
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and, for each, the UTF-8 bytes [begin, end) of `text` it stands for; begins and ends never decrease.

        With SentencePiece two kinds of piece are empty: the blank put before the text, and all but the last byte of a
        character that is spelled in bytes. "aé" with é outside the vocabulary: ids a, <0xC3>, <0xA9>; spans (0, 1),
        (1, 1), (1, 3). Raises ChangedText where the tokenizer would encode another text.
        """
        return self._model.encode_with_offsets(text)

    def encode_pair(self, prompt: str, response: str) -> tuple[Int32, int]:
        """BOS, the pieces of `prompt + response`, EOS; and how many of these tokens stand before the response.

        The response begins at the first piece that reaches past the prompt's end or starts at it. Raises ChangedText
        where the tokenizer would encode another text than these two one behind the other.
        """
        if not (self._model.newline_ends_pieces and prompt.endswith("\n")):
            return self._encode_pair_by_offsets(prompt, response)
        head_T = self._encode_head(prompt)
        tail_T = self._model.encode("\n" + response)[self._newline_tokens :]
        return np.concatenate((head_T, tail_T, np.array([self.eos_id], dtype=np.int32))), len(head_T)

    def _encode_pair_by_offsets(self, prompt: str, response: str) -> tuple[Int32, int]:
        boundary = len(prompt.encode("utf-8"))
        ids, spans = self.encode_with_offsets(prompt + response)
        first_response = bisect_left(spans, True, key=lambda span: span[1] > boundary or span[0] >= boundary)
        return np.array([self.bos_id, *ids, self.eos_id], dtype=np.int32), 1 + first_response

    def _encode_prompt(self, prompt: str) -> Int32:
        return np.concatenate((np.array([self.bos_id], dtype=np.int32), self._model.encode(prompt)))

    @cached_property
    def _newline_tokens(self) -> int:
        """Tokens of a newline that opens a text, the blank that the model may put before it included."""
        return len(self.encode("\n"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of whole sequences; BOS and EOS vanish, a leading blank of SentencePiece's first piece is dropped."""
        return self._model.decode([int(i) for i in ids])

    def decode_continuation(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `prompt_ids`; decoding them alone would lose a leading blank, hence indentation."""
        return self.decode([*prompt_ids, *ids])[len(self.decode(prompt_ids)) :]

    def encode_chat(self, instruction: str) -> Int32 | None:
        """Ids of an instruction in the model's own chat format, up to where its answer begins; None if it has none.

        The format is the Jinja template in the files beside the tokenizer; special tokens in it are meant as such.
        """
        rendered = render_chat(self.model_path.parent, instruction)
        if rendered is None:
            return None
        if isinstance(self._model, ByteLevelModel):
            return self._model.encode_with_special_tokens(rendered)
        assert isinstance(self._model, SentencePieceModel)
        return self._model.encode_with_special_tokens(rendered, blank_behind_special=self._blank_behind_special)

    @cached_property
    def chat_rows(self) -> ChatRows:
        """Training rows as chats; ConfigError where the model has no chat template, ArtifactError for a wrong one."""
        assert isinstance(self._model, ByteLevelModel | SentencePieceModel)
        return ChatRows(
            self._model,
            self.model_path,
            eos_id=self.eos_id,
            end_ids=self.end_ids,
            blank_behind_special=self._blank_behind_special,
        )

    @cached_property
    def _blank_behind_special(self) -> bool:
        settings = read_if_there(TokenizerFolder.of(self.model_path).config)
        return isinstance(self._model, SentencePieceModel) and settings.get("legacy") is True

    @property
    def row_ends(self) -> tuple[int, ...]:
        """Ids behind a training row's response: EOS, or those of a chat (`chat_rows.py`)."""
        return self.chat_rows.ends if self.template == "chat" else (self.eos_id,)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer: `eos_id`, and those of the generation_config.json beside the tokenizer."""
        others = ids_that_end(self.model_path.parent)
        return frozenset([self.eos_id, *(index for index in others if 0 <= index < self.vocab_size)])


def index_command(jsonl: Path | str, tokenizer: CodeTokenizer) -> str:
    """Return the command that indexes a file for a tokenizer and leaves out the rows that it would change."""
    template = "" if tokenizer.template == "plain" else f" --template {tokenizer.template}"
    return f"wmtp data index {jsonl} --tokenizer {tokenizer.model_path}{template} --on-error skip"


def tokenizer_hash(model_path: Path) -> str:
    """Hash of all that determines the ids, equal to `CodeTokenizer.sha256`, without loading the tokenizer.

    The sha256 of a tokenizer.model; that of a tokenizer.json followed by the names of its begin and end tokens.
    """
    return _content_hash(_read_model(model_path), Path(model_path))


def render_prompt(instruction: str, input: str, label: Label | None = None) -> str:
    """The text before the response, its header included; an empty `input` has no section, None no label."""
    input_section = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{input_section}{label_section(label)}### Response:\n"


def render_row(row: Row) -> str:
    """Prompt and response as the one string that is encoded."""
    return render_prompt(row.instruction, row.input) + row.output


def encode_prompt(instruction: str, input: str, tokenizer: CodeTokenizer) -> Int32:
    """BOS and the prompt's pieces, in the tokenizer's normal form: what generation starts from."""
    return np.array([tokenizer.bos_id, *tokenizer.encode(render_prompt(instruction, input))], dtype=np.int32)


def encode_row(row: Row, tokenizer: CodeTokenizer, row_id: int, told: Told = "nothing") -> Example:
    """BOS, prompt, response, EOS, or a chat (`chat_rows.py`); supervised are the tokens from `prompt_tokens` on.

    The response begins at the first piece that reaches past the boundary or starts at it. So every byte of the output
    is supervised and no piece of the prompt alone is: a piece that straddles the boundary ("\\nd") is supervised, and
    so are the empty pieces that open a byte-spelled character. An empty output leaves EOS as the only target.

        text    "### Response:\\nx = 1"            boundary 14
        pieces  ▁### | ▁Response | : | \\n | x | ▁= | ▁ | 1
        tokens  BOS  ▁### ▁Response : \\n  x ▁= ▁ 1 EOS    prompt_tokens 5, response 5

    `told` says what the prompt tells of the row's label. Raises ChangedText for a row that the tokenizer would encode
    as another text.
    """
    if tokenizer.template == "chat":
        assert told == "nothing", "the configuration refuses labels in chats"
        tokens_T, prompt_tokens = tokenizer.chat_rows.encode(chat_message(row.instruction, row.input), row.output)
        return Example(row_id, tokens_T, prompt_tokens, is_correct=row.is_correct)
    prompt = render_prompt(row.instruction, row.input, told_label(told, is_correct=row.is_correct))
    tokens_T, prompt_tokens = tokenizer.encode_pair(prompt, row.output)
    return Example(row_id, tokens_T, prompt_tokens, is_correct=row.is_correct)


def read_examples(
    path: Path,
    offset_N: Sequence[int],
    num_bytes_N: Sequence[int],
    row_ids_N: Sequence[int],
    tokenizer: CodeTokenizer,
    *,
    is_correct_N: Sequence[bool] | None = None,
    told: Told = "nothing",
) -> list[Example]:
    """Read and encode rows at an index's offsets, in the order given; raises DataError like `read_rows`.

    An index that was counted for this tokenizer holds no row that it would change; DataError for one that it does.
    With the index's `is_correct_N`, rows need no labels of their own; without it they do.
    """
    rows = read_rows(path, offset_N, num_bytes_N, is_correct_N)
    try:
        return [encode_row(row, tokenizer, int(row_id), told) for row, row_id in zip(rows, row_ids_N, strict=True)]
    except ChangedText as error:
        raise DataError(
            f"{path}: {error}, expected rows that {tokenizer.model_path} leaves as they are; count the tokens anew: "
            f"{index_command(path, tokenizer)}"
        ) from error


def read_indexed(
    index: RowIndex, row_ids_N: Int64, tokenizer: CodeTokenizer, *, told: Told = "nothing"
) -> list[Example]:
    """Read and encode rows of an index, in the order given; raises DataError like `read_rows`."""
    return read_examples(
        Path(index.path),
        index.offset_R[row_ids_N].tolist(),
        index.num_bytes_R[row_ids_N].tolist(),
        row_ids_N.tolist(),
        tokenizer,
        is_correct_N=index.is_correct_R[row_ids_N].tolist(),
        told=told,
    )


def _joined_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _is_byte_level(model_path: Path) -> bool:
    return model_path.suffix == ".json"


def _open_model(content: bytes, model_path: Path) -> TokenizerModel:
    kind = ByteLevelModel if _is_byte_level(model_path) else SentencePieceModel
    return kind(content, model_path)


def _content_hash(content: bytes, model_path: Path) -> str:
    digest = hashlib.sha256(content)
    if _is_byte_level(model_path):
        digest.update("\0".join(read_end_tokens(model_path)).encode())
    return digest.hexdigest()


def _read_model(model_path: Path) -> bytes:
    try:
        return Path(model_path).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{model_path}: no tokenizer can be read there ({error.strerror}); expected a tokenizer.model or a "
            "tokenizer.json: set tokenizer.path to the policy's"
        ) from error


def _check_fitness(tokenizer: CodeTokenizer) -> None:
    returned = tokenizer.decode(tokenizer.encode(_ROUND_TRIP_PROBE))
    if returned != _ROUND_TRIP_PROBE:
        warnings.warn(
            f"{tokenizer.model_path}: found that code does not survive this tokenizer ({_ROUND_TRIP_PROBE!r} comes "
            f"back as {returned!r}), expected it unchanged; use a model with identity normalisation and byte fallback",
            stacklevel=3,
        )


@lru_cache(maxsize=2)  # a process that unpickles one tokenizer per task loads it once
def _reload(model_path: Path, counts_hash: str, template: Template) -> CodeTokenizer:
    tokenizer = CodeTokenizer(model_path, template)
    if tokenizer.counts_hash != counts_hash:
        raise ArtifactError(
            f"{model_path}: found a tokenizer with sha256 {tokenizer.counts_hash}, expected {counts_hash} as in the "
            "process that sent it; make the file the same on every node and start again"
        )
    return tokenizer
