"""Training rows as chats (`data.template=chat`): the model's own template around one message, and how an answer ends.

    prompt     the template applied to one message of a user, with the generation prompt
    response   the row's output, then what the template writes behind an assistant's answer, up to its first special
               token: the end of the turn

Where decoding ends at the end of the turn (it is EOS, or generation_config.json names it), it stands in place of EOS;
otherwise EOS follows it, and both are supervised: a policy then ends its answers in every engine. A template that
writes no special token behind an answer leaves EOS alone.

Special tokens of the template are meant as such; the text of one in a message or a program is text. A template that
writes today's date writes DATE in rows, the day that LLaMA 3's templates have where they know none: a resumed run reads
the rows that it read before. BOS stands where the template puts it, and nowhere else.

    template   <|im_start|>user\\n{message}<|im_end|>\\n<|im_start|>assistant\\n
    prompt     <|im_start|> user \\n Add . <|im_end|> \\n <|im_start|> assistant \\n
    response   x _= _1 <|im_end|> <|endoftext|>
"""

import hashlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from wmtp_ray.contracts import Int32
from wmtp_ray.data.chat_template import chat_template, render_messages
from wmtp_ray.data.sentencepiece_model import Span
from wmtp_ray.data.special_split import SpecialTokens
from wmtp_ray.data.text_normaliser import ChangedText
from wmtp_ray.data.tokenizer_settings import named_tokens
from wmtp_ray.errors import ArtifactError, ConfigError

DATE = datetime(2024, 7, 26)
_PROBES = ("Add two numbers.", "Count the words of a line.")
_ANSWER = "answer-of-the-assistant"
_PROMPTS_KEPT = 4096  # encoded prompts, as of plain rows


class ChatModel(Protocol):
    """What chats ask of a tokenizer format."""

    @property
    def special(self) -> SpecialTokens: ...

    def encode_part(self, text: str, *, begins_text: bool) -> tuple[list[int], list[Span]]:
        """Ids and spans of a text between special tokens; ChangedText as `encode_with_offsets`."""
        ...

    def encode_normalised(self, text: str, *, begins_text: bool) -> Int32:
        """Ids of a text between special tokens, of its normal form where the model normalises."""
        ...


@dataclass(frozen=True)
class _Head:
    """A prompt: the ids up to behind its last special token, and the text behind it, which the answer joins."""

    ids: tuple[int, ...]
    text: str
    begins_text: bool


class ChatRows:
    """Chats of a tokenizer. ConfigError where it has no template, ArtifactError for one that rows cannot be put into.

    `ends` are the ids behind an answer's text. `hash` names all that a row's tokens depend on beside the tokenizer.
    """

    def __init__(
        self, model: ChatModel, tokenizer: Path, *, eos_id: int, end_ids: frozenset[int], blank_behind_special: bool
    ) -> None:
        self._model = model
        self._directory = tokenizer.parent
        self._blank_behind_special = blank_behind_special
        source = chat_template(self._directory)
        if source is None:
            raise ConfigError(
                f"data.template=chat, but no chat template lies beside {tokenizer}; expected a chat_template.jinja, or "
                "one in tokenizer_config.json; give the tokenizer of a model that has one, or data.template=plain"
            )
        self._require_messages(tokenizer)
        self._end_text, self.ends = self._end_of_turn(tokenizer, eos_id, end_ids)
        facts = (source, repr(sorted(named_tokens(self._directory).items())), self._end_text, repr(self.ends))
        self.hash = hashlib.sha256("\0".join((*facts, repr(blank_behind_special))).encode()).hexdigest()
        self._head: Callable[[str], _Head] = lru_cache(maxsize=_PROMPTS_KEPT)(self._encode_head)

    def encode(self, message: str, response: str) -> tuple[Int32, int]:
        """Return a row's tokens, and how many of them stand before the response, as `CodeTokenizer.encode_pair`."""
        head = self._head(message)
        ids, spans = self._joined(head, response)
        return np.array([*head.ids, *ids, *self.ends], dtype=np.int32), len(head.ids) + _first_response(head, spans)

    def prompt_ids(self, message: str) -> Int32:
        """Return the tokens that generation starts from; where a normaliser would change the text, of its form."""
        rendered = self.prompt(message)
        return self._encode_special(rendered, self._literal(rendered, message))

    def prompt(self, message: str) -> str:
        """Return the text before the response."""
        rendered = render_messages(self._directory, [{"role": "user", "content": message}], now=DATE)
        assert rendered is not None, "there is a template"
        return rendered

    def response_texts(self, message: str, response: str, end: str) -> tuple[str, ...]:
        """Return the text of each supervised token, `end` for those of `ends`."""
        head = self._head(message)
        _, spans = self._joined(head, response)
        joined = (head.text + response + self._end_text).encode()
        texts = [joined[begin:stop].decode(errors="replace") for begin, stop in spans[_first_response(head, spans) :]]
        return (*texts, *(end for _ in self.ends))

    def _joined(self, head: _Head, response: str) -> tuple[list[int], list[Span]]:
        text = head.text + response + self._end_text
        return self._model.encode_part(text, begins_text=head.begins_text or self._blank_behind_special)

    def _encode_head(self, message: str) -> _Head:
        """Encode a prompt up to behind its last special token; ChangedText where a normaliser would change the rest."""
        rendered = self.prompt(message)
        parts = self._model.special.parts(rendered, self._literal(rendered, message))
        ids: list[int] = []
        for number, part in enumerate(parts[:-1]):
            if isinstance(part, int):
                ids.append(part)
            elif part:
                ids += self._model.encode_part(part, begins_text=number == 0 or self._blank_behind_special)[0]
        last = parts[-1]
        assert isinstance(last, str), "a text, be it empty, stands behind the last special token"
        if not ids and not last:
            raise ChangedText("found a prompt without a token, expected a chat template that writes one")
        return _Head(tuple(ids), last, begins_text=len(parts) == 1)

    def _literal(self, rendered: str, message: str) -> range:
        """Return where the message stands, if the text of a special token stands in it."""
        if not self._model.special.occur_in(message):
            return range(0)
        text = message.strip()
        if rendered.count(text) != 1:
            raise ChangedText(
                "found the text of a special token in a message that the chat template does not write just once and as "
                "it is, expected one that does"
            )
        begin = rendered.index(text)
        return range(begin, begin + len(text))

    def _encode_special(self, rendered: str, literal: range) -> Int32:
        return self._model.special.encode(rendered, self._encode_plain, literal)

    def _encode_plain(self, part: str, is_first: bool) -> Int32:
        return self._model.encode_normalised(part, begins_text=is_first or self._blank_behind_special)

    def _require_messages(self, tokenizer: Path) -> None:
        lost = [probe for probe in _PROBES if probe not in self.prompt(probe)]
        if lost:
            raise ArtifactError(
                f"{tokenizer}: found a chat template that leaves out the message {lost[0]!r} of a user, expected one "
                "that writes it; correct the template, or give data.template=plain"
            )

    def _end_of_turn(self, tokenizer: Path, eos_id: int, end_ids: frozenset[int]) -> tuple[str, tuple[int, ...]]:
        """Return the text behind an answer up to the end of its turn, and the ids that end the row."""
        messages = [{"role": "user", "content": _PROBES[0]}, {"role": "assistant", "content": _ANSWER}]
        rendered = render_messages(self._directory, messages, now=DATE, add_generation_prompt=False)
        assert rendered is not None, "there is a template"
        before, found, behind = rendered.rpartition(_ANSWER)
        if not found or _ANSWER in before:
            raise ArtifactError(
                f"{tokenizer}: found a chat template that does not write an assistant's answer just once, expected one "
                "whose turn ends behind it; correct the template, or give data.template=plain"
            )
        parts = self._model.special.parts(behind, range(0))
        if len(parts) == 1:
            return "", (eos_id,)
        text, end = parts[0], parts[1]
        assert isinstance(text, str)
        assert isinstance(end, int)
        return text, (end,) if end in end_ids else (end, eos_id)


def chat_message(instruction: str, input: str) -> str:
    """Return the one message of a user: the instruction and, where there is one, the input behind an empty line."""
    return "\n\n".join(part for part in (instruction, input) if part)


def _first_response(head: _Head, spans: list[Span]) -> int:
    boundary = len(head.text.encode())
    return bisect_left(spans, True, key=lambda span: span[1] > boundary or span[0] >= boundary)
