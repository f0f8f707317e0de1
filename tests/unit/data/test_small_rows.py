"""The small version of a split: few rows, both classes, the same every time, no problem of another file."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import build_index
from wmtp_ray.data.small_rows import ROWS_PER_CLASS, draw_small


def indexed(path: Path, rows_of: list[tuple[int, int]]) -> RowIndex:
    """Problems with so many correct and incorrect rows each, in turn."""
    metadata = {"source": "made_up", "difficulty": 7, "has_tests": True}
    rows = [
        {"instruction": "Do.", "input": "", "output": "x", "task_id": f"p{problem}_{label}_{number}"}
        | {"is_correct": label == "correct", "metadata": metadata}
        for problem, counts in enumerate(rows_of)
        for label, count in zip(("correct", "incorrect"), counts, strict=True)
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_index(path, on_error="fail").index


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("small") / "rows.jsonl"


@settings(max_examples=60, deadline=None)
@given(
    rows_of=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(any), min_size=1, max_size=12),
    max_rows=st.integers(1, 40),
    taken=st.sets(st.integers(0, 11)),
)
def test_a_small_version_is_small_and_two_sided_first(
    scratch: Path, rows_of: list[tuple[int, int]], max_rows: int, taken: set[int]
) -> None:
    index = indexed(scratch, rows_of)
    without = {f"p{code}" for code in taken}
    drawn = draw_small(index, max_rows=max_rows, seed=0, without=without)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) <= max_rows
    assert drawn.tolist() == draw_small(index, max_rows=max_rows, seed=0, without=without).tolist()
    names = {index.problem_names[code] for code in index.problem_R[drawn].tolist()}
    assert not names & without
    by_class = Counter(zip(index.problem_R[drawn].tolist(), index.is_correct_R[drawn].tolist(), strict=True))
    assert max(by_class.values(), default=0) <= ROWS_PER_CLASS
    both = [f"p{n}" for n, counts in enumerate(rows_of) if all(counts) and f"p{n}" not in without]
    one_sided_drawn = [name for name in names if name not in both]
    assert not one_sided_drawn or set(both) <= names or len(drawn) >= max_rows - 1, "two-sided ones come first"
    if len(drawn) < max_rows - 1:
        assert names == {f"p{n}" for n in range(len(rows_of))} - without, "all there are"


def test_another_seed_draws_others(scratch: Path) -> None:
    index = indexed(scratch, [(2, 2)] * 30)
    first, other = (draw_small(index, max_rows=20, seed=seed) for seed in (0, 1))
    assert len(first) == len(other) == 20
    assert not np.array_equal(first, other)
    assert int(index.is_correct_R[first].sum()) == 10
