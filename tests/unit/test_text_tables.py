from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.report.quickstart_summary import CriticFindings, QuickstartArm, Share
from wmtp_ray.report.quickstart_tables import (
    _CRITIC_NUMBERS,
    _RUN_NUMBERS,
    critic_table,
    loss_table,
    pass_table,
    run_table,
)
from wmtp_ray.text_tables import bar, percent, table, titled_table
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.training.held_out import HeldOutLosses


def test_words_stand_left_and_numbers_right() -> None:
    assert table([["name", "rows"], ["a", "1,000"], ["long", "7"]]) == "  name   rows\n  a     1,000\n  long      7"


def test_a_titled_table_wraps_its_caption_and_never_a_cell() -> None:
    interval = f"0.5000 [{'0' * 80}]"
    shown = titled_table("The runs", [["arm", "found"], ["a", interval]], "Lower is likelier. " * 6, left=(0, 1))
    blank, title, header, row, *caption = shown.splitlines()
    assert (blank, title, header, row) == ("", "The runs", "  arm  found", f"  a    {interval}")
    assert len(caption) == 2
    assert all(len(line) <= 80 for line in caption)


def test_the_quickstarts_tables_fit_a_terminal_of_80_columns() -> None:
    names = ("baseline", "verifiable", "shuffled")
    results = {name: RunResult("FINISHED", 120, dict.fromkeys(_RUN_NUMBERS, 12345.678), "p", {}, ()) for name in names}
    share = Share(0.123, 0.045, 0.456, 300)
    arms = {name: QuickstartArm(name, None, 120, 1_234_567, share, share, None, 1.0) for name in names}
    losses = dict.fromkeys(("random", "base", *names), HeldOutLosses(1.234, 1.456))
    health = CriticFindings({f"critic/{name}": 0.5 for name in _CRITIC_NUMBERS}, (), ())
    shown = [critic_table(health), run_table(results), loss_table(losses), pass_table(arms)]
    assert [text.splitlines()[1] for text in shown][1:3] == ["The runs", "Loss per token on problems never seen"]
    assert max(len(line) for text in shown for line in text.splitlines()) <= 80


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
