"""Which prefixes an audit looks at: around the edit of a minimal pair, and outside of it."""

import numpy as np
import pytest

from wmtp_ray.contracts import Example
from wmtp_ray.evaluation.audited_prefixes import AuditedProblem, audited_problems, prefixes_of

END = 2
PROMPT = (1, 9)


def row(row_id: int, response: tuple[int, ...], *, is_correct: bool, prompt: tuple[int, ...] = PROMPT) -> Example:
    return Example(row_id, np.array([*prompt, *response, END], np.int32), len(prompt), is_correct)


RIGHT = row(7, (11, 12, 13, 14, 15, 16, 17, 18), is_correct=True)
WRONG = row(8, (11, 12, 13, 24, 15, 16, 17, 18), is_correct=False)


def never(tokens: tuple[int, ...], but: int) -> int:
    return 99


def problem(*rows: Example) -> AuditedProblem:
    (found,) = audited_problems({"p": list(rows)}, 1, seed=0)
    return found


def test_at_the_edit_are_the_common_state_and_the_states_after_either_first_token_that_differs() -> None:
    found = [each for each in prefixes_of(problem(WRONG, RIGHT), never, 0) if each.at_edit]
    assert [(each.response, each.row_id, each.pair) for each in found] == [
        ((11, 12, 13), 7, None),
        ((11, 12, 13, 14), 7, 0),
        ((11, 12, 13, 24), 8, 0),
    ]
    assert {each.tokens[: each.prompt_tokens] for each in found} == {PROMPT}


@pytest.mark.parametrize("seed", range(12))
def test_elsewhere_are_the_state_before_a_token_outside_the_edit_the_token_and_another(seed: int) -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def other(tokens: tuple[int, ...], but: int) -> int:
        asked.append((tokens, but))
        return 99

    before, own, third = (each for each in prefixes_of(problem(RIGHT, WRONG), other, seed) if not each.at_edit)
    assert asked == [(before.tokens, own.tokens[-1])]
    assert (before.pair, own.pair, third.pair) == (None, 1, 1)
    assert own.tokens[:-1] == third.tokens[:-1] == before.tokens
    assert third.tokens[-1] == 99
    place = len(before.response)
    assert place in {0, 1, 4, 5, 6, 7}  # 3 is the edit, 2 ends where a prefix at the edit ends, 8 is the end
    source = {7: RIGHT, 8: WRONG}[own.row_id]
    assert own.tokens == tuple(source.tokens_T[: len(own.tokens)].tolist())


def test_the_places_elsewhere_depend_on_the_seed_and_nothing_else() -> None:
    drawn = {seed: prefixes_of(problem(RIGHT, WRONG), never, seed) for seed in range(12)}
    assert len({each[3].tokens for each in drawn.values()}) > 3
    assert drawn[5] == prefixes_of(problem(RIGHT, WRONG), never, 5)


def test_a_deletion_is_an_edit_at_the_token_that_is_missing() -> None:
    shorter = row(9, (11, 12, 13, 15, 16, 17, 18), is_correct=False)
    found = [each.response for each in prefixes_of(problem(RIGHT, shorter), never, 0) if each.at_edit]
    assert found == [(11, 12, 13), (11, 12, 13, 14), (11, 12, 13, 15)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(row(8, (11, 12, 23, 24, 25, 26, 17, 18), is_correct=False), id="it covers too much"),
        pytest.param(row(8, (11, 12, 13, 14, 15, 16, 17, 18), is_correct=False), id="the programs are equal"),
        pytest.param(row(8, (11, 12, 13, 14, 15, 16, 17), is_correct=False), id="it begins with an end of sequence"),
        pytest.param(row(8, WRONG.tokens_T[2:-1], is_correct=False, prompt=(1, 8)), id="the prompts differ"),
        pytest.param(row(8, (11, 12, 13, 24, 15, 16, 17, 18), is_correct=True), id="both are correct"),
    ],
)
def test_no_edit_is_taken_from_a_pair_where(other: Example) -> None:
    found = problem(RIGHT, other)
    assert not found.has_edit
    assert [each.at_edit for each in prefixes_of(found, never, 0)] == [False] * 3


def test_problems_with_a_minimal_pair_come_first_and_the_draw_is_the_seeds() -> None:
    rows = {f"p{number}": [RIGHT, WRONG] if number % 2 else [RIGHT] for number in range(20)}
    drawn = audited_problems(rows, 12, seed=1)
    assert [each.has_edit for each in drawn] == [True] * 10 + [False] * 2
    backwards = audited_problems(dict(reversed(rows.items())), 12, seed=1)
    assert [each.problem for each in drawn] == [each.problem for each in backwards]
    assert {each.problem for each in audited_problems(rows, 5, seed=1)} < {each.problem for each in drawn}
    assert [each.problem for each in drawn] != [each.problem for each in audited_problems(rows, 12, seed=2)]


def test_a_response_without_a_token_of_its_own_has_no_prefix() -> None:
    assert prefixes_of(problem(row(1, (), is_correct=True)), never, 0) == []
