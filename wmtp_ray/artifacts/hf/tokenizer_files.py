"""The files of a tokenizer that belong beside a model: found in a directory, and made for one that is to be read.

tokenizer.model, or tokenizer.json     text to ids
tokenizer_config.json                  special tokens by their roles, the chat template of older models
chat_template.jinja                    the chat template; others by name in additional_chat_templates/
generation_config.json                 the ids that end an answer, where the end token is not the only one
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.artifacts.hf.added_tokens import added_tokens, with_added_tokens
from wmtp_ray.data.byte_level_model import ByteLevelModel
from wmtp_ray.data.file_kind import HEAD_BYTES, TIKTOKEN, kind_of
from wmtp_ray.data.sentencepiece_model import load_processor
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.tokenizer_settings import (
    ids_that_end,
    named_tokens,
    read_if_there,
    read_object,
)
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model_folder import (
    ADDED_TOKENS,
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    HfFolder,
    TokenizerFolder,
)


def find_tokenizer(folder: TokenizerFolder) -> Path | None:
    """Find a model's tokenizer.

    A tokenizer.model counts if it is a SentencePiece model: LLaMA 3 gives this name to a file of another format, which
    its tokenizer.json stands in for. ArtifactError where that is missing, and for a damaged tokenizer.model.
    """
    model, as_json = folder.model, folder.json
    if not model.exists():
        return as_json if as_json.exists() else None
    content = model.read_bytes()
    if as_json.exists() and kind_of(content[:HEAD_BYTES]) is TIKTOKEN:
        return as_json
    load_processor(content, model)
    return model


def imported_tokenizer(directory: Path, config: Mapping[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """Return a Hugging Face model's tokenizer files by name (empty if it has none), and notes for the user.

    Added tokens of a tokenizer.model are written into it. `config` is config.json.
    """
    folder = HfFolder(directory).tokenizer
    tokenizer = find_tokenizer(folder)
    if tokenizer is None:
        return {}, []
    if tokenizer.name == TOKENIZER_MODEL:
        content, notes = with_added_tokens(tokenizer.read_bytes(), directory)
    else:
        content, notes = tokenizer.read_bytes(), []
        ByteLevelModel(content, tokenizer)
        _require_all_added(content, tokenizer)
    settings = read_if_there(folder.config) | named_tokens(directory)
    if settings and tokenizer.name == TOKENIZER_MODEL:
        settings["legacy"] = _puts_blanks_behind_special_tokens(directory, settings)
    ends = end_of_answers([*ids_that_end(directory), *_listed(config.get("eos_token_id"))])
    named = {TOKENIZER_CONFIG: as_json(settings)} if settings else {}
    return {tokenizer.name: content} | named | templates_beside(tokenizer) | ends, notes


def files_of_tokenizer(tokenizer: Path) -> dict[str, bytes]:
    """Read a model directory's tokenizer and the files that belong to it, by file name."""
    folder = TokenizerFolder.of(tokenizer)
    return (
        {TOKENIZER_MODEL if tokenizer.suffix != ".json" else TOKENIZER_JSON: tokenizer.read_bytes()}
        | {path.name: path.read_bytes() for path in (folder.config, folder.generation_config) if path.exists()}
        | templates_beside(tokenizer)
    )


def templates_beside(tokenizer: Path) -> dict[str, bytes]:
    """Read the chat templates that are separate files, by file name."""
    folder = TokenizerFolder.of(tokenizer)
    return {str(path.relative_to(folder.path)): path.read_bytes() for path in folder.chat_templates()}


def write_tokenizer(folder: TokenizerFolder, files: Mapping[str, bytes]) -> None:
    """Write a tokenizer's files, given by file name."""
    for name, content in files.items():
        folder.place(name).parent.mkdir(parents=True, exist_ok=True)
        folder.place(name).write_bytes(content)


def end_of_answers(ids: list[int]) -> dict[str, bytes]:
    """Return the generation_config.json that names the ids that end an answer; no file where there are none."""
    ends = list(dict.fromkeys(ids))
    return {GENERATION_CONFIG: as_json({"eos_token_id": ends[0] if len(ends) == 1 else ends})} if ends else {}


def as_json(content: Mapping[str, Any]) -> bytes:
    """Encode a value as the content of a JSON file."""
    return orjson.dumps(content, option=orjson.OPT_INDENT_2)


def require_row_for_each_id(tokenizer: CodeTokenizer, args: ModelSpec) -> None:
    """Refuse a tokenizer with more ids than the model has rows; more rows than ids are padding."""
    if tokenizer.vocab_size > args.vocab_size:
        raise ArtifactError(
            f"{tokenizer.model_path}: found {tokenizer.vocab_size} ids for a model of {args.vocab_size}, expected no "
            "id without a row; give the tokenizer that the model was trained with"
        )


def _require_all_added(content: bytes, tokenizer: Path) -> None:
    """Refuse a tokenizer.json that lacks tokens which transformers would add as it loads."""
    parsed = read_object(content, tokenizer)
    there = {each["id"]: each["content"] for each in parsed["added_tokens"]}
    there |= {index: text for text, index in parsed["model"]["vocab"].items() if index not in there}
    wanted = {index: token.text for index, token in added_tokens(tokenizer.parent).items()}
    missing = [text for index, text in wanted.items() if there.get(index) != text]
    if missing:
        raise ArtifactError(
            f"{tokenizer}: found no {', '.join(missing[:4])}, which {TOKENIZER_CONFIG} or {ADDED_TOKENS} adds, "
            "expected every token in it; write it anew with transformers: "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )


def _puts_blanks_behind_special_tokens(directory: Path, settings: Mapping[str, Any]) -> bool:
    """Whether transformers adds the leading blank of a text after each special token, too."""
    normalizer = read_if_there(HfFolder(directory).tokenizer.json).get("normalizer") or {}
    if not normalizer or settings.get("tokenizer_class") == "LlamaTokenizer":
        return settings.get("legacy") is True
    return any(step["type"] == "Prepend" for step in normalizer.get("normalizers", [normalizer]))


def _listed(value: Any) -> list[int]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]
