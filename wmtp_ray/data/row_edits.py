"""What sets a row apart from the nearest row of the other class of its problem, token by token.

Which rows are compared is not decided here (see `plan/compared_rows.py`). T tokens of an example, N rows.
"""

from collections.abc import Sequence

import numpy as np

from wmtp_ray.contracts import Example, Int32, RowEdits
from wmtp_ray.data.token_edits import differing_tokens, first_difference, nearest

NO_PLACE = -1


def edits_of(own: Example, compared: Sequence[Example]) -> RowEdits:
    """Compare a row with the nearest of those of the other class that differ from it; `compared` holds other rows.

    Responses [1 2 3 9] (correct) and [1 5 9] (incorrect) of a prompt of 2 tokens: the first differs in [2 3], at token
    3 of the example; both rows share the [1] before it, so `correct_frac` is 1/2.
    """
    response = _response(own)
    others = [_response(each) for each in compared if each.is_correct != own.is_correct]
    others = [other for other in others if not np.array_equal(other, response)]
    differs_T = np.zeros(len(own.tokens_T), dtype=np.bool_)
    if not others:
        return RowEdits(differs_T, NO_PLACE, float(own.is_correct))
    other = others[nearest(response, others)]
    first = min(first_difference(response, other), len(response) - 1)
    differs_T[own.prompt_tokens :] = differing_tokens(response, other)
    return RowEdits(differs_T, own.prompt_tokens + first, _correct_frac(own, compared, first))


def without_copy(own: Example, compared: Sequence[Example]) -> list[Example]:
    """Leave out one row that says the same, in the same class: the own row as another file has it."""
    is_copy = [
        each.is_correct == own.is_correct and np.array_equal(_response(each), _response(own)) for each in compared
    ]
    place = is_copy.index(True) if any(is_copy) else len(compared)
    return [*compared[:place], *compared[place + 1 :]]


def _response(example: Example) -> Int32:
    response: Int32 = example.tokens_T[example.prompt_tokens :]
    return response


def _correct_frac(own: Example, compared: Sequence[Example], first: int) -> float:
    """The share of correct rows among those, the own one included, that share the first tokens of the response."""
    prefix = _response(own)[:first]
    sharing = [each.is_correct for each in (own, *compared) if np.array_equal(_response(each)[:first], prefix)]
    return float(np.mean(sharing))
