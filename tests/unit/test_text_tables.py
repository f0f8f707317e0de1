from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.text_tables import bar, percent, table


def test_words_stand_left_and_numbers_right() -> None:
    assert table([["name", "rows"], ["a", "1,000"], ["long", "7"]]) == "  name   rows\n  a     1,000\n  long      7"


@given(st.floats(0.0, 1.0), st.integers(1, 40))
def test_a_bar_is_as_long_as_its_fraction_to_an_eighth(frac: float, width: int) -> None:
    drawn = bar(frac, width)
    eighths = sum(8 if character == "█" else "▏▎▍▌▋▊▉".index(character) + 1 for character in drawn)
    assert abs(eighths - frac * width * 8) <= 1.0
    assert len(drawn) <= width
    assert bool(drawn) == (frac > 0.0)


def test_shares_are_short_and_a_rare_thing_is_not_called_none() -> None:
    assert [percent(part, 10_000) for part in (0, 1, 40, 1234, 10_000)] == ["0 %", "< 0.1 %", "0.4 %", "12 %", "100 %"]
    assert percent(0, 0) == "-"
