"""Names and texts as MLflow accepts them: what it would refuse is replaced or cut, and every change is reported.

Nothing here talks to MLflow. The rules are those of MLflow 3.17 (`mlflow/utils/validation.py`).
"""

import hashlib
import posixpath
import re
from collections.abc import Mapping
from typing import NamedTuple

MAX_KEY_CHARS = 250
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
_HASH_CHARS = 8


class Fitted(NamedTuple):
    """Texts under names that MLflow takes, and what was changed for that, in words."""

    values: dict[str, str]
    changes: list[str]


def allowed_key(name: str) -> str:
    """Replace what MLflow refuses in the name of a metric, parameter or tag, and shorten what is too long.

    a(b) -> a_b_; ticket #1 -> ticket _1; a//b -> a__b; letters of any script, blanks and - . : / stay.
    """
    key = re.sub(r"[^\w\-. :/]", "_", name)
    if posixpath.normpath(key) != key or key.startswith(("..", "/")):
        key = key.replace("/", "_")
    if not key or key == "." or key.startswith(".."):
        key = f"_{key}"
    if len(key) > MAX_KEY_CHARS:
        digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARS]
        key = f"{key[: MAX_KEY_CHARS - _HASH_CHARS - 1]}_{digest}"
    return key


def metric_key(key: str, stage: int) -> str:
    """Name a metric for MLflow: stage 2 as it is, others under their stage, so that steps of two stages never mix.

    (loss/total, 2) -> loss/total; (loss/total, 1) -> stage1/loss/total; (pass@1, 2) -> pass_1
    """
    return allowed_key(key if stage == 2 else f"stage{stage}/{key}")


def fit(kind: str, texts: Mapping[str, str], max_chars: int) -> Fitted:
    """Give `texts` names and lengths that MLflow takes; two names that would become one are told apart.

    `kind` is the word for one of them in what is said: tag, parameter.
    """
    fitted: dict[str, str] = {}
    changes: list[str] = []
    taken = {name for name in texts if allowed_key(name) == name}
    for name, text in texts.items():
        key = allowed_key(name)
        if key != name:
            key = _free(key, name, taken | fitted.keys())
            changes.append(f"{kind} {_short(name)} is {_short(key)} there")
        if len(text) > max_chars:
            changes.append(f"{kind} {_short(name)} is cut from {len(text):,} to {max_chars:,} characters")
        fitted[key] = text if len(text) <= max_chars else text[: max_chars - 3] + "..."
    return Fitted(fitted, changes)


def flat_params(params: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested params to dotted names and texts. {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        flat |= flat_params(value, f"{name}.") if isinstance(value, Mapping) and value else {name: str(value)}
    return flat


def is_cut_from(there: str, text: str) -> bool:
    """Whether what MLflow has is `text`, whole or cut (an earlier release cut parameters shorter)."""
    return there == text or (there.endswith("...") and text.startswith(there.removesuffix("...")))


def _free(key: str, name: str, taken: set[str]) -> str:
    if key not in taken:
        return key
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARS]
    return f"{key[: MAX_KEY_CHARS - _HASH_CHARS - 1]}_{digest}"


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."
