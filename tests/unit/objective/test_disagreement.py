"""What a token's weight rests on: the disagreement at the ends of its TD error, or about its prompt's value."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.objective.disagreement import horizon_td_disagreements, prompt_disagreements, td_disagreements

DISAGREEMENTS_BT = torch.tensor([[0.1, 0.2, 0.0, 0.3, 0.9]])
SUPERVISED_BT = torch.tensor([[False, False, True, True, True]])


def test_the_larger_end_counts_and_the_reward_is_never_in_doubt():
    found = td_disagreements(DISAGREEMENTS_BT, SUPERVISED_BT)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.2, 0.3, 0.3]]))


def test_the_last_horizon_rests_on_the_state_before_its_target_alone():
    """Pair (t, k) at [t, k - 1]; targets 2, 3, 4: two ends .2 .3 .3, the first one .2 .0 .3."""
    found_BTH = horizon_td_disagreements(DISAGREEMENTS_BT, SUPERVISED_BT, 2)
    expected = torch.tensor([[[0.0, 0.2], [0.2, 0.0], [0.3, 0.3], [0.3, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(found_BTH, expected)


def test_the_prompts_value_is_that_of_its_last_token_for_all_of_the_response():
    found = prompt_disagreements(DISAGREEMENTS_BT, SUPERVISED_BT, 1)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 0.2, 0.2, 0.2]]))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=2, max_size=4), st.integers(0, 99))
def test_a_document_reads_nothing_of_its_neighbours(documents, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = [prompt + response for prompt, response in documents]
    whole_BT = torch.rand(1, sum(lengths), generator=generator)
    supervised_BT = torch.cat([torch.arange(p + r) >= p for p, r in documents])[None]
    ids_BT = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(lengths))[None]
    parts = zip(whole_BT.split(lengths, dim=1), supervised_BT.split(lengths, dim=1), strict=True)
    alone = [
        (
            td_disagreements(doubts, mask),
            horizon_td_disagreements(doubts, mask, 3),
            prompt_disagreements(doubts, mask, 1),
        )
        for doubts, mask in parts
    ]
    found = (
        td_disagreements(whole_BT, supervised_BT, ids_BT),
        horizon_td_disagreements(whole_BT, supervised_BT, 3, ids_BT),
        prompt_disagreements(whole_BT, supervised_BT, len(documents), ids_BT),
    )
    for packed, each in zip(found, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(packed, torch.cat(each, dim=1))
