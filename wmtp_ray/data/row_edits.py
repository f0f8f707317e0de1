"""What sets a row apart from the nearest row of the other class of its problem, token by token.

Which rows are compared is not decided here (see `plan/compared_rows.py`). T tokens of an example, N rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from wmtp_ray.contracts import Example, Int32, Int64, RowEdits
from wmtp_ray.data.prompt_label import Told
from wmtp_ray.data.token_edits import differing_tokens, first_difference, nearest
from wmtp_ray.data.tokenizer import CodeTokenizer, read_indexed
from wmtp_ray.plan.compared_rows import ComparedRows

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


def with_edits_of(
    own: Sequence[Example], compared: Sequence[Sequence[int]], others: Mapping[int, Example], *, has_copies: bool
) -> list[Example]:
    """Return rows with their edits; `compared` names for each the rows among `others` that it is compared with.

    `has_copies` says that the others stand in another file, which may hold the own row too.
    """
    found = []
    for example, names in zip(own, compared, strict=True):
        rows = [others[name] for name in names]
        found.append(replace(example, edits=edits_of(example, without_copy(example, rows) if has_copies else rows)))
    return found


def read_with_edits(
    row_ids_N: Int64, compared: ComparedRows, tokenizer: CodeTokenizer, *, told: Told = "nothing"
) -> list[Example]:
    """Read rows of an index with their edits, in the order given; raises DataError as `read_rows` does."""
    names = [compared.of_row(row).tolist() for row in row_ids_N.tolist()]
    wanted = np.unique(np.concatenate([*map(np.array, names), np.empty(0)])).astype(np.int64)
    own = read_indexed(compared.index, row_ids_N, tokenizer, told=told)
    others = {each.row_id: each for each in read_indexed(compared.source, wanted, tokenizer, told=told)}
    return with_edits_of(own, names, others, has_copies=compared.source is not compared.index)


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
