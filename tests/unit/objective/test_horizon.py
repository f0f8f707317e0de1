import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective.horizon import at_horizons, supervised_pairs

from .document_layouts import LAYOUTS, Document, documents_lists, few_examples, lay_out


@few_examples
@given(documents_lists(), st.sampled_from(["packed", "packed_rows"]), st.integers(1, 5))
def test_pairs_equal_a_naive_loop_over_documents(documents: list[Document], kind: str, num_horizons: int) -> None:
    layout = lay_out(documents, kind)
    y_BTH, exists_BTH = at_horizons(layout.values_BT, num_horizons, layout.document_ids_BT, fill=-7.0)
    for document, y, exists in zip(documents, layout.per_document(y_BTH), layout.per_document(exists_BTH), strict=True):
        for position in range(len(document.values)):
            for horizon in range(1, num_horizons + 1):
                inside = position + horizon < len(document.values)
                assert bool(exists[position, horizon - 1]) == inside
                expected = document.values[position + horizon] if inside else -7.0
                assert float(y[position, horizon - 1]) == expected


@few_examples
@given(documents_lists(), st.integers(1, 4))
def test_supervised_pairs_are_the_same_in_every_layout(documents: list[Document], num_horizons: int) -> None:
    for kind in LAYOUTS:
        layout = lay_out(documents, kind)
        pairs_BTH = supervised_pairs(layout.supervised_mask_BT, num_horizons, layout.document_ids_BT)
        for document, pairs in zip(documents, layout.per_document(pairs_BTH), strict=True):
            length = len(document.values)
            for position in range(length):
                for horizon in range(1, num_horizons + 1):
                    target = position + horizon
                    assert bool(pairs[position, horizon - 1]) == (document.prompt <= target < length)
        # No pair starts at padding and points into a document, except from left padding, where all is one row.
        if kind != "left_padded":
            assert int(pairs_BTH.sum()) == sum(int(p.sum()) for p in layout.per_document(pairs_BTH))


def test_last_horizon_ignores_padding() -> None:
    ids_BT = torch.tensor([[0, 0, 0, -1, -1, -1]])
    _, exists_BTH = at_horizons(torch.zeros(1, 6), 3, ids_BT)
    assert exists_BTH[0].sum(dim=1).tolist() == [2, 1, 0, 0, 0, 0]


def test_a_row_without_ids_is_one_document() -> None:
    tokens_BT = torch.tensor([[5, 6, 7]])
    y_BTH, exists_BTH = at_horizons(tokens_BT, 4)
    assert y_BTH.tolist() == [[[6, 7, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]]]
    assert y_BTH.dtype == tokens_BT.dtype
    assert int(exists_BTH.sum()) == 3
