"""`wmtp data index`: build the index of a JSONL anew, count its tokens if a tokenizer is given, report the result."""

from pathlib import Path
from typing import Literal

import numpy as np

from wmtp_ray.config.data import Template
from wmtp_ray.data.index import BuiltIndex, build_index, index_path_of, write_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.flows.data.count_tokens import write_counted


def index_file(
    jsonl: Path,
    tokenizer_path: Path | None,
    out: Path | None,
    on_error: Literal["fail", "skip"],
    template: Template = "plain",
) -> str:
    """Write the index, replacing an older one, and return a few lines about it. DataError for what is malformed.

    Tokens are counted as `data.template` says rows are put. ConfigError for chats without a tokenizer, or without a
    chat template beside it.

    A counting that was killed goes on where it was when the same command is given again.
    """
    if tokenizer_path is None and template == "chat":
        raise ConfigError(
            "found --template chat without --tokenizer, expected both: it says how tokens are counted; add it"
        )
    tokenizer = (
        None if tokenizer_path is None else CodeTokenizer(tokenizer_path.absolute(), template)
    )  # before the work
    built = build_index(jsonl.absolute(), on_error=on_error)
    path = index_path_of(jsonl.absolute(), out)
    if tokenizer is None:
        write_index(built, path)
    else:
        built = write_counted(built, tokenizer, path, num_cpus=None, on_error=on_error)
    return _described(built, path)


def _described(built: BuiltIndex, path: Path) -> str:
    index = built.index
    levels, rows = np.unique(index.difficulty_R, return_counts=True)
    lines = [
        f"{path}: {len(index):,} rows of {len(index.problem_names):,} problems, {index.is_correct_R.sum():,} correct",
        "difficulty: " + "; ".join(f"{level}: {count:,}" for level, count in zip(levels, rows, strict=True)),
    ]
    if index.tokenizer_hash:
        lines.append(f"tokens: {int(index.num_tokens_R.sum()):,}, the longest row {int(index.num_tokens_R.max()):,}")
    if built.num_skipped:
        lines.append(f"left out: {built.num_skipped} lines, for example {built.errors[0]}")
    return "\n".join(lines)
