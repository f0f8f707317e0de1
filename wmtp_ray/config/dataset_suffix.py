"""Small versions of data files: `train_small.jsonl` beside `train.jsonl`, read in its place with `data.suffix=small`.

    train.jsonl                        train_small.jsonl
    valid.jsonl or validation.jsonl    validation_small.jsonl, or valid_small.jsonl where only that exists

Names files; reads none. `scripts/setup_datasets.py` writes the small ones.
"""

from pathlib import Path

from wmtp_ray.config.earlier_names import FILES, existing_path

FILE_KEYS = (("data", "train_file"), ("data", "valid_file"))
_STEMS = {Path(name).stem: Path(earlier).stem for name, earlier in FILES.items()}


def with_suffix(path: Path, suffix: str, storage_root: Path) -> Path:
    """Return the sibling of a data file that has the suffix; a path that has it already stays as it is.

    In the storage it may lie in a folder of the earlier generation (`earlier_names.py`).
    """
    if path.stem.endswith(f"_{suffix}"):
        return path
    names = next(((earlier, now) for now, earlier in _STEMS.items() if path.stem in (now, earlier)), (path.stem,))
    siblings = [existing_path(path.with_name(f"{name}_{suffix}{path.suffix}"), storage_root) for name in names]
    return next((sibling for sibling in siblings if sibling.exists()), siblings[0])
