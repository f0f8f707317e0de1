"""A tokenizer as engines read it, which encodes a text as training did: BOS in front, then the pieces.

Both kinds go out as a tokenizer.json that is used as it stands (`PreTrainedTokenizerFast`): transformers 5 builds the
tokenizer of a model's own class anew from vocabulary and merges, and cuts texts differently. Chat templates go along.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from wmtp_ray.artifacts.hf.sentencepiece_json import sentencepiece_as_json, sentencepiece_end_tokens
from wmtp_ray.artifacts.hf.tokenizer_files import as_json, files_of_tokenizer
from wmtp_ray.data.byte_level_model import read_end_tokens
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.tokenizer_settings import read_object, stripping_tokens
from wmtp_ray.model_folder import TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL, TokenizerFolder

_OF_ANOTHER_CLASS = (
    *("auto_map", "add_prefix_space", "add_eos_token", "sp_model_kwargs", "tokenizer_file", "vocab_file"),
    *("use_default_system_prompt", "spaces_between_special_tokens", "processor_class", "backend", "is_local"),
)


def exported_tokenizer(tokenizer: CodeTokenizer) -> dict[str, bytes]:
    """Return the files of a tokenizer for engines, by name; a SentencePiece model also as tokenizer.model."""
    files = files_of_tokenizer(tokenizer.model_path)
    settings = TokenizerFolder.of(tokenizer.model_path).config
    written = read_object(files[TOKENIZER_CONFIG], settings) if TOKENIZER_CONFIG in files else {}
    if TOKENIZER_MODEL in files:
        ends, legacy = sentencepiece_end_tokens(files[TOKENIZER_MODEL]), written.get("legacy") is True
        files[TOKENIZER_JSON] = sentencepiece_as_json(
            files[TOKENIZER_MODEL],
            tokenizer.model_path,
            blank_behind_special=legacy,
            stripping=stripping_tokens(tokenizer.model_path.parent),
        )
    else:
        begin, end = read_end_tokens(tokenizer.model_path)
        ends = {"bos_token": begin, "eos_token": end}
        files[TOKENIZER_JSON] = _with_begin_in_front(files[TOKENIZER_JSON], begin, tokenizer.bos_id)
    kept = {key: value for key, value in written.items() if key not in _OF_ANOTHER_CLASS}
    return files | {TOKENIZER_CONFIG: as_json(kept | _as_it_stands(ends))}


def _as_it_stands(ends: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": True,
        **ends,
    }


def _with_begin_in_front(content: bytes, begin: str, begin_id: int) -> bytes:
    """A tokenizer.json that puts the begin token in front of each text, whatever it put there before."""
    token: dict[str, Any] = {"SpecialToken": {"id": begin, "type_id": 0}}
    texts: list[dict[str, Any]] = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
    in_front = {
        "type": "TemplateProcessing",
        "single": [token, texts[0]],
        "pair": [token, texts[0], token, texts[1]],
        "special_tokens": {begin: {"id": begin, "ids": [begin_id], "tokens": [begin]}},
    }
    return orjson.dumps(orjson.loads(content) | {"post_processor": in_front}, option=orjson.OPT_INDENT_2)
