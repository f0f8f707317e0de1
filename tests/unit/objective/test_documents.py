import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective.documents import at_previous, at_tokens, suffix_sums, sums_per_document

from .document_layouts import LAYOUTS, Document, documents_lists, few_examples, lay_out


@few_examples
@given(documents_lists(), st.sampled_from(LAYOUTS), st.floats(0, 1))
def test_suffix_sums_equal_the_recurrence_within_each_document(
    documents: list[Document], kind: str, decay: float
) -> None:
    layout = lay_out(documents, kind)
    x_BT = torch.where(layout.supervised_mask_BT, layout.values_BT, 0.0)
    for document, sums in zip(
        documents, layout.per_document(suffix_sums(x_BT, decay, layout.document_ids_BT)), strict=True
    ):
        running = 0.0
        for position in reversed(range(len(document.values))):
            running = (document.values[position] if position >= document.prompt else 0.0) + decay * running
            assert float(sums[position]) == pytest.approx(running)


def test_suffix_sums_of_a_long_flat_sequence_equal_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(0)
    x_BT = torch.randn(1, 2048, generator=generator, dtype=torch.float64)
    ids_BT = torch.arange(2048).unsqueeze(0) // 333
    expected, running = [0.0] * 2048, 0.0
    for position in reversed(range(2048)):
        if position + 1 < 2048 and (position + 1) % 333 == 0:
            running = 0.0
        running = float(x_BT[0, position]) + 0.95 * running
        expected[position] = running
    torch.testing.assert_close(suffix_sums(x_BT, 0.95, ids_BT)[0], torch.tensor(expected, dtype=torch.float64))


def test_previous_token_never_comes_from_another_document_or_padding() -> None:
    x_BT = torch.tensor([[9, 1, 2, 3, 4, 5, 9]])
    ids_BT = torch.tensor([[-1, 0, 0, 0, 1, 1, -1]])
    previous_BT, exists_BT = at_previous(x_BT, ids_BT)
    assert previous_BT.tolist() == [[0, 0, 1, 2, 0, 4, 0]]
    assert exists_BT.tolist() == [[False, False, True, True, False, True, False]]


def test_sums_per_document_count_only_masked_tokens_and_no_padding() -> None:
    x_BT = torch.tensor([[1.0, 2.0, 3.0, torch.nan], [10.0, 20.0, 30.0, 40.0]])
    ids_BT = torch.tensor([[1, 1, 0, -1], [2, 2, 2, 2]])
    mask_BT = torch.tensor([[True, True, True, False], [False, True, True, False]])
    assert sums_per_document(x_BT, mask_BT, ids_BT).tolist() == [3.0, 3.0, 50.0]
    assert sums_per_document(x_BT, mask_BT, ids_BT, num_documents=4).tolist() == [3.0, 3.0, 50.0, 0.0]
    assert sums_per_document(x_BT, mask_BT, None).tolist() == [6.0, 50.0]


def test_per_document_values_reach_their_own_tokens() -> None:
    ids_BT = torch.tensor([[1, 1, 0]])
    assert at_tokens(torch.tensor([5.0, 7.0]), ids_BT, ids_BT).tolist() == [[7.0, 7.0, 5.0]]
