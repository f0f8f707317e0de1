"""Which answers become rows of which class, and which programs are the same."""

import pytest

from wmtp_ray.evaluation.collecting.answer_classes import JudgedAnswer, classify, program_key
from wmtp_ray.evaluation.judge.verdict import Status

F = "def f(a):\n    return a + 1\n"


@pytest.mark.parametrize(
    "other",
    [
        "# a note\ndef f(a):  # more\n\n    return (a + 1)",
        "def f(a):\n  return a+1\n\n\n",
        "def f(\n    a,\n):\n    return a + 1\n",
    ],
)
def test_comments_blank_lines_and_spacing_make_no_other_program(other: str) -> None:
    assert program_key(other) == program_key(F)


@pytest.mark.parametrize(
    "other",
    [
        F.replace("1", "2"),
        F.replace("a", "b"),
        F.replace("    return", "    'words'\n    return"),
        F.replace("return", "yield"),
        f"{F}f(1)\n",
    ],
)
def test_names_numbers_docstrings_and_statements_make_another(other: str) -> None:
    assert program_key(other) != program_key(F)


def test_texts_that_are_no_python_are_compared_without_comments_and_blank_lines() -> None:
    assert program_key("def f(:  # x\n\n  1\n") == program_key("def f(:\n  1")
    assert program_key("def f(:\n  1") != program_key("def f(:\n  2")


@pytest.mark.parametrize("text", [f"x = {'(' * 3000}1{')' * 3000}", f"x = {'-' * 5000}1", f"x = 0x{'f' * 9000}", "\0"])
def test_any_text_has_a_key(text: str) -> None:
    assert program_key(text) == program_key(text)


def answers(*found: tuple[str, Status]) -> list[JudgedAnswer]:
    return [JudgedAnswer(number, program, status) for number, (program, status) in enumerate(found)]


def test_a_verdict_decides_the_class_and_what_is_no_proof_has_none() -> None:
    statuses: list[Status] = ["pass", "fail", "timeout", "memory", "unserialisable", "error"]
    found = classify(answers(*((f"x = {number}", status) for number, status in enumerate(statuses))))
    assert [each.status for each in found.correct] == ["pass"]
    assert [each.status for each in found.incorrect] == ["fail", "timeout", "memory"]
    assert found.left_out == {"unserialisable": 1, "error": 1}


def test_the_first_of_the_same_programs_stays_unless_verdicts_contradict() -> None:
    found = classify(answers(("x = 1", "pass"), ("x  =  1", "pass"), ("y = 1", "timeout"), ("y = 1#", "pass")))
    assert [each.sample for each in found.correct] == [0]
    assert found.incorrect == ()
    assert found.left_out == {"duplicate": 1, "contradicted": 2}


def test_a_failure_of_the_judge_contradicts_nothing() -> None:
    found = classify(answers(("x = 1", "error"), ("x = 1", "fail")))
    assert [each.sample for each in found.incorrect] == [1]
    assert found.left_out == {"error": 1}


def test_both_classes_count_different_programs() -> None:
    found = classify(answers(("x = 1", "pass"), ("x = 1 ", "pass"), ("y = 1", "fail"), ("y = 2", "fail")))
    assert (found.has(1), found.has(2)) == (True, False)


def test_what_no_row_can_hold_is_counted_by_its_reason() -> None:
    found = classify([JudgedAnswer(0, "", "fail", "empty"), JudgedAnswer(1, "x", "pass", "changed")])
    assert (found.correct, found.incorrect) == ((), ())
    assert found.left_out == {"empty": 1, "changed": 1}
