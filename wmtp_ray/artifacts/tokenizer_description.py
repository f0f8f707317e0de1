"""The files of a tokenizer for a model's directory, its tokenizer_config.json among them.

Meta's download has a tokenizer.model alone. What other libraries look for beside it, the tokens that begin and end a
text, stands in the file itself.
"""

from pathlib import Path

from wmtp_ray.artifacts.hf.sentencepiece_json import sentencepiece_end_tokens
from wmtp_ray.artifacts.hf.tokenizer_files import as_json, files_of_tokenizer
from wmtp_ray.model_folder import TOKENIZER_CONFIG, TOKENIZER_MODEL

_OF_LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}


def described_tokenizer(tokenizer: Path) -> dict[str, bytes]:
    """Return a tokenizer's files by name; a SentencePiece model that lacks a tokenizer_config.json gets one.

    The one that it gets says nothing that changes how texts are cut.
    """
    files = files_of_tokenizer(tokenizer)
    if TOKENIZER_MODEL not in files or TOKENIZER_CONFIG in files:
        return files
    settings = _OF_LLAMA | sentencepiece_end_tokens(files[TOKENIZER_MODEL])
    return files | {TOKENIZER_CONFIG: as_json(settings | {"clean_up_tokenization_spaces": False})}
