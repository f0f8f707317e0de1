import pytest

from wmtp_ray.evaluation.judge.stdout import first_difference


@pytest.mark.parametrize(
    ("printed", "expected"),
    [("1 2\n", "1 2"), ("1  2 \n3\n\n", " 1 2\n3"), ("", "\n"), ("a\r\nb\r\n", "a\nb"), ("1\n\n2", "1\n \n2\n")],
)
def test_blanks_within_lines_and_empty_lines_at_the_end_do_not_count(printed, expected):
    assert first_difference(printed, expected) is None
    assert first_difference(expected, printed) is None


@pytest.mark.parametrize(
    ("printed", "expected", "where"),
    [
        ("1 2", "1\n2", "line 1"),
        ("1\n\n2", "1\n2", "line 2"),
        ("1", "1\n2", "ends before line 2"),
        ("1\n2", "1", "nothing more"),
        ("1.0", "1.00", "line 1"),
        ("yes", "YES", "line 1"),
        ("12", "1 2", "line 1"),
        ("", "0", "line 1"),
    ],
)
def test_everything_else_does_and_is_named(printed, expected, where):
    assert where in (first_difference(printed, expected) or "")


def test_a_long_line_is_not_quoted_in_full():
    assert len(first_difference("x" * 10_000, "y") or "") < 300
