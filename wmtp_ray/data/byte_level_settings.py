"""What a tokenizer.json may say, so that its pieces spell the text that they are given: read as data, before loading.

Texts may be cut before any merge (Split, Digits, Punctuation, ByteLevel's own rule), in any order and by any pattern,
as long as nothing is taken away: the cut is the library's, so it is that of the model. Merges may be skipped for words
that are pieces (`ignore_merges`). Characters may be written in one form of Unicode (`text_normaliser.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtp_ray.data.text_normaliser import FORMS, Form, combined_form
from wmtp_ray.errors import ArtifactError

EXPECTED = "expected a byte-level BPE tokenizer.json; give tokenizer.model where the model has one"
_CUTS = ("ByteLevel", "Split", "Digits", "Punctuation")


def require_unchanged_text(content: dict[str, Any], path: Path) -> None:
    """Refuse settings under which the pieces spell another text than the given one; ArtifactError names them."""
    model, steps = content.get("model") or {}, list(_steps(content.get("pre_tokenizer"), "pretokenizers"))
    byte_levels = [step for step in steps if step["type"] == "ByteLevel"]
    normalisers = [step["type"] for step in _steps(content.get("normalizer"), "normalizers")]
    changing = [name for name in normalisers if name not in FORMS]
    foreign = [step["type"] for step in steps if step["type"] not in _CUTS]
    stripping = [token["content"] for token in content.get("added_tokens", []) if _strips(token)]
    problems = {
        f"a model of type {model.get('type')}": model.get("type") != "BPE",
        "merges left out at random (dropout)": model.get("dropout"),
        "marks on pieces inside a word (continuing_subword_prefix)": model.get("continuing_subword_prefix"),
        "marks on pieces that end a word (end_of_word_suffix)": model.get("end_of_word_suffix"),
        "no ByteLevel step": not byte_levels,
        "bytes spelled twice, by two ByteLevel steps": len(byte_levels) > 1,
        "a blank put in front": any(step.get("add_prefix_space") for step in byte_levels),
        "text taken away by a cut": any(step.get("behavior") == "Removed" for step in steps),
        f"text changed by {', '.join(changing)}": changing,
        f"text cut by {', '.join(foreign)}": foreign,
        f"blanks swallowed by {', '.join(stripping[:3])}": stripping,
    }
    if found := [text for text, wrong in problems.items() if wrong]:
        raise ArtifactError(f"{path}: found {'; '.join(found)}; {EXPECTED}")


def form_of(content: dict[str, Any]) -> Form | None:
    """Return the form of Unicode that texts are brought into, None where they stay as they are."""
    return combined_form([step["type"] for step in _steps(content.get("normalizer"), "normalizers")])


def _steps(step: dict[str, Any] | None, parts: str) -> Iterator[dict[str, Any]]:
    """Return the steps of a sequence, or the single step."""
    if step is not None and step["type"] == "Sequence":
        for part in step[parts]:
            yield from _steps(part, parts)
    elif step is not None:
        yield step


def _strips(token: dict[str, Any]) -> bool:
    return not token["special"] and bool(token["lstrip"] or token["rstrip"])
