"""Rows to tokens: the prompt template, the SentencePiece wrapper and the boundary between prompt and response.

Does not train a tokenizer, cut long rows or pad. Prompt and response are encoded as ONE string, because a response
encoded alone gets a leading blank that the model never sees in context; the boundary is then found by byte offsets.

A prompt ends with a newline, and in LLaMA's vocabulary (as in most) nothing is merged across one: the pieces of the
whole are then those of the prompt followed by those of the response. Such a prompt is encoded once for all the rows of
its problem, which are most of the tokens; any other tokenizer takes the offsets.
"""

import hashlib
import warnings
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wmtp_ray.contracts import Example, Int32
from wmtp_ray.data.rows import Row, read_rows
from wmtp_ray.errors import ArtifactError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

Span = tuple[int, int]

# Python lives on newlines, tabs and runs of blanks: a normaliser that folds them trains another language.
_ROUND_TRIP_PROBE = "def f(x):\n    if x:\n\t\treturn  x\n\n"

_PROMPTS_KEPT = 4096  # encoded prompts, some 15 MB in each process that tokenises


class CodeTokenizer:
    """A SentencePiece model for code: text to ids with byte offsets, and back. BOS and EOS are added by callers.

    Raises ArtifactError for a missing file, one that is no SentencePiece model, or one without BOS or EOS. Warns when
    the model does not give code back unchanged. Pickles as path and hash: another process loads the file itself.
    """

    def __init__(self, model_path: Path) -> None:
        self.model_path = Path(model_path)
        model = _read_model(self.model_path)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._processor = _load_processor(model, self.model_path)
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        _check_fitness(self)
        self._encode_head = lru_cache(maxsize=_PROMPTS_KEPT)(self._encode_prompt)

    def __reduce__(self) -> tuple[Callable[[Path, str], "CodeTokenizer"], tuple[Path, str]]:
        return _reload, (self.model_path, self.sha256)

    def encode(self, text: str) -> list[int]:
        """Ids of the text's pieces, without BOS and EOS; a literal "</s>" in the text is text, not EOS."""
        ids: list[int] = self._processor.encode(text)
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and, for each, the UTF-8 bytes [begin, end) of `text` it stands for; begins and ends never decrease.

        Two kinds of piece are empty: the blank put before the text, and all but the last byte of a character that is
        spelled in bytes. "aé" with é outside the vocabulary: ids a, <0xC3>, <0xA9>; spans (0, 1), (1, 1), (1, 3).
        """
        mapping = self._processor.encode(text, return_type="offset_mapping", return_bytes=True)
        return mapping["ids"], mapping["offsets"]

    def encode_pair(self, prompt: str, response: str) -> tuple[Int32, int]:
        """BOS, the pieces of `prompt + response`, EOS; and how many of these tokens stand before the response.

        The response begins at the first piece that reaches past the prompt's end or starts at it.
        """
        if not (self._newline_ends_pieces and prompt.endswith("\n")):
            return self._encode_pair_by_offsets(prompt, response)
        head_T = self._encode_head(prompt)
        tail_T = self._processor.encode("\n" + response, return_type="numpy", add_eos=True)[self._newline_tokens :]
        return np.concatenate((head_T, tail_T)), len(head_T)

    def _encode_pair_by_offsets(self, prompt: str, response: str) -> tuple[Int32, int]:
        boundary = len(prompt.encode("utf-8"))
        ids, spans = self.encode_with_offsets(prompt + response)
        first_response = bisect_left(spans, True, key=lambda span: span[1] > boundary or span[0] >= boundary)
        return np.array([self.bos_id, *ids, self.eos_id], dtype=np.int32), 1 + first_response

    def _encode_prompt(self, prompt: str) -> Int32:
        head_T: Int32 = self._processor.encode(prompt, return_type="numpy", add_bos=True)
        return head_T

    @cached_property
    def _newline_ends_pieces(self) -> bool:
        """Whether a text may be cut behind any newline: its pieces are those of both sides."""
        return _newline_ends_pieces(self._processor)

    @cached_property
    def _newline_tokens(self) -> int:
        """Tokens of a newline that opens a text, the blank that the model may put before it included."""
        return len(self.encode("\n"))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of whole sequences; BOS and EOS vanish, a leading blank of the first piece is dropped."""
        text: str = self._processor.decode([int(i) for i in ids])
        return text

    def decode_continuation(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Text that `ids` add after `prompt_ids`; decoding them alone would lose a leading blank, hence indentation."""
        return self.decode([*prompt_ids, *ids])[len(self.decode(prompt_ids)) :]


def tokenizer_hash(model_path: Path) -> str:
    """sha256 of the model file, equal to `CodeTokenizer.sha256`, without loading it."""
    return hashlib.sha256(_read_model(model_path)).hexdigest()


def render_prompt(instruction: str, input: str) -> str:
    """The text before the response, its header included; an empty `input` has no section."""
    input_section = f"### Input:\n{input}\n\n" if input else ""
    return f"### Instruction:\n{instruction}\n\n{input_section}### Response:\n"


def render_row(row: Row) -> str:
    """Prompt and response as the one string that is encoded."""
    return render_prompt(row.instruction, row.input) + row.output


def encode_prompt(instruction: str, input: str, tokenizer: CodeTokenizer) -> Int32:
    """BOS and the prompt's pieces: what generation starts from."""
    return np.array([tokenizer.bos_id, *tokenizer.encode(render_prompt(instruction, input))], dtype=np.int32)


def encode_row(row: Row, tokenizer: CodeTokenizer, row_id: int) -> Example:
    """BOS, prompt, response, EOS; supervised are the tokens from `prompt_tokens` on.

    The response begins at the first piece that reaches past the boundary or starts at it. So every byte of the output
    is supervised and no piece of the prompt alone is: a piece that straddles the boundary ("\\nd") is supervised, and
    so are the empty pieces that open a byte-spelled character. An empty output leaves EOS as the only target.

        text    "### Response:\\nx = 1"            boundary 14
        pieces  ▁### | ▁Response | : | \\n | x | ▁= | ▁ | 1
        tokens  BOS  ▁### ▁Response : \\n  x ▁= ▁ 1 EOS    prompt_tokens 5, response 5
    """
    tokens_T, prompt_tokens = tokenizer.encode_pair(render_prompt(row.instruction, row.input), row.output)
    return Example(row_id, tokens_T, prompt_tokens, is_correct=row.is_correct)


def read_examples(
    path: Path,
    offset_N: Sequence[int],
    num_bytes_N: Sequence[int],
    row_ids_N: Sequence[int],
    tokenizer: CodeTokenizer,
    *,
    is_correct_N: Sequence[bool] | None = None,
) -> list[Example]:
    """Read and encode rows at an index's offsets, in the order given; raises DataError like `read_rows`.

    With the index's `is_correct_N`, rows need no labels of their own; without it they do.
    """
    rows = read_rows(path, offset_N, num_bytes_N, is_correct_N)
    return [encode_row(row, tokenizer, int(row_id)) for row, row_id in zip(rows, row_ids_N, strict=True)]


def _read_model(model_path: Path) -> bytes:
    try:
        return Path(model_path).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{model_path}: no tokenizer can be read there ({error.strerror}); expected a SentencePiece model: "
            "set tokenizer.path to the policy's tokenizer.model"
        ) from error


def _load_processor(model: bytes, model_path: Path) -> "SentencePieceProcessor":
    from sentencepiece import SentencePieceProcessor  # imported late: indexing without counting does not need it

    try:
        processor = SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)  # not the constructor, which lets empty bytes pass
    except (RuntimeError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{model_path}: found {len(model)} bytes that are no SentencePiece model, expected a tokenizer.model; "
            "fetch the file again (a Git LFS pointer is a common cause)"
        ) from error
    return processor


def _check_fitness(tokenizer: CodeTokenizer) -> None:
    if min(tokenizer.bos_id, tokenizer.eos_id) < 0:
        raise ArtifactError(
            f"{tokenizer.model_path}: found bos_id {tokenizer.bos_id} and eos_id {tokenizer.eos_id}, expected both to "
            "exist; train the tokenizer with BOS and EOS"
        )
    returned = tokenizer.decode(tokenizer.encode(_ROUND_TRIP_PROBE))
    if returned != _ROUND_TRIP_PROBE:
        warnings.warn(
            f"{tokenizer.model_path}: found that code does not survive this tokenizer ({_ROUND_TRIP_PROBE!r} comes "
            f"back as {returned!r}), expected it unchanged; use a model with identity normalisation and byte fallback",
            stacklevel=3,
        )


def _newline_ends_pieces(processor: "SentencePieceProcessor") -> bool:
    """Whether no piece goes on after a newline, in a BPE that takes the text as it is.

    A BPE joins two neighbours only if the joined text is a piece, so both sides of such a newline merge on their own.
    In a unigram model ties between whole segmentations could fall differently, and without byte fallback neighbours
    outside the vocabulary, the newline among them, become one unknown piece.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto.FromString(processor.serialized_model_proto())  # type: ignore[attr-defined]  # generated
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    return (
        trainer.model_type == trainer.BPE
        and trainer.byte_fallback
        and not trainer.treat_whitespace_as_suffix
        and not normalizer.precompiled_charsmap
        and not normalizer.remove_extra_whitespaces
        and not any("\n" in each.piece[:-1] for each in model.pieces)
    )


@lru_cache(maxsize=2)  # a process that unpickles one tokenizer per task loads it once
def _reload(model_path: Path, sha256: str) -> CodeTokenizer:
    tokenizer = CodeTokenizer(model_path)
    if tokenizer.sha256 != sha256:
        raise ArtifactError(
            f"{model_path}: found a tokenizer with sha256 {tokenizer.sha256}, expected {sha256} as in the process that "
            "sent it; make the file the same on every node and start again"
        )
    return tokenizer
