"""Names of an earlier generation of storage, read where this generation's are missing.

    models_v2/x            models/x
    datasets_v2/x          datasets/x
    .../valid.jsonl        .../validation.jsonl
    models_v2/micro-mtp    models_v2/micro_mtp

The names compose: datasets_v2/mbpp/valid.jsonl may be found as datasets/mbpp/validation.jsonl.
"""

from itertools import product
from pathlib import Path

FOLDERS = {"models_v2": "models", "datasets_v2": "datasets"}
FILES = {"valid.jsonl": "validation.jsonl"}
MODELS = {"micro-mtp": "micro_mtp"}


def existing_path(path: Path, storage_root: Path) -> Path:
    """Return `path`, or its earlier name if only that exists; paths outside the storage are returned unchanged."""
    if path.exists() or not path.is_relative_to(storage_root):
        return path
    folder, *rest = path.relative_to(storage_root).parts or ("",)
    roots = [storage_root / name for name in (folder, FOLDERS.get(folder, folder))]
    heads = [rest[:1], [MODELS.get(name, name) for name in rest[:1]]] if len(rest) > 1 else [[]]
    names = [path.name, FILES.get(path.name, MODELS.get(path.name, path.name))]
    candidates = [
        root.joinpath(*head, *rest[len(head) : -1], name) if rest else root
        for root, head, name in product(roots, heads, names)
    ]
    return next((candidate for candidate in candidates if candidate.exists()), path)


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
