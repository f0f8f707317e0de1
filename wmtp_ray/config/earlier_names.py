"""Names of an earlier generation of storage, read where this generation's are missing.

    models_v2/x                       models/x
    datasets_v2/x                     datasets/x
    .../valid.jsonl                   .../validation.jsonl
    models_v2/micro-mtp               models_v2/micro_mtp
    models_v2/meta-llama-mtp          models_v2/7b_1t_4_mtp
    models_v2/ref-sheared-llama-2.7b  models_v2/rho1_reference
    the tokenizer of meta-llama-mtp   models_v2/shared/tokenizer.model

The names compose: datasets_v2/mbpp/valid.jsonl may be found as datasets/mbpp/validation.jsonl. A model directory may
be flat or in parts: x/tokenizer.model is found for x/tokenizer/tokenizer.model, and the other way round.
"""

from collections.abc import Iterator
from pathlib import Path

from wmtp_ray.model_folder import TOKENIZER_JSON, TOKENIZER_MODEL, ModelFolder

FOLDERS = {"models_v2": "models", "datasets_v2": "datasets"}
FILES = {"valid.jsonl": "validation.jsonl"}
MODELS = {
    "micro-mtp": "micro_mtp",
    "meta-llama-mtp": "7b_1t_4_mtp",
    "ref-sheared-llama-2.7b": "rho1_reference",
}
_SHARED = "shared"  # where the tokenizer of `_SHARES` lay, beside the models
_SHARES = "meta-llama-mtp"


def existing_path(path: Path, storage_root: Path) -> Path:
    """Return `path`, or its earlier name if only that exists; paths outside the storage are returned unchanged."""
    if path.exists() or not path.is_relative_to(storage_root):
        return path
    folder, *rest = path.relative_to(storage_root).parts or ("",)
    roots = [storage_root / name for name in (folder, FOLDERS.get(folder, folder))]
    candidates = [root / tail for root in roots for tail in _tails(Path(*rest))]
    return next((candidate for candidate in candidates if candidate.exists()), path)


def _tails(tail: Path) -> Iterator[Path]:
    """Yield the names that a path inside a folder of the storage may have, those of now first."""
    first, *rest = tail.parts or ("",)
    names = [first, MODELS.get(first, first)]
    for name in names:
        own = Path(name, *rest)
        yield own
        yield own.with_name(FILES.get(own.name, own.name)) if own.name else own
        yield from _in_other_layout(own)
        if own == ModelFolder(Path(_SHARES), in_parts=True).tokenizer.model:
            # Before the earlier model's own: the earlier defaults named this one.
            yield ModelFolder(Path(_SHARED), in_parts=False).tokenizer.model


def _in_other_layout(tokenizer: Path) -> Iterator[Path]:
    """Yield where the file of a tokenizer lies if its model's directory has the other layout; nothing for others."""
    if tokenizer.name not in (TOKENIZER_MODEL, TOKENIZER_JSON):
        return
    in_parts, flat = (ModelFolder(tokenizer.parent.parent, in_parts=each).tokenizer for each in (True, False))
    if tokenizer.parent == in_parts.path:
        yield flat.place(tokenizer.name)
    else:
        yield ModelFolder(tokenizer.parent, in_parts=True).tokenizer.place(tokenizer.name)


def earlier_names_in(path: Path, storage_root: Path) -> list[str]:
    """List the parts of a path that are names of the earlier generation, each with its present name."""
    if not path.is_relative_to(storage_root):
        return []
    parts = path.relative_to(storage_root).parts
    folders = {earlier: now for now, earlier in FOLDERS.items()}
    files = {earlier: now for now, earlier in FILES.items()}
    models = {earlier: now for now, earlier in MODELS.items()}
    found = [(parts[0], folders[parts[0]])] if parts and parts[0] in folders else []
    found += [(part, models[part]) for part in parts[1:2] if part in models]
    found += [(path.name, files[path.name])] if path.name in files else []
    return [f"{earlier} (now {now})" for earlier, now in found]
