"""The number of drafts: measured cost and acceptance decide it, and it changes no token."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.evaluation.decoding.conftest import World
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode, request_seed
from wmtp_ray.evaluation.decoding.drafting import FixedDrafts, MeasuredDrafts

SETTINGS = DecodingSettings(max_new_tokens=40, temperature=0.0, top_p=1.0, stop=(), draft_horizons=3)
NUM_ROWS = 16
Cost = Callable[[int], float]


def forwards(drafts: MeasuredDrafts, num: int, *, right: int, check_s: Cost, draft_s: Cost) -> list[int]:
    """Note `num` forwards of 16 rows of which each has `right` right drafts; return how many each checked."""
    checked = []
    for _ in range(num):
        checked.append(drafts.checked)
        accepted_B = [min(right, drafts.checked)] * NUM_ROWS
        drafts.note(accepted_B, check_s(drafts.checked), draft_s(drafts.kept))
    return checked


def test_fixed_drafts_are_checked_whatever_they_cost() -> None:
    drafts = FixedDrafts(3)
    for _ in range(1000):
        drafts.note([0] * NUM_ROWS, 9.0, 9.0)
    assert (drafts.checked, drafts.kept) == (3, 3)


def test_the_first_256_blocks_check_all_and_a_trial_tries_every_number_four_times() -> None:
    drafts = MeasuredDrafts(3)
    checked = forwards(drafts, 16 + 16 + 1, right=3, check_s=lambda num: 1.0, draft_s=lambda num: 0.1 * num)
    assert checked == [3] * 16 + [3, 2, 1, 0] * 4 + [3]
    assert drafts.kept == 3


@pytest.mark.parametrize(
    ("right", "check_s", "expected"),
    [
        (3, lambda num: 1.0 + 0.5 * num, 3),  # all are right: 4 tokens in 2.8 s, 1 in 1 s
        (3, lambda num: 1.0 + 0.95 * num, 3),  # 4 tokens in 4.15 s, 1 in 1 s: within the noise
        (3, lambda num: 1.0 + 1.2 * num, 0),  # 4 tokens in 4.9 s, 1 in 1 s
        (0, lambda num: 1.0, 0),  # none is right, and heads take time
        (1, lambda num: 1.0 + 0.1 * num, 1),  # the first alone is right
        (2, lambda num: 1.0 + 0.1 * num, 2),
    ],
)
def test_the_number_with_most_tokens_a_second_is_kept(right: int, check_s: Cost, expected: int) -> None:
    drafts = MeasuredDrafts(3)
    forwards(drafts, 32, right=right, check_s=check_s, draft_s=lambda num: 0.1 * num)
    assert (drafts.checked, drafts.kept) == (expected, expected)


def test_a_slow_forward_among_fast_ones_decides_nothing() -> None:
    """Other work on the machine took ten times as long, once in every number but plain."""
    drafts, slow = MeasuredDrafts(3), {1: 10.0, 2: 10.0, 3: 10.0}
    forwards(drafts, 32, right=3, check_s=lambda num: slow.pop(num, 1.0), draft_s=lambda num: 0.1 * num)
    assert drafts.kept == 3


def test_drafts_that_stop_paying_are_dropped_by_a_later_trial_and_never_come_back() -> None:
    drafts = MeasuredDrafts(2)
    forwards(drafts, 16 + 12, right=2, check_s=lambda num: 1.0, draft_s=lambda num: 0.1)
    assert drafts.kept == 2
    checked = forwards(drafts, 28 + 12, right=2, check_s=lambda num: 1.0 + 9 * num, draft_s=lambda num: 0.1)
    assert checked == [2] * 28 + [2, 1, 0] * 4, "as many blocks again, then a trial"
    assert set(forwards(drafts, 300, right=0, check_s=lambda num: 1.0, draft_s=lambda num: 0.0)) == {0}
    assert drafts.kept == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_measured_drafts_change_no_token_and_count_what_was_fed(world: World, temperature: float) -> None:
    """The heads of a random model are hardly ever right: they are dropped on the way, while rows are under way."""
    prompts = [request.prompt_ids for request in world.requests()]
    requests = [
        DecodingRequest(f"{number}/{sample}", prompt_ids, request_seed(5, str(number), sample))
        for number, prompt_ids in enumerate(prompts)
        for sample in range(8)
    ]

    def decoded(settings: DecodingSettings) -> dict[str, Decoded]:
        found = decode(world.model, world.tokenizer, requests, settings, batch_size=16)
        return {each.key: each for each in found}

    settings = replace(SETTINGS, temperature=temperature)
    plain = decoded(replace(settings, draft_horizons=0))
    measured, fixed = decoded(replace(settings, drafting="measured")), decoded(settings)
    assert {key: each.ids for key, each in measured.items()} == {key: each.ids for key, each in plain.items()}
    for key, each in measured.items():
        assert each.num_tokens == plain[key].num_tokens
        assert all(accepted <= drafted for accepted, drafted in zip(each.accepted_H, each.drafted_H, strict=True))
        assert each.drafted_H == tuple(sorted(each.drafted_H, reverse=True)), "a second draft needs a first"
        assert each.drafted_H[0] <= each.num_forwards - 1
    assert sum(sum(each.drafted_H) for each in measured.values()) < sum(sum(each.drafted_H) for each in fixed.values())
