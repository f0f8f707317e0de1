import random
import time
import tracemalloc

import pytest

from wmtp_ray.evaluation.judge import stdout
from wmtp_ray.evaluation.judge.stdout import first_difference


def difference(printed: str, expected: str) -> str | None:
    return first_difference(printed.encode(), expected)


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
        ("+" + "9" * 5000, "9" * 5000),
        ("5.", "5"),
        (".5", "0.5"),
        ("1e5", "100000"),
        ("1e+17", "100000000000000000"),
        ("100000000000000001.000", "100000000000000001"),
        ("1\v2\f3", "1 2 3"),
        ("\u00e9 \u212a", "\u00e9 \u212a"),
    ],
)
def test_whitespace_case_and_the_last_digits_do_not_count(printed, expected):
    assert difference(printed, expected) is None
    assert difference(expected, printed) is None


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
        ("101", "0101", "line 1"),
        ("0101", "101", "line 1"),
        ("00.5", "0.5", "line 1"),
        ("0" * 5000 + "1", "1", "line 1"),
        ("1e999999999", "5", "line 1"),
        ("5", "1e999999999", "line 1"),
        ("1,5", "1.5", "line 1"),
        ("1\0", "1", "line 1"),
        ("1\u00a02", "1 2", "line 1"),
        ("1\u30002", "1 2", "line 1"),
        ("1\x1c2", "1 2", "line 1"),
        ("1\x852", "1 2", "line 1"),
        ("\ufeff1", "1", "line 1"),
        ("\u212a", "k", "line 1"),
        ("STRA\u017fE", "strase", "line 1"),
        ("\u03a3", "\u03c3", "line 1"),
        ("100000000000000001.0", "100000000000000000", "line 1"),
        ("1.00000000000000001e17", "100000000000000000", "line 1"),
        ("", "0", "the output ends before '0'"),
    ],
)
def test_everything_else_does_and_is_named(printed, expected, where):
    assert where in (difference(printed, expected) or "")


def test_bytes_that_are_no_text_count_as_they_are():
    assert first_difference(b"5\xff", "5\udcff") is None
    assert first_difference(b"5\xff", "5") is not None
    assert first_difference("\ud800".encode("utf-8", "surrogatepass"), "\ud800") is None


def test_a_long_token_is_not_quoted_in_full():
    assert len(difference("x" * 10_000, "y") or "") < 300


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("123456789012.35", "123456789012.345678"),
        ("100000000000.333", "100000000000.333333333"),
        ("1.000009e-3", "0.001"),
        ("-250001.5", "-250000.5"),
        ("1e300", "1.000001e300"),
        ("123456789012", "123456789012.345678"),
    ],
)
def test_an_error_counts_relative_to_a_large_number(printed, expected):
    assert difference(printed, expected) is None


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("123456.7", "123455.4"),
        ("1.00002", "1.0"),
        ("1e300", "1.00002e300"),
        ("123456790.0", "123456789"),
        ("123456790", "123456789"),
        ("1000000.9", "1000000"),
        ("-1e308", "1e308"),
    ],
)
def test_an_expected_integer_is_exact_and_a_larger_error_is_one(printed, expected):
    assert difference(printed, expected) is not None


def test_a_comparison_by_blocks_is_that_of_the_whole(monkeypatch):
    """Words, lines and blanks that a block cuts are put together again."""
    draw = random.Random(1)
    pieces = ["1", "20", ".", "-", " ", "\n", "\r\n", "\u00a0", "\u3000", "\x1c", "A", "Σ", "σ", "ß", "İ", "é", "\0"]
    texts = ["".join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(300)]
    pairs = [(text, draw.choice([text, text.upper(), draw.choice(texts), text[1:]])) for text in texts]
    whole = [difference(*pair) for pair in pairs]
    for block_bytes in (1, 2, 3, 7):
        monkeypatch.setattr(stdout, "_BLOCK_BYTES", block_bytes)
        assert [difference(*pair) for pair in pairs] == whole


MEGABYTE = 1 << 20
FLOODS = {
    "a long word": b"1" * 8 * MEGABYTE,
    "digits and a letter": b"1" * 40_000 + b"x",
    "digits, dots and signs": b"1." * 4 * MEGABYTE,
    "short words": "\u0436 ".encode() * 3 * MEGABYTE,
    "short words between other blanks": "\u0436\u3000".encode() * MEGABYTE,
    "blanks": b"5" + b" " * 8 * MEGABYTE + b"5",
    "lines": b"\n" * 8 * MEGABYTE + b"6",
    "letters of four bytes": "\U0001f600".encode() * 2 * MEGABYTE,
    "no text at all": b"\xff\xe3\x80 \0" * MEGABYTE,
}


@pytest.mark.parametrize("name", FLOODS)
def test_whatever_is_printed_is_compared_in_linear_time_and_little_memory(name):
    started = time.process_time()
    tracemalloc.start()
    try:
        assert first_difference(FLOODS[name], "5\n") is not None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEGABYTE
    assert time.process_time() - started < 5


def test_a_word_that_is_longer_than_any_expected_one_is_not_taken_for_its_beginning():
    expected = "9" * 100_000
    assert difference(f"{expected}x{expected}", expected) is not None
    assert difference(f"+{expected}{'0' * 500_000}", expected) is not None
    assert difference(f"+{expected}", expected) is None
