"""The same documents laid out in every way a batch may have, for tests that all layouts give the same numbers."""

from dataclasses import dataclass

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

# No deadline: a shared machine may stall any single example.
few_examples = settings(deadline=None, max_examples=25)

LAYOUTS = ("right_padded", "left_padded", "packed", "packed_rows")


@dataclass(frozen=True)
class Document:
    """`values` has one entry per token; the first `prompt` tokens are not supervised."""

    prompt: int
    values: tuple[float, ...]
    reward: float

    @property
    def supervised(self) -> list[bool]:
        return [position >= self.prompt for position in range(len(self.values))]


@dataclass(frozen=True)
class Layout:
    """A batch of documents; `places` holds each document's row and first position."""

    values_BT: Tensor
    supervised_mask_BT: Tensor
    document_ids_BT: Tensor | None
    rewards_M: Tensor
    places: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]

    def per_document(self, x_BT: Tensor) -> list[Tensor]:
        """Cut a batch tensor back into documents."""
        return [
            x_BT[row, start : start + length] for (row, start), length in zip(self.places, self.lengths, strict=True)
        ]


def lay_out(documents: list[Document], kind: str) -> Layout:
    """Lay documents out; padding holds NaN values, so that whoever reads one is found out."""
    lengths = tuple(len(document.values) for document in documents)
    num_rows, width, places = _places(lengths, kind)
    values_BT = torch.full((num_rows, width), torch.nan, dtype=torch.float64)
    supervised_BT = torch.zeros((num_rows, width), dtype=torch.bool)
    ids_BT = torch.full((num_rows, width), -1)
    for number, (document, (row, start)) in enumerate(zip(documents, places, strict=True)):
        span = slice(start, start + len(document.values))
        values_BT[row, span] = torch.tensor(document.values, dtype=torch.float64)
        supervised_BT[row, span] = torch.tensor(document.supervised)
        ids_BT[row, span] = number
    rewards_M = torch.tensor([document.reward for document in documents], dtype=torch.float64)
    return Layout(
        values_BT, supervised_BT, ids_BT if kind.startswith("packed") else None, rewards_M, tuple(places), lengths
    )


def _places(lengths: tuple[int, ...], kind: str) -> tuple[int, int, list[tuple[int, int]]]:
    if kind == "right_padded":
        return len(lengths), max(lengths) + 2, [(row, 0) for row in range(len(lengths))]
    if kind == "left_padded":
        width = max(lengths) + 2
        return len(lengths), width, [(row, width - length) for row, length in enumerate(lengths)]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    if kind == "packed":
        return 1, sum(lengths), [(0, start) for start in starts]
    # Two rows with padding before, between and behind; even documents in the second row, in reverse order of id.
    places: list[tuple[int, int]] = [(0, 0)] * len(lengths)
    cursor = [1, 1]
    for number in reversed(range(len(lengths))):
        row = (number + 1) % 2
        places[number] = (row, cursor[row])
        cursor[row] += lengths[number] + number % 2
    return 2, max(cursor) + 1, places


@st.composite
def documents_lists(draw: st.DrawFn) -> list[Document]:
    """One to five documents with prompts of 1 to 4 tokens and responses of 1 to 6."""
    documents = []
    for _ in range(draw(st.integers(1, 5))):
        prompt = draw(st.integers(1, 4))
        length = prompt + draw(st.integers(1, 6))
        values = draw(st.lists(st.floats(-2, 2), min_size=length, max_size=length))
        documents.append(Document(prompt, tuple(values), float(draw(st.booleans()))))
    return documents
