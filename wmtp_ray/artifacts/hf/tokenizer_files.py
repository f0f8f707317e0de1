"""The files of a tokenizer that belong beside a model: found in a directory, and made for one that is to be read."""

from pathlib import Path

from vendor.meta_llama.model import ModelArgs
from wmtp_ray.data.chat_template import TEMPLATE
from wmtp_ray.data.sentencepiece_model import SentencePieceModel
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.tokenizer_settings import SETTINGS
from wmtp_ray.errors import ArtifactError

SENTENCEPIECE, TOKENIZER_JSON = "tokenizer.model", "tokenizer.json"


def find_tokenizer(directory: Path) -> Path | None:
    """Find a model's tokenizer in its directory.

    A tokenizer.model counts if it is a SentencePiece model: LLaMA 3 gives this name to a file of another format.
    """
    if _is_sentencepiece(directory / SENTENCEPIECE):
        return directory / SENTENCEPIECE
    return directory / TOKENIZER_JSON if (directory / TOKENIZER_JSON).exists() else None


def files_of_tokenizer(tokenizer: Path) -> dict[str, bytes]:
    """Read a tokenizer and what goes with it, by the names they have beside a model."""
    if tokenizer.suffix != ".json":
        return {SENTENCEPIECE: tokenizer.read_bytes()}
    beside = {name: tokenizer.parent / name for name in (SETTINGS, TEMPLATE)}
    return {TOKENIZER_JSON: tokenizer.read_bytes()} | {
        name: path.read_bytes() for name, path in beside.items() if path.exists()
    }


def require_row_for_each_id(tokenizer: CodeTokenizer, args: ModelArgs) -> None:
    """Refuse a tokenizer with more ids than the model has rows; more rows than ids are padding."""
    if tokenizer.vocab_size > args.vocab_size:
        raise ArtifactError(
            f"{tokenizer.model_path}: found {tokenizer.vocab_size} ids for a model of {args.vocab_size}, expected no "
            "id without a row; give the tokenizer that the model was trained with"
        )


def _is_sentencepiece(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        SentencePieceModel(path.read_bytes(), path)
    except ArtifactError:
        return False
    return True
