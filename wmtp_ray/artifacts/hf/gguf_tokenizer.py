"""The tokenizer that a GGUF file carries in its metadata, written as the files that `CodeTokenizer` reads.

"llama" is SentencePiece's BPE: pieces with scores. "gpt2" is byte-level BPE: pieces and merges, and the name of the
rule that cuts a text before any merge. Rules are named, not spelled out, so only those written here can be read.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmtp_ray.artifacts.hf.tokenizer_files import as_json, end_of_answers
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import CHAT_TEMPLATE, MORE_CHAT_TEMPLATES, TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTROL, _USER_DEFINED = 3, 4  # types of pieces: GGUF took SentencePiece's numbers
_BYTE = 6
_TEMPLATE_KEY = "tokenizer.chat_template"
_UNK, _BOS, _EOS = 0, 1, 2  # what llama.cpp takes for SentencePiece where the file names none
_LISTS: dict[Any, tuple[str, ...]] = {
    "llama": ("tokens", "scores", "token_type"),
    "gpt2": ("tokens", "token_type", "merges"),
}
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")  # a digit at a time
_COMPOSING = ("qwen2",)  # rules of models whose own tokenizer brings texts into NFC, which GGUF does not say


def tokenizer_from_metadata(path: Path, metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the tokenizer's files by name; ArtifactError where the metadata hold none, or one of another kind."""
    about = {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}
    writers: dict[Any, Callable[[Path, Mapping[str, Any]], dict[str, bytes]]]
    writers = {"llama": _sentencepiece, "gpt2": _byte_level}
    kind = about.get("model")
    if kind not in writers:
        raise ArtifactError(
            f"{path}: found a tokenizer of kind {kind!r}, expected {' or '.join(writers)}; import the model's Hugging "
            "Face directory instead"
        )
    _require_complete(path, about, _LISTS[kind])
    return writers[kind](path, about) | _templates(metadata) | _ends(about)


def _templates(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the default chat template, and the named templates of the file."""
    default = {CHAT_TEMPLATE: metadata[_TEMPLATE_KEY]} if metadata.get(_TEMPLATE_KEY) else {}
    others = {
        f"{MORE_CHAT_TEMPLATES}/{key.removeprefix(f'{_TEMPLATE_KEY}.')}.jinja": text
        for key, text in metadata.items()
        if key.startswith(f"{_TEMPLATE_KEY}.")
    }
    return {name: text.encode() for name, text in (default | others).items()}


def _ends(about: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the tokens at which llama.cpp ends an answer: end of text, of turn, of message."""
    return end_of_answers([about[key] for key in ("eos_token_id", "eot_token_id", "eom_token_id") if key in about])


def _require_complete(path: Path, about: Mapping[str, Any], lists: tuple[str, ...]) -> None:
    """Refuse lists that are missing or not as long as the vocabulary, and ids that it does not have."""
    missing = [key for key in lists if not isinstance(about.get(key), list)]
    num_tokens = len(about["tokens"]) if not missing else 0
    short = [key for key in lists if not missing and key != "merges" and len(about[key]) != num_tokens]
    outside = [
        f"{key} = {value}"
        for key, value in about.items()
        if not missing and key.endswith("_token_id") and not 0 <= value < num_tokens
    ]
    if found := [*(f"no {key}" for key in missing), *(f"{key} of another length" for key in short), *outside]:
        raise ArtifactError(
            f"{path}: found a tokenizer with {', '.join(found)}, expected {', '.join(lists)} for each of its tokens; "
            "convert the model again with a current llama.cpp"
        )


def _sentencepiece(path: Path, about: Mapping[str, Any]) -> dict[str, bytes]:
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()  # type: ignore[attr-defined]  # generated
    for piece, score, kind in zip(about["tokens"], about["scores"], about["token_type"], strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.vocab_size = trainer.BPE, len(about["tokens"])
    trainer.byte_fallback = _BYTE in about["token_type"]
    trainer.unk_id = about.get("unknown_token_id", _UNK)
    trainer.bos_id, trainer.eos_id = about.get("bos_token_id", _BOS), about.get("eos_token_id", _EOS)
    trainer.pad_id = -1
    trainer.unk_piece, trainer.bos_piece, trainer.eos_piece = (
        about["tokens"][index] for index in (trainer.unk_id, trainer.bos_id, trainer.eos_id)
    )
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = about.get("add_space_prefix", True)
    normalizer.remove_extra_whitespaces = about.get("remove_extra_whitespaces", False)
    normalizer.escape_whitespaces = True
    normalizer.precompiled_charsmap = bytes(about.get("precompiled_charsmap", ()))
    ends = {"bos_token": trainer.bos_piece, "eos_token": trainer.eos_piece, "unk_token": trainer.unk_piece}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True} | ends  # llama.cpp's blanks behind special tokens
    return {TOKENIZER_MODEL: model.SerializeToString(), TOKENIZER_CONFIG: as_json(settings)}


def _byte_level(path: Path, about: Mapping[str, Any]) -> dict[str, bytes]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    tokens = about["tokens"]
    if "eos_token_id" not in about:
        raise ArtifactError(
            f"{path}: found a byte-level tokenizer without tokenizer.ggml.eos_token_id, expected the token that ends a "
            "text; write it with gguf-set-metadata or gguf-new-metadata, or import the Hugging Face directory"
        )
    merges = [tuple(merge.split(" ")) for merge in about["merges"]]
    rule, ignore_merges = _cutting_rule(path, about.get("pre"))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = rule
    if about.get("pre") in _COMPOSING:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, about["token_type"], strict=True):
        if kind in (_CONTROL, _USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, special=kind == _CONTROL, normalized=False)])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _token(tokens, about.get("bos_token_id")),
        "eos_token": _token(tokens, about.get("eos_token_id")),
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER_JSON: tokenizer.to_str().encode(), TOKENIZER_CONFIG: as_json(settings)}


def _token(tokens: list[str], index: int | None) -> str | None:
    return None if index is None else tokens[index]


def _cutting_rule(path: Path, name: str | None) -> "tuple[PreTokenizer, bool]":
    """Return the rule that splits a text before any merge, and whether a split that is a piece is kept whole."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    gpt_2 = ByteLevel(add_prefix_space=False)
    match name:
        case "gpt-2" | "gpt2":
            return gpt_2, False
        case "smollm" | "starcoder" | "refact" | "command-r":
            return Sequence([Digits(individual_digits=True), gpt_2]), False
        case "llama-bpe" | "llama3" | "llama-v3":
            cut = Split(Regex(_LLAMA_3), behavior="isolated")
            return Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)]), True
        case "qwen2":
            cut = Split(Regex(_QWEN_2), behavior="isolated")
            return Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=False)]), False
        case _:
            raise ArtifactError(
                f"{path}: found a tokenizer that cuts text by the rule {name!r}, expected gpt-2, smollm, llama-bpe or "
                "qwen2; import the model's Hugging Face directory instead"
            )
