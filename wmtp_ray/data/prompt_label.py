"""The line of a prompt that names a label: `data.condition=label` (objective.md, "Told labels").

A policy that reads the label of every training row learns what tells correct programs from incorrect ones, and is then
asked for correct ones. The idea is older than this project: control codes (CTRL, Keskar et al. 2019), and AlphaCode
(Li et al. 2022), which was trained on CodeContests with such a line.

The line is a comment of Python, so it may also open a prompt that is Python.
"""

from typing import Literal

from wmtp_ray.config.data import Condition

Label = Literal["correct", "incorrect"]
Told = Literal["nothing", "own", "correct"]  # what prompts tell: no label, each row its own, or that of correct rows


def label_section(label: Label | None) -> str:
    """Return the line, with an empty one behind it; "" without a label."""
    return "" if label is None else f"### Label: {label}\n\n"


def told_label(told: Told, *, is_correct: bool) -> Label | None:
    """Return the label that a row's prompt names."""
    if told == "nothing":
        return None
    return "correct" if is_correct or told == "correct" else "incorrect"


def told_in_training(condition: Condition) -> Told:
    """Return what the prompts of stage 2 tell."""
    return "own" if condition == "label" else "nothing"


def told_when_asked(condition: Condition) -> Told:
    """Return what the prompts of an evaluation tell, and those of held-out rows."""
    return "correct" if condition == "label" else "nothing"
