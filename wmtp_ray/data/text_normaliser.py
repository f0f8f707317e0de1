"""The Unicode normaliser of a tokenizer.json: whether it would change a text, and where.

A row that it would change has no offsets in its own bytes, and a model that learnt from it would not give it back. So
rows must be in the tokenizer's form already; most code is, ASCII always.

Accepted are NFC, NFD, NFKC, NFKD and sequences of these, which are one of the four again: the last form decides between
composed and decomposed, a K anywhere stays. Others are refused: Lowercase, Replace, Strip, StripAccents, Bert and Nmt
forget what a program says, Prepend and ByteLevel spell every text otherwise.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]
FORMS: tuple[str, ...] = get_args(Form)


class ChangedText(ValueError):
    """A normaliser would change a text whose bytes matter; the message says where, not in which file."""


@dataclass(frozen=True)
class TextNormaliser:
    """`form` is None where texts stay as they are. `normalise` is the tokenizer's own.

    Python's tables of Unicode may be newer than the tokenizer's. What they find in order the older ones leave alone, so
    they are asked first, and the tokenizer where they say no.
    """

    form: Form | None
    normalise: Callable[[str], str]

    def changes(self, text: str) -> bool:
        """Whether the tokenizer would encode another text than this one."""
        if self.form is None or text.isascii() or unicodedata.is_normalized(self.form, text):
            return False
        return self.normalise(text) != text

    def require_unchanged(self, text: str) -> None:
        """Raise ChangedText for a text that the tokenizer would change."""
        if self.changes(text):
            raise ChangedText(_where(text, self.normalise(text), str(self.form)))


def combined_form(forms: Sequence[str]) -> Form | None:
    """Return the one form that a sequence of forms is: NFKC, NFD -> NFKD; None for an empty sequence."""
    if not forms:
        return None
    compatible = "K" if any("K" in form for form in forms) else ""
    found: Form = next(form for form in get_args(Form) if form == f"NF{compatible}{forms[-1][-1]}")
    return found


def _where(text: str, normal: str, form: str) -> str:
    place = next((n for n, (one, other) in enumerate(zip(text, normal, strict=False)) if one != other), len(normal))
    around = text[max(0, place - 1) : place + 2]
    codes = " ".join(f"U+{ord(character):04X}" for character in around)
    return f"found {around!r} ({codes}) at character {place}, which is not in the form {form} of the tokenizer"
