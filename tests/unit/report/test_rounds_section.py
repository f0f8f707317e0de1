"""Rounds in a report: numbers are those of the files, and a run that was cut short is shown as far as it came."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from wmtp_ray.report.document import render_document
from wmtp_ray.report.saved_rounds import is_rounds, read_saved_rounds
from wmtp_ray.report.sections.rounds_section import rounds_section
from wmtp_ray.report.write_report import write_report
from wmtp_ray.rounds.rounds_record import CollectedRows, MixedRows, Round, RoundsRecord, write_rounds
from wmtp_ray.run_folder import RoundsFolder

from .saved_runs import CRITIC_METRICS, write_config, write_run
from .test_page import SECTIONS, Outline


def write_rounds_run(root: Path, name: str, *, num_done: int, num_begun: int, collects: bool = True) -> Path:
    """A run of 3 rounds; round n passes n + 1 of 4 problems, a tenth times n + 1 of its 40 answers are correct."""
    path = root / name
    path.mkdir(parents=True)
    write_config(path, "td", 1, {"rounds.count": 3})
    for number in range(num_begun):
        run = write_run(path, f"round_{number}", passed=[int(place <= number) for place in range(4)])
        (run / "critic").mkdir()
        health = {"metrics": CRITIC_METRICS | {"critic/auc_100": 0.5 + number / 16}, "failures": ["too low"]}
        (run / "critic" / "stage_result.json").write_text(json.dumps({"health": health}))
    done = [a_round(number, collects=collects) for number in range(num_done)]
    if done:
        write_rounds(RoundsFolder(path), RoundsRecord({}, tuple(done)))
    return path


def a_round(number: int, *, collects: bool) -> Round:
    collected = CollectedRows(8, 2, 40, 4 * (number + 1), 18 - number, 3, 11, f"{number}" * 64)
    mixed = MixedRows(14, 90, 14, 14, 1, 0, f"{number}" * 64)
    both = (collected, mixed) if collects else (None, None)
    return Round(f"round_{number}", *both, 25, 12, f"{number}abc" * 16)


def texts_of(page: str) -> str:
    return " ".join(Outline(page).texts)


def test_a_run_in_rounds_is_known_by_its_settings_before_its_first_round_is_done(tmp_path):
    assert is_rounds(write_rounds_run(tmp_path, "new", num_done=0, num_begun=0))
    assert not is_rounds(write_run(tmp_path, "ordinary"))
    assert not is_rounds(tmp_path)


def test_every_round_is_shown_with_its_rows_its_pass_at_k_and_its_critic(tmp_path):
    saved = read_saved_rounds(write_rounds_run(tmp_path, "online", num_done=2, num_begun=3))
    page = render_document([], [], "now", [saved])
    assert Outline(page).sections == ["rounds", *SECTIONS]
    text = texts_of(page)
    for expected in (
        "online: 2 of 3 rounds, 50 steps, 80 judged programs.",
        "online/round_0", "online/round_1", "25.0\u00a0%", "50.0\u00a0%",  # Pass@1 and its place
        "10.0\u00a0%", "20.0\u00a0%",  # correct answers
        "2.25", "2.12",  # different programs a problem
        "0.500", "0.562", "too low", "0abc0abc0abc", "1abc1abc1abc",
    ):  # fmt: skip
        assert expected in text, expected
    assert "may decide alone" not in text


def test_the_curves_hold_the_rounds_that_are_done(tmp_path):
    saved = read_saved_rounds(write_rounds_run(tmp_path, "online", num_done=2, num_begun=3))
    figures = {block.title: block for block in rounds_section([saved]).blocks if block.kind == "figure"}
    assert list(figures) == [
        "Pass@1 on tiny by round", "Share of correct answers by round", "Different programs of a problem by round",
    ]  # fmt: skip
    values = [(block.traces[0]["x"], block.traces[0]["y"]) for block in figures.values()]
    assert values == [([0, 1], [0.25, 0.5]), ([0, 1], [0.1, 0.2]), ([0, 1], [2.25, 2.125])]


def test_runs_of_unequal_extent_are_compared_with_a_warning_and_one_that_collects_nothing_has_no_answers(tmp_path):
    online = read_saved_rounds(write_rounds_run(tmp_path, "online", num_done=2, num_begun=2))
    none = read_saved_rounds(write_rounds_run(tmp_path, "none", num_done=3, num_begun=3, collects=False))
    text = texts_of(render_document([], [], "now", [online, none]))
    assert "none: 3 of 3 rounds, 75 steps, 0 judged programs" in text
    assert "The runs differ in steps or judged programs, which may decide alone." in text
    alone = rounds_section([none])
    assert [block.title for block in alone.blocks if block.kind == "figure"] == ["Pass@1 on tiny by round"]


def test_a_run_of_which_no_round_is_done_says_how_to_go_on(tmp_path):
    saved = read_saved_rounds(write_rounds_run(tmp_path, "new", num_done=0, num_begun=0))
    text = texts_of(render_document([], [], "now", [saved]))
    assert "Rounds: none is done" in text
    assert "--resume" in text


@pytest.mark.parametrize("num_begun", [0, 1, 3])
def test_the_command_writes_the_report_into_the_folder_of_the_rounds(tmp_path, num_begun):
    path = write_rounds_run(tmp_path, "online", num_done=num_begun, num_begun=num_begun)
    written = write_report([path], None, datetime(2026, 1, 1))
    assert written == path.resolve() / "report.html"
    assert "online" in texts_of(written.read_text(encoding="utf-8"))
