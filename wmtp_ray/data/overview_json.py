"""An overview as one JSON object: the counts that `overview_text` shows. Lengths are given by their quantiles."""

from dataclasses import asdict
from typing import Any

import msgspec

from wmtp_ray.data.overview import QUANTILES, Overview

NAMES = [f"{quantile:.0%}" for quantile in QUANTILES[:-1]] + ["longest"]


def overview_json(overview: Overview) -> bytes:
    """Return what was counted; arrays of one value a row or a problem are left out."""
    content: dict[str, Any] = {
        "num_rows": overview.num_rows,
        "num_problems": overview.num_problems,
        "num_correct": overview.num_correct,
        "languages": [asdict(group) for group in overview.languages],
        "sources": [asdict(group) for group in overview.sources],
        "difficulties": [asdict(difficulty) for difficulty in overview.difficulties],
        "lengths": {
            "unit": overview.unit,
            "max_tokens": overview.max_tokens,
            "num_over_max_tokens": overview.num_over_max_tokens,
            **{lengths.name: dict(zip(NAMES, lengths.quantiles, strict=True)) for lengths in overview.lengths},
        },
        "problems": _ownership(overview),
        "problem_classes": {name: asdict(counts) for name, counts in overview.problem_classes.items()},
        "problem_classes_of_languages": overview.class_languages,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _ownership(overview: Overview) -> dict[str, Any]:
    ownership = overview.ownership
    rows_of_largest = ownership.rows_P[: len(ownership.top_names)].tolist()
    return {
        "rows_of_largest": dict(zip(ownership.top_names, rows_of_largest, strict=True)),
        "rows_of_top_percent": ownership.rows_of_top_percent,
    }
