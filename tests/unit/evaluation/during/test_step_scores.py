from pathlib import Path

import pytest

from wmtp_ray.evaluation.during.step_scores import StepScores, due_steps

from .saved_steps import save_step


@pytest.mark.parametrize(
    ("interval", "num_steps", "expected"),
    [(4, 10, [0, 4, 8, 10]), (5, 10, [0, 5, 10]), (20, 10, [0, 10]), (1, 3, [0, 1, 2, 3])],
)
def test_the_first_policy_every_interval_and_the_last_are_due(interval, num_steps, expected):
    assert due_steps(interval, num_steps) == expected


def test_scores_are_of_the_steps_that_are_done(tmp_path: Path):
    scores = StepScores(tmp_path)
    assert (scores.steps(), scores.best_step()) == ([], None)
    for step, num_correct in ((0, 0), (20, 3), (100, 3), (40, 1)):
        save_step(scores, step, num_correct)
    (tmp_path / "step_60").mkdir()  # begun
    assert scores.steps() == [0, 20, 40, 100]
    assert [scores.pass_at_1(step) for step in (0, 20, 40, 60)] == [0.0, 0.75, 0.25, None]
    assert scores.best_step() == 100, "of equal ones the last"


def test_damaged_results_are_no_score_and_end_nothing(tmp_path: Path):
    scores = StepScores(tmp_path)
    save_step(scores, 4, 2)
    save_step(scores, 8, 3)
    (scores.folder_of(8) / "results.json").write_text("{")
    assert scores.pass_at_1(8) is None
    assert scores.best_step() == 4
