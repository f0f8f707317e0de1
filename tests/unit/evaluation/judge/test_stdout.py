import pytest

from wmtp_ray.evaluation.judge.stdout import first_difference


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("1 2\n", "1 2"),
        ("1  2 \n3\n\n", " 1 2\n3"),
        ("", "\n"),
        ("a\r\nb\r\n", "a\nb"),
        ("6 4 1", "6\n4\n1\n"),
        ("yes", "YES"),
        ("1.0", "1.00"),
        ("0.333333", "0.3333333333"),
        ("1e-7", "0"),
        ("+7", "7"),
        ("-0", "0"),
    ],
)
def test_whitespace_case_and_the_last_digits_do_not_count(printed, expected):
    assert first_difference(printed, expected) is None
    assert first_difference(expected, printed) is None


@pytest.mark.parametrize(
    ("printed", "expected", "where"),
    [
        ("1 3", "1\n2", "line 1: printed '3', expected '2'"),
        ("1\n\n3", "1\n2", "line 3: printed '3', expected '2'"),
        ("1", "1\n2", "the output ends before '2'"),
        ("1\n2", "1", "line 2: printed '2', expected nothing more"),
        ("1.0001", "1.0", "line 1"),
        ("1000000000000000001", "1000000000000000000", "line 1"),
        ("1_0", "10", "line 1"),
        ("nan", "0", "line 1"),
        ("inf", "1e999", "line 1"),
        ("1e999", "2e999", "line 1"),
        ("0x10", "16", "line 1"),
        ("\u0661", "1", "line 1"),
        ("9" * 5000, "8" * 5000, "line 1"),
        ("12", "1 2", "line 1"),
        ("", "0", "the output ends before '0'"),
    ],
)
def test_everything_else_does_and_is_named(printed, expected, where):
    assert where in (first_difference(printed, expected) or "")


def test_a_long_token_is_not_quoted_in_full():
    assert len(first_difference("x" * 10_000, "y") or "") < 300
