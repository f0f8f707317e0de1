"""Problems in exactly the shape in which the hub serves code_contests, and their Parquet files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TESTS = pa.struct([("input", pa.list_(pa.string())), ("output", pa.list_(pa.string()))])
SOLUTIONS = pa.struct([("language", pa.list_(pa.int64())), ("solution", pa.list_(pa.string()))])
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("description", pa.string()),
        ("public_tests", TESTS),
        ("private_tests", TESTS),
        ("generated_tests", TESTS),
        ("source", pa.int64()),
        ("difficulty", pa.int64()),
        ("solutions", SOLUTIONS),
        ("incorrect_solutions", SOLUTIONS),
        ("cf_contest_id", pa.int64()),
        ("cf_index", pa.string()),
        ("cf_points", pa.float32()),
        ("cf_rating", pa.int64()),
        ("cf_tags", pa.list_(pa.string())),
        ("is_description_translated", pa.bool_()),
        ("untranslated_description", pa.string()),
        ("time_limit", pa.struct([("seconds", pa.int64()), ("nanos", pa.int64())])),
        ("memory_limit_bytes", pa.int64()),
        ("input_file", pa.string()),
        ("output_file", pa.string()),
    ]
)
CPP, PYTHON_2, PYTHON_3 = 2, 1, 3


def cases_of(*pairs: tuple[str, str]) -> dict[str, list[str]]:
    return {"input": [pair[0] for pair in pairs], "output": [pair[1] for pair in pairs]}


def solutions_of(*pairs: tuple[int, str]) -> dict[str, list[Any]]:
    return {"language": [pair[0] for pair in pairs], "solution": [pair[1] for pair in pairs]}


def record_of(name: str, **changes: Any) -> dict[str, Any]:
    """A problem as a record of the hub; keyword arguments replace columns."""
    record = {
        "name": name,
        "description": f"Solve {name}.\n",
        "public_tests": cases_of(("1\n", "2\n")),
        "private_tests": cases_of(("3\n", "4\n")),
        "generated_tests": cases_of(("5\n", "6\n"), ("7\n", "8\n")),
        "source": 2,
        "difficulty": 7,
        "solutions": solutions_of((PYTHON_3, "print(int(input()) + 1)")),
        "incorrect_solutions": solutions_of((PYTHON_3, "print(int(input()))")),
        "cf_contest_id": 1060,
        "cf_index": "A",
        "cf_points": 500.0,
        "cf_rating": 800,
        "cf_tags": ["math"],
        "is_description_translated": False,
        "untranslated_description": "",
        "time_limit": {"seconds": 2, "nanos": 0},
        "memory_limit_bytes": 256_000_000,
        "input_file": "",
        "output_file": "",
    }
    assert changes.keys() <= record.keys()
    return record | changes


def write_parquet(path: Path, records: Sequence[dict[str, Any]], row_group_size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records), schema=SCHEMA), path, row_group_size=row_group_size)
    return path
