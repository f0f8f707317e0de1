"""What the files beside a tokenizer say about it: its special tokens by their roles, and which ids end an answer.

tokenizer_config.json is the one of today; older models have special_tokens_map.json, which it overrules.
"""

from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.data.file_kind import HEAD_BYTES, JSON, kind_of
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import TokenizerFolder

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def named_tokens(directory: Path) -> dict[str, str]:
    """Return the text of each role's token; a role without one is left out.

    tokenizer_config.json decides where it speaks of a role, even to say that there is none.
    """
    folder = TokenizerFolder(directory)
    older, settings = read_if_there(folder.special_tokens_map), read_if_there(folder.config)
    found = {role: token_text((older | settings).get(role)) for role in ROLES}
    return {role: text for role, text in found.items() if text is not None}


def read_if_there(path: Path) -> dict[str, Any]:
    """Read a JSON object, an empty one where there is no file."""
    return read_object(path.read_bytes(), path) if path.exists() else {}


def stripping_tokens(directory: Path) -> dict[str, tuple[bool, bool]]:
    """Return the added tokens that strip white space, and whether they strip it on their left and on their right."""
    added = read_if_there(TokenizerFolder(directory).config).get("added_tokens_decoder") or {}
    found = {each["content"]: (bool(each.get("lstrip")), bool(each.get("rstrip"))) for each in added.values()}
    return {text: sides for text, sides in found.items() if any(sides)}


def ids_that_end(directory: Path) -> list[int]:
    """Return the ids that generation_config.json names as the end of an answer, none where there is no such file."""
    written = read_if_there(TokenizerFolder(directory).generation_config).get("eos_token_id")
    return [] if written is None else list(written) if isinstance(written, list) else [written]


def read_object(content: bytes, path: Path) -> dict[str, Any]:
    """Parse a JSON object of a tokenizer; ArtifactError when it is something else."""
    try:
        parsed = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ArtifactError(f"{path}: {_no_json(content, error)}") from error
    if not isinstance(parsed, dict):
        raise ArtifactError(
            f"{path}: found a JSON {type(parsed).__name__}, expected an object; give the {path.name} that was "
            "published with the model"
        )
    return parsed


def _no_json(content: bytes, error: orjson.JSONDecodeError) -> str:
    kind = kind_of(content[:HEAD_BYTES])
    if kind is None or kind is JSON:
        return f"found {len(content)} bytes that are no JSON ({error}), cut short or edited; take the published file"
    return f"found {kind.name}, no JSON; {kind.remedy}"


def token_text(token: Any) -> str | None:
    """Return the text of a token, which is written as such or as an object with properties beside it."""
    text: str | None = token["content"] if isinstance(token, dict) else token
    return text
