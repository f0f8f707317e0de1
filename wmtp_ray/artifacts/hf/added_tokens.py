"""Write the tokens that a Hugging Face model adds to its tokenizer.model into that file.

A fine-tuned model's chat tokens and its end token often stand in tokenizer_config.json, added_tokens.json or
tokenizer.json alone. A special one becomes a control piece (in a text it is text, in a chat it is itself), any other a
piece that is found in a text before all merges, as in transformers. So the one file says all that training needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtp_ray.data.sentencepiece_model import BLANK_MARK
from wmtp_ray.data.tokenizer_settings import named_tokens, read_if_there, token_text
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_MODEL, TokenizerFolder

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # SentencePiece's types of pieces
_SHOWN = 4


@dataclass(frozen=True)
class AddedToken:
    """A token's text, and whether it is special."""

    text: str
    special: bool


def added_tokens(directory: Path) -> dict[int, AddedToken]:
    """Return the added tokens that a directory's files name, by id; a later file overrides an earlier one."""
    folder = TokenizerFolder(directory)
    settings, roles = read_if_there(folder.config), read_if_there(folder.special_tokens_map)
    special = set(named_tokens(directory).values()) | _additional(settings, roles)
    older = read_if_there(folder.added_tokens)
    found = {int(index): AddedToken(text, text in special) for text, index in older.items()}
    for each in read_if_there(folder.json).get("added_tokens") or []:
        found[int(each["id"])] = AddedToken(each["content"], bool(each["special"]))
    for index, each in (settings.get("added_tokens_decoder") or {}).items():
        found[int(index)] = AddedToken(each["content"], bool(each.get("special", each["content"] in special)))
    return dict(sorted(found.items()))


def with_added_tokens(content: bytes, directory: Path) -> tuple[bytes, list[str]]:
    """Return a tokenizer.model with the added tokens of its directory, and notes for the user.

    The same bytes where there is nothing to add. ArtifactError where the files contradict each other.
    """
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto.FromString(content)  # type: ignore[attr-defined]  # generated
    written = [
        text for index, token in added_tokens(directory).items() if (text := _write(model, index, token, directory))
    ]
    ends = _set_roles(model, directory)
    if not written and not ends:
        return content, []
    model.trainer_spec.vocab_size = len(model.pieces)
    more = f" and {len(written) - _SHOWN} more" if len(written) > _SHOWN else ""
    notes = [f"written into {TOKENIZER_MODEL}: the added tokens {', '.join(written[:_SHOWN])}{more}"] if written else []
    return model.SerializeToString(), notes + ends


def _additional(*files: Mapping[str, Any]) -> set[str | None]:
    listed = [each.get(key) or [] for each in files for key in ("additional_special_tokens", "extra_special_tokens")]
    return {token_text(token) for tokens in listed if isinstance(tokens, list) for token in tokens}


def _write(model: Any, index: int, token: AddedToken, directory: Path) -> str:
    """Write an added token into its piece; return the token's text if the model did not have it."""
    kind = _CONTROL if token.special else _USER_DEFINED
    while len(model.pieces) < index:
        model.pieces.add(piece=f"<hole_{len(model.pieces)}>", score=0.0, type=_UNUSED)
    spelled = token.text if token.special else token.text.replace(" ", BLANK_MARK)
    if index == len(model.pieces):
        model.pieces.add(piece=spelled, score=0.0, type=kind)
        return token.text
    piece = model.pieces[index]
    if piece.piece in (spelled, token.text):
        piece.type = kind if piece.type in (_NORMAL, _USER_DEFINED, _CONTROL) and token.special else piece.type
        return ""
    if piece.type not in (_CONTROL, _USER_DEFINED, _UNUSED):
        raise ArtifactError(
            f"{directory}: found {token.text!r} as the added token {index}, which is the piece {piece.piece!r} in "
            f"{TOKENIZER_MODEL}, expected one text for an id; give the tokenizer files of one model"
        )
    piece.piece, piece.type = spelled, kind
    return token.text


def _set_roles(model: Any, directory: Path) -> list[str]:
    """Set the begin and end tokens that the settings name; return what changed."""
    named, ids = named_tokens(directory), {piece.piece: index for index, piece in enumerate(model.pieces)}
    notes = []
    for role, verb in (("bos", "begins"), ("eos", "ends")):
        token = named.get(f"{role}_token")
        if token is None or token == _piece_of_role(model, role):
            continue
        if token not in ids:
            raise ArtifactError(
                f"{directory}: found {token!r} as the {role}_token of {TOKENIZER_CONFIG} or {SPECIAL_TOKENS_MAP}, "
                f"which no file gives an id; add it to {ADDED_TOKENS}, or give the tokenizer files of one model"
            )
        setattr(model.trainer_spec, f"{role}_id", ids[token])
        setattr(model.trainer_spec, f"{role}_piece", token)
        model.pieces[ids[token]].type = _CONTROL
        notes.append(f"{token} {verb} a text (id {ids[token]})")
    return notes


def _piece_of_role(model: Any, role: str) -> str | None:
    index = getattr(model.trainer_spec, f"{role}_id")
    return model.pieces[index].piece if 0 <= index < len(model.pieces) else None
