"""Which prefixes of held-out responses an audit of the critic looks at. Draws alone: it decodes nothing.

Six of each problem, three around a token of its response and three around another one:

    at the edit   up to the first token in which a correct and an incorrect program, one edit apart, differ; with that
                  token of the correct program; with that of the incorrect one
    elsewhere     up to a token of one of the two that lies outside the edit; with that token; with the likeliest other
                  token of the policy

The last two of three differ in their last token alone, so they ask which of two next tokens is better. End of sequence
is none of these tokens, since a state behind it is terminal. A problem without a minimal pair has the second three
alone.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wmtp_ray.contracts import Example
from wmtp_ray.objective.minimal_pairs import Trace, edited_spans, is_minimal
from wmtp_ray.plan.randomness import random_keys

MAX_EDIT_FRAC = 0.25  # of either program, as in critic health

OtherToken = Callable[[tuple[int, ...], int], int]  # a prefix and a token behind it -> another token to put there


@dataclass(frozen=True)
class Prefix:
    """Tokens to continue: a prompt of `prompt_tokens` and the beginning of a response, drawn from the row `row_id`.

    `pair` numbers the pair of prefixes of the problem that differ in their last token.
    """

    problem: str
    at_edit: bool
    pair: int | None
    row_id: int
    prompt_tokens: int
    tokens: tuple[int, ...]

    @property
    def response(self) -> tuple[int, ...]:
        """Return the tokens behind the prompt."""
        return self.tokens[self.prompt_tokens :]


@dataclass(frozen=True)
class AuditedProblem:
    """The rows of one problem that prefixes are drawn from: a minimal pair, correct first, with the edit of each row.

    Without a minimal pair: any row, and no edit.
    """

    problem: str
    rows: tuple[Example, ...]
    edits: tuple[range, ...]

    @property
    def has_edit(self) -> bool:
        """Whether its rows are a minimal pair."""
        return bool(self.edits)


def audited_problems(examples: dict[str, list[Example]], num_problems: int, seed: int) -> list[AuditedProblem]:
    """Draw problems, those with a minimal pair first, and the rows of each."""
    found = [_audited_problem(problem, rows, seed) for problem, rows in examples.items()]
    order = {each.problem: int(random_keys(1, seed, "audit", each.problem)[0]) for each in found}
    found.sort(key=lambda each: (not each.has_edit, order[each.problem]))
    return found[:num_problems]


def prefixes_of(audited: AuditedProblem, other_token: OtherToken, seed: int) -> list[Prefix]:
    """Return the prefixes of a problem; fewer than six where it has no edit, or no token outside of it."""
    at_edit = _at_edit(audited) if audited.has_edit else []
    return [*at_edit, *_elsewhere(audited, other_token, seed)]


def _audited_problem(problem: str, rows: Sequence[Example], seed: int) -> AuditedProblem:
    by_class: dict[bool, list[Example]] = defaultdict(list)
    for row in rows:
        by_class[row.is_correct].append(row)
    pairs = [
        ((right, wrong), edits)
        for right in by_class[True]
        for wrong in by_class[False]
        if (edits := _minimal_edit(right, wrong)) is not None
    ]
    if not pairs:
        return AuditedProblem(problem, (rows[_drawn(len(rows), seed, problem, "row")],), ())
    pair, edits = pairs[_drawn(len(pairs), seed, problem, "pair")]
    return AuditedProblem(problem, pair, edits)


def _minimal_edit(right: Example, wrong: Example) -> tuple[range, range] | None:
    """Return where two programs differ; None where that is no minimal edit, or begins with an end of sequence."""
    if not np.array_equal(right.tokens_T[: right.prompt_tokens], wrong.tokens_T[: wrong.prompt_tokens]):
        return None
    traces = [Trace(_response(row), np.empty(0)) for row in (right, wrong)]
    edits = edited_spans(*(trace.tokens for trace in traces))
    if edits is None or not is_minimal(*traces, max_edit_frac=MAX_EDIT_FRAC):
        return None
    return None if any(edits[0].start >= len(trace.tokens) - 1 for trace in traces) else edits


def _at_edit(audited: AuditedProblem) -> list[Prefix]:
    right, wrong = audited.rows
    start = audited.edits[0].start
    before = _prefix(audited.problem, right, start, at_edit=True, pair=None)
    after = [_prefix(audited.problem, row, start + 1, at_edit=True, pair=0) for row in (right, wrong)]
    return [before, *after]


def _elsewhere(audited: AuditedProblem, other_token: OtherToken, seed: int) -> list[Prefix]:
    number = _drawn(len(audited.rows), seed, audited.problem, "elsewhere")
    row = audited.rows[number]
    places = _places_outside(len(_response(row)) - 1, audited.edits[number] if audited.has_edit else None)
    if not places:
        return []
    place = places[_drawn(len(places), seed, audited.problem, "place")]
    before = _prefix(audited.problem, row, place, at_edit=False, pair=None)
    own = _prefix(audited.problem, row, place + 1, at_edit=False, pair=1)
    other = other_token(before.tokens, own.tokens[-1])
    assert other != own.tokens[-1], "it is another token"
    tokens = (*before.tokens, other)
    return [before, own, Prefix(audited.problem, False, 1, row.row_id, row.prompt_tokens, tokens)]


def _places_outside(num_tokens: int, edit: range | None) -> list[int]:
    """Return the tokens outside an edit and not just before it, where a prefix at the edit ends already.

    Of 6 tokens with the edit 2..3: [0, 4, 5]. An empty edit stands for the token at its start.
    """
    if edit is None:
        return list(range(num_tokens))
    return [place for place in range(num_tokens) if not edit.start - 1 <= place < max(edit.stop, edit.start + 1)]


def _prefix(problem: str, row: Example, num_tokens: int, *, at_edit: bool, pair: int | None) -> Prefix:
    tokens = tuple(row.tokens_T[: row.prompt_tokens + num_tokens].tolist())
    return Prefix(problem, at_edit, pair, row.row_id, row.prompt_tokens, tokens)


def _response(row: Example) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return row.tokens_T[row.prompt_tokens :].astype(np.int64)


def _drawn(num: int, seed: int, *labels: str) -> int:
    """Return one of 0..num-1."""
    return int(random_keys(1, seed, "audit", *labels)[0] % np.uint64(num))
