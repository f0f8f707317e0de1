"""The special tokens that a tokenizer's files name, by their roles; tokenizer_config.json and its older companions."""

from pathlib import Path
from typing import Any

from wmtp_ray.data.byte_level_model import SETTINGS, read_object, token_text

SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def named_tokens(directory: Path) -> dict[str, str]:
    """Return the text of each role's token; a role without one is left out.

    tokenizer_config.json decides where it speaks of a role, even to say that there is none.
    """
    older, settings = (read_if_there(directory / name) for name in (SPECIAL_TOKENS_MAP, SETTINGS))
    found = {role: token_text((older | settings).get(role)) for role in ROLES}
    return {role: text for role, text in found.items() if text is not None}


def read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object, an empty one where there is no file."""
    return read_object(path.read_bytes(), path) if path.exists() else {}
