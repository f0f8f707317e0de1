import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.overview import Overview, overview_of
from wmtp_ray.data.overview_json import overview_json
from wmtp_ray.data.overview_picture import draw_overview
from wmtp_ray.data.overview_text import render_overview
from wmtp_ray.errors import DataError

MAX_COLUMNS = 100
BINS = {
    "raw": {"low": (1, 3), "medium": (4, 7), "high": (8, 11)},
    "cf_rating": {"low": (1, 1399), "high": (1400, 4000)},
    "quantile": {"low": (1, 50), "high": (51, 100)},
}


def make_index(num_rows: int = 300, num_problems: int = 12, seed: int = 0) -> RowIndex:
    """Rows of problems from two sites; only the second site's problems have ratings."""
    rng = np.random.default_rng(seed)
    problem_R = rng.integers(0, num_problems, num_rows).astype(np.int32)
    is_rated_R = problem_R % 2 == 1
    return RowIndex(
        path="data/train.jsonl",
        offset_R=np.arange(num_rows, dtype=np.int64) * 100,
        num_bytes_R=rng.integers(50, 100, num_rows).astype(np.int32),
        difficulty_R=np.where(is_rated_R, 7 + problem_R % 9, problem_R % 4).astype(np.int16),
        is_correct_R=rng.random(num_rows) < 0.4,
        problem_R=problem_R,
        problem_names=tuple(f"{code}_A. {'A long name of a problem ' * 3}{code}" for code in range(num_problems)),
        language_R=rng.choice([1, 3], num_rows).astype(np.int8),
        cf_rating_R=np.where(is_rated_R, 800 + 100 * problem_R, 0).astype(np.int16),
        source_R=is_rated_R.astype(np.int16),
        source_names=("codechef", "codeforces"),
        prompt_tokens_R=rng.integers(3, 40, num_rows).astype(np.int32),
        response_tokens_R=rng.integers(2, 70, num_rows).astype(np.int32),
        file_fingerprint="fingerprint",
        tokenizer_hash="tokenizer",
    )


def uncounted(index: RowIndex) -> RowIndex:
    none_R = np.full(len(index), -1, np.int32)
    return replace(index, prompt_tokens_R=none_R, response_tokens_R=none_R, tokenizer_hash="")


@pytest.fixture
def overview() -> Overview:
    return overview_of(make_index(), BINS, max_tokens=80)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 50), num_rows=st.integers(1, 40), num_problems=st.integers(1, 6))
def test_every_count_is_that_of_a_naive_loop(seed: int, num_rows: int, num_problems: int) -> None:
    index = make_index(num_rows, num_problems, seed)
    overview = overview_of(index, BINS, max_tokens=60)
    assert overview.num_over_max_tokens == sum(int(n) > 60 for n in index.num_tokens_R)
    for group in overview.sources:
        rows = [row for row in range(num_rows) if index.source_names[index.source_R[row]] == group.name]
        assert group.num_rows == len(rows)
        assert group.num_problems == len({int(index.problem_R[row]) for row in rows})
        assert group.num_correct == sum(bool(index.is_correct_R[row]) for row in rows)
        known = sorted(int(index.difficulty_R[row]) for row in rows if index.difficulty_R[row] > 0)
        assert group.num_unknown == len(rows) - len(known)
        assert group.difficulty_range is None or group.difficulty_range[::2] == (known[0], known[-1])
    for difficulty in overview.difficulties:
        assert difficulty.num_unknown + sum(difficulty.rows_by_value.values()) == num_rows
        assert difficulty.num_unknown + difficulty.num_outside + sum(difficulty.rows_by_bin.values()) == num_rows
        for name, (low, high) in BINS[difficulty.source].items():
            inside = [rows for value, rows in difficulty.rows_by_value.items() if low <= value <= high]
            assert difficulty.rows_by_bin[name] == sum(inside)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 50),
    num_rows=st.integers(1, 40),
    num_problems=st.integers(1, 12),
    languages=st.sampled_from([None, ("python3",), ("python2", "python3"), ("java",)]),
)
def test_problem_classes_are_those_of_a_naive_loop(
    seed: int, num_rows: int, num_problems: int, languages: tuple[str, ...] | None
) -> None:
    index = make_index(num_rows, num_problems, seed)
    codes = {None: {1, 3}, ("python3",): {3}, ("python2", "python3"): {1, 3}, ("java",): {4}}[languages]
    problems, rows = Counter[str](), Counter[str]()
    for problem in range(num_problems):
        labels = [
            bool(index.is_correct_R[row])
            for row in range(num_rows)
            if index.problem_R[row] == problem and index.language_R[row] in codes
        ]
        if labels:
            name = "both" if len(set(labels)) == 2 else "only_correct" if labels[0] else "only_incorrect"
            problems[name] += 1
            rows[name] += len(labels)
    found = overview_of(index, BINS, max_tokens=80, languages=languages).problem_classes
    assert {name: (counts.num_problems, counts.num_rows) for name, counts in found.items()} == {
        name: (problems[name], rows[name]) for name in ("both", "only_correct", "only_incorrect")
    }


def test_problems_of_every_class_are_told_with_their_rows_in_text_and_json() -> None:
    index = make_index(6, 3)
    index = replace(
        index,
        problem_R=np.array([0, 0, 0, 1, 2, 2], np.int32),
        is_correct_R=np.array([True, True, True, False, True, False]),
    )
    overview = overview_of(index, BINS, max_tokens=80)
    ownership = overview.ownership
    assert ownership.rows_P.tolist() == [3, 2, 1]
    assert [name[:2] for name in ownership.top_names] == ["0_", "2_", "1_"]
    assert ownership.rows_of_top_percent == 3
    content = json.loads(overview_json(overview))
    assert content["problem_classes"] == {
        "both": {"num_problems": 1, "num_rows": 2},
        "only_correct": {"num_problems": 1, "num_rows": 3},
        "only_incorrect": {"num_problems": 1, "num_rows": 1},
    }
    assert content["problem_classes_of_languages"] is None
    text = render_overview(overview)
    assert re.search(r"only_correct: no incorrect row +1 +33 % +3 +50 %", text)
    assert "few problems have correct rows: here 2 of 3 have any (67 %)" in text


def test_classes_of_some_languages_say_so_even_where_no_row_is_left() -> None:
    text = render_overview(overview_of(make_index(), BINS, max_tokens=80, languages=("java",)))
    assert "Problems by the labels of their rows in data.languages=[java]" in text
    assert "here 0 of 0 have any (-)" in text


def test_quantiles_are_values_that_occur_and_end_with_the_longest(overview: Overview) -> None:
    for lengths in overview.lengths:
        assert set(lengths.quantiles) <= set(lengths.values_N.tolist())
        assert lengths.quantiles[-1] == lengths.values_N.max()
        assert list(lengths.quantiles) == sorted(lengths.quantiles)


def test_the_text_fits_a_terminal_and_names_every_section(overview: Overview) -> None:
    text = render_overview(overview)
    assert max(map(len, text.splitlines())) <= MAX_COLUMNS
    for word in ("python3", "codeforces", "cf_rating", "quantile", "Lengths in tokens", "data.max_tokens=80", "█"):
        assert word in text


def test_without_token_counts_lengths_are_bytes_and_the_remedy_is_named() -> None:
    index = uncounted(make_index())
    overview = overview_of(index, BINS, max_tokens=80)
    assert (overview.unit, overview.num_over_max_tokens) == ("bytes", None)
    assert max(lengths.quantiles[-1] for lengths in overview.lengths) == index.num_bytes_R.max()
    assert "wmtp data index" in render_overview(overview)


@pytest.mark.parametrize("is_correct", [True, False])
def test_one_class_or_one_row_is_no_special_case(is_correct: bool) -> None:
    index = make_index(1, 1)
    overview = overview_of(replace(index, is_correct_R=np.array([is_correct])), BINS, max_tokens=80)
    assert "1 rows of 1 problems" in render_overview(overview)


def test_the_picture_is_a_png_even_without_a_plan(overview: Overview, tmp_path: Path) -> None:
    out = tmp_path / "overview.png"
    draw_overview(overview, (), out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_refused(overview: Overview, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--picture"):
        draw_overview(overview, (), tmp_path / "absent" / "overview.png")
