from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.data.kept_rows import Counts, RowLimits, drop_reason, keep_rows, row_line, total
from wmtp_ray.data.rows import Row, decode_row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ROWS = st.builds(
    Row,
    instruction=TEXTS,
    input=TEXTS,
    output=TEXTS,
    task_id=TEXTS,
    is_correct=st.booleans(),
    source=TEXTS,
    difficulty=st.integers(0, 28),
    has_tests=st.booleans(),
    language=st.integers(0, 4),
    cf_rating=st.integers(0, 3500),
    contest=st.sampled_from(["", "aizu", "codeforces"]),
)
EVERYTHING = RowLimits(languages=(0, 1, 2, 3, 4), max_tokens=10**6)


def row_of(output: str, *, language: int = 3, is_correct: bool = True) -> Row:
    return Row("Add.", "", output, "p_correct_0", is_correct, "made_up", 0, True, language, 0, "aizu")


@given(row=ROWS.filter(lambda row: bool(row.output.strip())))
def test_a_written_row_reads_back_as_it_was(row: Row) -> None:
    line = row_line(row)
    assert decode_row(line) == row
    assert b"\n" not in line


def test_unknown_metadata_is_left_out() -> None:
    assert b"cf_rating" not in row_line(row_of("x"))
    assert b"contest" in row_line(row_of("x"))


def test_a_row_of_the_longest_length_is_kept_and_one_token_more_is_not(tokenizer: CodeTokenizer) -> None:
    row = row_of("print(1 + 2)\n")
    length = len(encode_row(row, tokenizer, row_id=0).tokens_T)
    assert drop_reason(row, tokenizer, RowLimits((3,), length)) is None
    assert drop_reason(row, tokenizer, RowLimits((3,), length - 1)) == "too_long"


def test_the_cheapest_reason_that_applies_is_counted(tokenizer: CodeTokenizer) -> None:
    assert drop_reason(row_of(" \n\t", language=2), tokenizer, RowLimits((3,), 1)) == "language"
    assert drop_reason(row_of(" \n\t"), tokenizer, RowLimits((3,), 1)) == "empty"


@given(rows=st.lists(ROWS, max_size=8))
def test_kept_and_dropped_rows_are_all_of_them(tokenizer: CodeTokenizer, rows: list[Row]) -> None:
    limits = RowLimits(languages=(1, 3), max_tokens=60)
    counts = keep_rows(rows, tokenizer, limits).counts
    reasons = Counter(drop_reason(row, tokenizer, limits) for row in rows)
    assert counts.rows == counts.correct_rows + counts.incorrect_rows == reasons.pop(None, 0)
    assert counts.dropped == reasons
    assert sum(counts.rows_by_language.values()) == counts.rows
    assert counts.problems_without_rows == (counts.rows == 0)


@given(groups=st.lists(st.lists(ROWS, max_size=4), max_size=4))
def test_totals_do_not_depend_on_how_rows_are_grouped(tokenizer: CodeTokenizer, groups: list[list[Row]]) -> None:
    parts = total(keep_rows(group, tokenizer, EVERYTHING).counts for group in groups)
    whole = keep_rows([row for group in groups for row in group], tokenizer, EVERYTHING).counts
    for name in ("rows", "correct_rows", "incorrect_rows", "dropped", "rows_by_language", "rows_by_contest"):
        assert getattr(parts, name) == getattr(whole, name), name
    assert parts.problems == len(groups)


def test_the_breakdowns_of_a_total_are_sorted() -> None:
    parts = [Counts(dropped={"too_long": 1}), Counts(dropped={"empty": 2, "too_long": 3})]
    assert list(total(parts).dropped.items()) == [("empty", 2), ("too_long", 4)]
