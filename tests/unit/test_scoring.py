"""Weights of every arm against naive loops, and their independence of order, packing and ranks.

A weight is named by (row, position of the target token, horizon), whatever batch it stands in.
"""

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.config.arms import ARMS
from wmtp_ray.config.schema import WeightingConfig
from wmtp_ray.contracts import RowEdits
from wmtp_ray.objective.rho1 import num_kept
from wmtp_ray.objective.td import td_errors
from wmtp_ray.objective.weighting import DISTRIBUTION_EDGES, td_token_weights
from wmtp_ray.ranks import OneRank
from wmtp_ray.scoring.advantages import TokenView, td_advantage
from wmtp_ray.scoring.contract import document_seeds
from wmtp_ray.scoring.scorers import FORMULAS, build_scorer

RHO1 = ("recipe=rho1_weighted",)
CONTRAST = (
    "weighting.type=contrast", "train.value_coef=0", "reference.path=plus", "reference.incorrect_path=minus"
)  # fmt: skip
SPLITS = st.tuples(st.permutations(range(8)), st.sets(st.integers(1, 7), max_size=4))


def words_of(arm):
    """What makes an arm the run's own."""
    if arm.needs_two_references:
        return CONTRAST
    return RHO1 if arm.source == "reference" else (f"weighting.type={arm.name}",)


def weigh(nano, words, split, ranks=None, *, step=0, scorer=None):
    scorer = scorer or build_scorer(nano.load(*words), nano.num_horizons)
    micro_batches = [nano.micro_batch(rows, step=step, with_policy_losses=True, by_ensemble=True) for rows in split]
    return scorer.weigh(micro_batches, ranks or OneRank())


def by_name(nano, split, step_weights):
    """{(row, target position, horizon): weight}; asserts that nothing outside the supervised pairs has one."""
    named, num_nonzero = {}, 0
    for rows, weights_BTH in zip(split, step_weights.pair_weights_BTH, strict=True):
        start = 0
        num_nonzero += int((weights_BTH != 0).sum())
        for row in rows:
            for t, k in row.pairs(nano.num_horizons):
                named[row.example.row_id, t + k, k] = float(weights_BTH[0, start + t, k - 1])
            start += len(row)
    assert num_nonzero == sum(weight != 0 for weight in named.values())
    return named


def cut(rows, order, places):
    ordered = [rows[place] for place in order]
    edges = [0, *sorted(places), len(rows)]
    return [ordered[a:b] for a, b in pairwise(edges)]


def replace_values(row, *, prompt_tokens, values, correct):
    """The row with as many tokens as values, and losses nobody has said anything of."""
    tokens_T = np.arange(1, len(values) + 1, dtype=np.int32)
    example = replace(row.example, tokens_T=tokens_T, prompt_tokens=prompt_tokens, is_correct=correct, edits=None)
    losses_TH = np.ones((len(values), 3), dtype=np.float32)
    return replace(
        row,
        example=example,
        values_T=np.array(values, dtype=np.float32),
        reference_losses_T=losses_TH[:, 0],
        policy_losses_TH=losses_TH,
    )


def naive_td(row, gamma=1.0):
    errors = {}
    for j in row.targets:
        after = row.reward if j == row.targets[-1] else gamma * float(row.values_T[j])
        errors[j] = after - float(row.values_T[j - 1])
    return errors


def to_weight(advantage, config: WeightingConfig):
    return min(max(math.exp(advantage / config.beta), config.clip_min), config.clip_max)


def naive_weights(nano, rows, advantage_of, config: WeightingConfig):
    return {
        (row.example.row_id, t + k, k): to_weight(advantage_of(row, t, k), config)
        for row in rows
        for t, k in row.pairs(nano.num_horizons)
    }


class TestSplits:
    """Rule: the same row has the same weights in every batch."""

    @pytest.mark.parametrize("step", [0, 3])
    def test_order_and_packing_do_not_change_a_weight(self, nano, arm, step):
        rows = nano.rows(8)
        whole = weigh(nano, arm, [rows], step=step)
        for order, places in [(range(7, -1, -1), {3}), ([4, 1, 6, 0, 7, 2, 5, 3], {1, 2, 6})]:
            split = cut(rows, order, places)
            parts = weigh(nano, arm, split, step=step)
            assert by_name(nano, split, parts) == pytest.approx(by_name(nano, [rows], whole), rel=1e-6)
            assert parts.metrics == pytest.approx(whole.metrics, rel=1e-6, abs=1e-7)
            assert parts.denominators_H.tolist() == whole.denominators_H.tolist()

    @settings(max_examples=15, deadline=None)
    @given(SPLITS)
    def test_any_split_gives_the_whitened_weights_of_the_whole(self, nano, split):
        rows = nano.rows(8)
        words = ("weighting.type=td", "weighting.advantage_norm=batch")
        parts = cut(rows, *split)
        expected = by_name(nano, [rows], weigh(nano, words, [rows]))
        assert by_name(nano, parts, weigh(nano, words, parts)) == pytest.approx(expected, rel=1e-6)

    def test_ranks_do_not_change_a_weight(self, nano, arm):
        rows = nano.rows(8)
        whole = weigh(nano, arm, [rows])
        splits = [[rows[1::3], rows[2::3]], [rows[0::3]]]
        results = nano.on_ranks(2, lambda ranks: weigh(nano, arm, splits[ranks.rank], ranks))
        named = by_name(nano, splits[0], results[0]) | by_name(nano, splits[1], results[1])
        assert named == pytest.approx(by_name(nano, [rows], whole), rel=1e-6)
        for result in results:
            assert result.metrics == pytest.approx(whole.metrics, rel=1e-6, abs=1e-7)
            assert result.denominators_H.tolist() == whole.denominators_H.tolist()

    @pytest.mark.parametrize("pad_left", [False, True])
    def test_padding_gives_the_weights_of_the_packed_batch(self, nano, pad_left):
        rows, config = nano.rows(8), nano.load().weighting
        packed = nano.micro_batch(rows)
        errors_T = td_advantage(TokenView(packed, config, nano.num_horizons))[0]
        width = max(len(row) for row in rows) + 3
        values_BT, mask_BT = torch.full((8, width), math.nan), torch.zeros(8, width, dtype=torch.bool)
        places = []
        for b, row in enumerate(rows):
            first = width - len(row) if pad_left else 0
            values_BT[b, first : first + len(row)] = torch.from_numpy(row.values_T)
            mask_BT[b, first + row.example.prompt_tokens : first + len(row)] = True
            places += [(b, first + t) for t in range(len(row))]
        padded_BT = td_errors(values_BT, torch.tensor([row.reward for row in rows]), mask_BT)
        b, t = torch.tensor(places).T
        assert torch.equal(padded_BT[b, t], errors_T)
        weights_T = td_token_weights(errors_T, packed.tensors.supervised_mask_BT[0])
        assert torch.equal(td_token_weights(padded_BT, mask_BT)[b, t], weights_T)


class TestFormulas:
    """Rule: each arm's weights are the formula of objective.md, written as a loop."""

    def assert_weights(self, nano, words, advantage_of):
        rows, config = nano.rows(8), nano.load(*words).weighting
        named = by_name(nano, [rows[:3], rows[3:]], weigh(nano, words, [rows[:3], rows[3:]]))
        assert named == pytest.approx(naive_weights(nano, rows, advantage_of, config), rel=1e-5)
        assert len(set(named.values())) > 3

    def test_uniform_weighs_every_pair_1(self, nano):
        rows = nano.rows(8)
        result = weigh(nano, ("weighting.type=uniform",), [rows])
        assert set(by_name(nano, [rows], result).values()) == {1.0}
        counts = Counter(k for row in rows for _, k in row.pairs(nano.num_horizons))
        assert result.denominators_H.tolist() == [counts[1], counts[2], counts[3]]

    def test_td_is_the_error_of_the_target_at_every_horizon(self, nano):
        self.assert_weights(nano, ("weighting.gamma=0.9",), lambda row, t, k: naive_td(row, 0.9)[t + k])

    def test_td_lambda_sums_later_errors(self, nano):
        def gae(row, t, k):
            errors = naive_td(row, 0.9)
            return sum((0.9 * 0.8) ** (j - t - k) * errors[j] for j in row.targets if j >= t + k)

        self.assert_weights(nano, ("weighting.gamma=0.9", "weighting.td_lambda=0.8"), gae)

    def test_horizon_reading_ends_every_window_with_the_reward(self, nano):
        def advantage(row, t, k):
            if k == nano.num_horizons:
                return row.reward - float(row.values_T[t + k - 1])
            return naive_td(row)[t + k]

        self.assert_weights(nano, ("weighting.terminal=horizon",), advantage)

    def test_sequence_reward_gives_every_token_reward_minus_prompt_value(self, nano):
        self.assert_weights(
            nano,
            ("weighting.type=sequence_reward",),
            lambda row, t, k: row.reward - float(row.values_T[row.example.prompt_tokens - 1]),
        )

    def test_surprisal_is_the_next_token_loss_of_the_target_at_every_horizon(self, nano):
        self.assert_weights(
            nano,
            ("weighting.type=surprisal", "weighting.beta=3"),
            lambda row, t, k: float(row.policy_losses_TH[t + k - 1, 0]),
        )

    def test_batch_norm_whitens_over_all_supervised_tokens(self, nano):
        errors = [error for row in nano.rows(8) for error in naive_td(row).values()]
        mean, std = np.mean(errors), np.std(errors)
        self.assert_weights(
            nano, ("weighting.advantage_norm=batch",), lambda row, t, k: (naive_td(row)[t + k] - mean) / std
        )

    def test_ema_norm_averages_statistics_over_steps_and_survives_a_checkpoint(self, nano):
        words = ("weighting.advantage_norm=ema", "weighting.ema_decay=0.75")
        first, second = nano.rows(8, seed=1), nano.rows(8, seed=2)
        config = nano.load(*words)
        scorer = build_scorer(config, nano.num_horizons)
        weigh(nano, words, [first], scorer=scorer)
        resumed = build_scorer(config, nano.num_horizons)
        resumed.load_state_dict(scorer.state_dict())
        here = weigh(nano, words, [second], scorer=scorer)
        there = weigh(nano, words, [second], scorer=resumed)
        assert torch.equal(here.pair_weights_BTH[0], there.pair_weights_BTH[0])

        errors = [[e for row in rows for e in naive_td(row).values()] for rows in (first, second)]
        share = np.array([0.75, 1.0]) / 1.75
        mean = share @ [np.mean(e) for e in errors]
        std = (share @ [np.mean(np.square(e)) for e in errors] - mean**2) ** 0.5
        expected = naive_weights(nano, second, lambda row, t, k: (naive_td(row)[t + k] - mean) / std, config.weighting)
        assert by_name(nano, [second], here) == pytest.approx(expected, rel=1e-5)

    def test_an_unweighed_terminal_counts_1_and_the_rest_as_before(self, nano):
        rows = nano.rows(8)
        plain = by_name(nano, [rows], weigh(nano, (), [rows]))
        named = by_name(nano, [rows], weigh(nano, ("weighting.weigh_terminal=false",), [rows]))
        last = {row.example.row_id: row.targets[-1] for row in rows}
        assert named == {(r, j, k): 1.0 if j == last[r] else weight for (r, j, k), weight in plain.items()}
        assert named != plain

    def test_weights_carry_no_gradient_to_the_values(self, nano):
        micro = nano.micro_batch(nano.rows(8))
        values_BT = micro.values_BT.clone().requires_grad_()
        attached = type(micro)(**{**micro.__dict__, "values_BT": values_BT})
        weights = build_scorer(nano.load(), nano.num_horizons).weigh([attached], OneRank())
        assert not weights.pair_weights_BTH[0].requires_grad


class TestControls:
    """Rule: a control keeps the distribution of the td weights and loses their placement."""

    WORDS = ("weighting.beta=0.3",)

    def test_shuffled_permutes_the_td_weights_within_each_response(self, nano):
        rows = nano.rows(12)
        td = by_name(nano, [rows], weigh(nano, self.WORDS, [rows]))
        shuffled = by_name(nano, [rows], weigh(nano, (*self.WORDS, "weighting.type=shuffled"), [rows]))
        assert shuffled != td
        for row in rows:
            own = [sorted(named[row.example.row_id, j, 1] for j in row.targets) for named in (td, shuffled)]
            assert own[0] == own[1]

    def test_matched_random_has_the_mean_and_std_of_the_td_weights(self, nano):
        rows = nano.rows(600)
        td = weigh(nano, self.WORDS, [rows]).metrics
        drawn = weigh(nano, (*self.WORDS, "weighting.type=matched_random"), [rows]).metrics
        assert drawn["weight/mean"] == pytest.approx(td["weight/mean"], rel=0.05)
        assert drawn["weight/std"] == pytest.approx(td["weight/std"], rel=0.1)

    @pytest.mark.parametrize("control", ["shuffled", "matched_random"])
    def test_a_random_control_draws_anew_in_every_step(self, nano, control):
        rows, words = nano.rows(8), (*self.WORDS, f"weighting.type={control}")
        first, again, later = (weigh(nano, words, [rows], step=step).pair_weights_BTH[0] for step in (0, 0, 1))
        assert torch.equal(first, again)
        assert not torch.equal(first, later)

    def test_a_document_seed_depends_on_run_step_and_row_alone(self):
        rows_M = np.array([5, 9, 2**26], dtype=np.int64)
        seeds_M = document_seeds(42, 3, rows_M)
        assert document_seeds(42, 3, rows_M[::-1]).tolist() == seeds_M[::-1].tolist()
        others = [document_seeds(43, 3, rows_M), document_seeds(42, 4, rows_M), seeds_M]
        assert len(set(np.concatenate(others).tolist())) == 9
        assert seeds_M.dtype == np.int64
        assert (seeds_M >= 0).all()


class TestRho1:
    """Rule: Rho-1 ranks the excess loss of the global batch, one horizon at a time."""

    def excess(self, nano, rows, horizon):
        return {
            (row.example.row_id, t + k, k): float(row.policy_losses_TH[t, k - 1]) - float(row.reference_losses_T[t + k])
            for row in rows
            for t, k in row.pairs(nano.num_horizons)
            if k == horizon
        }

    @pytest.mark.parametrize("keep_ratio", [0.1, 0.6, 0.7, 1.0])
    def test_topk_keeps_the_largest_excess_of_each_horizon(self, nano, keep_ratio):
        rows = nano.rows(9)
        splits = [[rows[:2], rows[2:5]], [rows[5:]]]
        words = (*RHO1, f"rho1.keep_ratio={keep_ratio}")
        results = nano.on_ranks(2, lambda ranks: weigh(nano, words, splits[ranks.rank], ranks))
        named = by_name(nano, splits[0], results[0]) | by_name(nano, splits[1], results[1])
        for k in range(1, nano.num_horizons + 1):
            excess = self.excess(nano, rows, k)
            kept = num_kept(len(excess), keep_ratio)
            best = sorted(excess, key=excess.__getitem__, reverse=True)[:kept]
            assert {name for name, weight in named.items() if name[2] == k and weight == 1.0} == set(best)
            assert {named[name] for name in excess} <= {0.0, 1.0}
            assert [result.denominators_H[k - 1].item() for result in results] == [kept, kept]

    @settings(max_examples=15, deadline=None)
    @given(SPLITS, st.sampled_from([0.25, 0.6, 0.9]))
    def test_topk_keeps_the_exact_number_and_the_same_pairs_among_ties(self, nano, split, keep_ratio):
        rows = [
            type(row)(row.example, row.values_T, np.zeros_like(row.reference_losses_T), row.policy_losses_TH.round())
            for row in nano.rows(8)
        ]
        words, parts = (*RHO1, f"rho1.keep_ratio={keep_ratio}"), cut(rows, *split)
        named = by_name(nano, parts, weigh(nano, words, parts))
        assert named == by_name(nano, [rows], weigh(nano, words, [rows]))
        for k in range(1, nano.num_horizons + 1):
            of_horizon = [weight for name, weight in named.items() if name[2] == k]
            assert sum(of_horizon) == math.ceil(round(keep_ratio * len(of_horizon), 9))

    def test_weighted_is_the_softened_excess_with_mean_1_per_horizon(self, nano):
        rows, words = nano.rows(9), (*RHO1, "rho1.mode=weighted", "rho1.temperature=1.5")
        result = weigh(nano, words, [rows[:4], rows[4:]])
        named = by_name(nano, [rows[:4], rows[4:]], result)
        for k in range(1, nano.num_horizons + 1):
            raw = {name: min(max(math.exp(e / 1.5), 0.1), 5.0) for name, e in self.excess(nano, rows, k).items()}
            mean = sum(raw.values()) / len(raw)
            own = {name: weight for name, weight in named.items() if name[2] == k}
            assert own == pytest.approx({name: weight / mean for name, weight in raw.items()}, rel=1e-5)
            assert sum(own.values()) / len(own) == pytest.approx(1.0, rel=1e-6)
            assert result.denominators_H[k - 1] == len(own)

    @pytest.mark.parametrize("mode", ["topk", "weighted"])
    def test_a_horizon_without_pairs_is_no_error(self, nano, mode):
        short = [row for row in nano.rows(60) if len(row) == 2][:2]
        assert len(short) == 2
        result = weigh(nano, (*RHO1, f"rho1.mode={mode}"), [short])
        assert result.denominators_H.tolist()[1:] == [0.0, 0.0]
        assert torch.isfinite(result.pair_weights_BTH[0]).all()


class TestDrop:
    """Rule: `drop` leaves out what the critic is sure is wrong, and the loss is a mean over the rest."""

    def test_three_tokens_by_hand(self, nano):
        """V is .5 after the prompt, then .75, .25; R is 0: td +.25, -.5 and, at the bound, -.25."""
        row = replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.5, 0.75, 0.25, 0.9], correct=False)
        words = ("weighting.type=drop", "weighting.drop_below=0.25")
        result = weigh(nano, words, [[row]])
        assert by_name(nano, [[row]], result) == {
            (row.example.row_id, j, k): float(j != 2) for j in (1, 2, 3) for k in (1, 2, 3) if j - k >= 0
        }
        assert result.denominators_H.tolist() == [2.0, 1.0, 1.0]
        assert result.metrics["weight/dropped_frac"] == result.metrics["weight/clip_min_frac"] == pytest.approx(1 / 3)
        assert result.metrics["weight/mean"] == result.metrics["weight/ess_frac"] == pytest.approx(2 / 3)
        assert result.metrics["weight/std"] == pytest.approx(math.sqrt(2) / 3)
        assert result.metrics["weight/clip_max_frac"] == 0.0
        assert result.metrics["advantage/mean"] == pytest.approx(-0.5 / 3)

    @pytest.mark.parametrize("drop_below", [0.0, 0.1, 0.5])
    def test_a_loop_over_the_td_errors_gives_weights_and_denominators(self, nano, drop_below):
        rows, words = nano.rows(9), ("weighting.type=drop", f"weighting.drop_below={drop_below}")
        splits = [[rows[:2], rows[2:5]], [rows[5:]]]
        results = nano.on_ranks(2, lambda ranks: weigh(nano, words, splits[ranks.rank], ranks))
        named = by_name(nano, splits[0], results[0]) | by_name(nano, splits[1], results[1])
        errors = {row.example.row_id: naive_td(row) for row in rows}
        assert named == {(r, j, k): float(errors[r][j] >= -drop_below) for r, j, k in named}
        assert {0.0, 1.0} == set(named.values())
        kept = Counter(k for (_, _, k), weight in named.items() if weight)
        assert [result.denominators_H.tolist() for result in results] == [[kept[1], kept[2], kept[3]]] * 2

    def test_an_unweighed_terminal_is_never_dropped(self, nano):
        rows = nano.rows(8)
        named = by_name(nano, [rows], weigh(nano, ("weighting.type=drop", "weighting.weigh_terminal=false"), [rows]))
        last = {row.example.row_id: row.targets[-1] for row in rows}
        errors = {row.example.row_id: naive_td(row) for row in rows}
        assert any(errors[r][j] < -0.1 for r, j in last.items())
        assert all(weight == 1.0 for (r, j, _), weight in named.items() if j == last[r])

    def test_a_step_of_which_all_is_dropped_has_denominators_0(self, nano):
        row = replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.9, 0.5, 0.1], correct=False)
        result = weigh(nano, ("weighting.type=drop", "weighting.drop_below=0.05"), [[row]])
        assert result.denominators_H.tolist() == [0.0, 0.0, 0.0]
        assert result.metrics["weight/dropped_frac"] == 1.0
        assert "weight/ess_frac" not in result.metrics

    def test_a_value_that_is_no_number_does_not_choose_tokens(self, nano):
        row = replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.5, math.nan, 0.5], correct=False)
        weights_BTH = weigh(nano, ("weighting.type=drop",), [[row]]).pair_weights_BTH[0]
        assert weights_BTH[0, :2, 0].isnan().all()


ENSEMBLE = ("critic.source=frozen", "critic.path=elsewhere", "critic.ensemble=2", "weighting.max_disagreement=0.25")


class TestDisagreement:
    """Rule: a token weighs 1 where the members of an ensemble disagree about a value that its weight rests on."""

    def weigh_doubted(self, nano, arm, row, disagreements, *words):
        """Weights of a row about whose states the members disagree by so much, and the metrics."""
        micro = nano.micro_batch([row], with_policy_losses=True)
        doubts_BT = torch.tensor([disagreements], dtype=torch.float32)
        scorer = build_scorer(nano.load(f"weighting.type={arm}", *ENSEMBLE, *words), nano.num_horizons)
        result = scorer.weigh([replace(micro, disagreements_BT=doubts_BT)], OneRank())
        return by_name(nano, [[row]], result), result

    def row(self, nano, *, correct=False):
        """V is .5 after the prompt, then .75, .25; R is 0: td +.25, -.5, -.25."""
        return replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.5, 0.75, 0.25, 0.9], correct=correct)

    def test_three_tokens_by_hand(self, nano):
        """Disagreements .2 .0 .3 at the states before the tokens: the second and the last one are doubtful."""
        row = self.row(nano)
        named, result = self.weigh_doubted(nano, "td", row, [0.2, 0.0, 0.3, 9.0], "weighting.beta=0.5")
        expected = {1: math.exp(0.5), 2: 1.0, 3: 1.0}
        assert named == pytest.approx({name: expected[name[1]] for name in named})
        assert result.metrics["weight/doubtful_frac"] == pytest.approx(2 / 3)
        assert result.metrics["weight/mean"] == pytest.approx((math.exp(0.5) + 2) / 3)
        assert result.metrics["advantage/mean"] == pytest.approx(-0.5 / 3), "of all tokens"
        assert result.denominators_H.tolist() == [3.0, 2.0, 1.0]

    @pytest.mark.parametrize("disagreement", [0.25, 0.0])
    def test_at_the_limit_members_still_agree(self, nano, disagreement):
        named, result = self.weigh_doubted(nano, "td", self.row(nano), [disagreement] * 4)
        assert result.metrics["weight/doubtful_frac"] == 0.0
        assert 1.0 not in named.values()

    def test_the_clips_do_not_touch_a_doubtful_token(self, nano):
        words = ("weighting.clip_min=2", "weighting.clip_max=4")
        named, _ = self.weigh_doubted(nano, "td", self.row(nano), [0.0, 0.0, 0.3, 0.0], *words)
        assert {j: weight for (_, j, _), weight in named.items()} == {1: 2.0, 2: 1.0, 3: 1.0}

    def test_a_doubtful_token_is_not_dropped(self, nano):
        """td -.5 at the second and -.25 at the last token would drop both."""
        named, result = self.weigh_doubted(nano, "drop", self.row(nano), [0.0, 0.3, 0.0, 0.0])
        assert {j: weight for (_, j, _), weight in named.items()} == {1: 1.0, 2: 1.0, 3: 0.0}
        assert result.denominators_H.tolist() == [2.0, 1.0, 0.0], "horizon 3 predicts the last token alone"

    def test_a_doubtful_token_is_not_pushed_down(self, nano):
        named, result = self.weigh_doubted(nano, "signed", self.row(nano), [0.0, 0.3, 0.0, 0.0])
        assert {j: weight > 0 for (_, j, _), weight in named.items()} == {1: True, 2: True, 3: False}
        assert {weight for (_, j, _), weight in named.items() if j < 3} == {1.0}
        assert result.metrics["weight/negative_frac"] == pytest.approx(1 / 3)

    def test_in_the_horizon_reading_a_window_ends_in_the_reward(self, nano):
        """Pairs of horizon 3 rest on the state before their target alone."""
        row = self.row(nano)
        row = replace_values(row, prompt_tokens=3, values=[0.1, 0.2, 0.5, 0.75, 0.25, 0.9], correct=False)
        words = ("weighting.terminal=horizon",)
        named, result = self.weigh_doubted(nano, "td", row, [9.0, 9.0, 0.0, 0.3, 0.0, 9.0], *words)
        is_neutral = {name[1:]: weight == 1.0 for name, weight in named.items()}
        assert is_neutral == {(j, k): j == 4 or (j == 3 and k < 3) for j, k in is_neutral}
        assert result.metrics["weight/doubtful_frac"] == pytest.approx(5 / 9)

    def test_a_reward_of_the_sequence_rests_on_the_prompts_value_alone(self, nano):
        row = self.row(nano)
        for doubts, neutral in (([0.0, 0.3, 0.3, 0.3], False), ([0.3, 0.0, 0.0, 0.0], True)):
            named, _ = self.weigh_doubted(nano, "sequence_reward", row, doubts)
            assert {weight == 1.0 for weight in named.values()} == {neutral}

    def test_a_control_permutes_the_weights_that_td_has(self, nano):
        row = self.row(nano)
        doubts = [0.2, 0.0, 0.3, 0.0]
        td, _ = self.weigh_doubted(nano, "td", row, doubts)
        shuffled, _ = self.weigh_doubted(nano, "shuffled", row, doubts)
        of_tokens = [sorted(w for (_, _, k), w in named.items() if k == 1) for named in (td, shuffled)]
        assert of_tokens[0] == pytest.approx(of_tokens[1])

    def test_a_value_that_is_no_number_is_not_hidden(self, nano):
        row = replace_values(self.row(nano), prompt_tokens=1, values=[0.5, math.nan, 0.5], correct=False)
        _, result = self.weigh_doubted(nano, "td", row, [0.0, math.nan, 0.9])
        assert result.pair_weights_BTH[0][0, :2, 0].isnan().all()

    def test_without_a_limit_nothing_is_doubtful_and_the_weights_are_those_of_one_critic(self, nano):
        rows = nano.rows(6)
        one = weigh(nano, ("weighting.type=td",), [rows])
        several = weigh(nano, ("weighting.type=td", *ENSEMBLE[:-1]), [rows])
        assert by_name(nano, [rows], one) == by_name(nano, [rows], several)
        assert several.metrics == one.metrics


class TestSigned:
    """Rule: `signed` pushes down what an incorrect row's critic doubts, by |w| p, and weighs the rest as `td`."""

    def test_three_tokens_by_hand(self, nano):
        """V is .5 after the prompt, then .75, .25; R is 0: td +.25, -.5, -.25; with beta .5 |w| is e^.5, 1/e, e^-.5."""
        row = replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.5, 0.75, 0.25, 0.9], correct=False)
        losses_TH = np.full((4, 3), np.nan, dtype=np.float32)
        probabilities = {(1, 1): 0.9, (2, 1): 0.5, (3, 1): 0.25, (2, 2): 0.1, (3, 2): 0.2, (3, 3): 0.05}
        for (j, k), p in probabilities.items():
            losses_TH[j - k, k - 1] = -math.log(p)
        words = ("weighting.type=signed", "weighting.beta=0.5")
        result = weigh(nano, words, [[replace(row, policy_losses_TH=losses_TH)]])
        up, half, quarter = math.exp(0.5), math.exp(-1.0), math.exp(-0.5)
        i = row.example.row_id
        expected = {
            (i, 1, 1): up,
            (i, 2, 1): -half * 0.5,
            (i, 3, 1): -quarter * 0.25,
            (i, 2, 2): -half * 0.1,
            (i, 3, 2): -quarter * 0.2,
            (i, 3, 3): -quarter * 0.05,
        }
        assert by_name(nano, [[row]], result) == pytest.approx(expected, rel=1e-6)
        assert result.denominators_H.tolist() == [3.0, 2.0, 1.0]
        assert result.own_totals_H.tolist() == pytest.approx([up + half + quarter, half + quarter, quarter])
        metrics = result.metrics
        assert metrics["weight/mean"] == pytest.approx((up + half + quarter) / 3)
        assert metrics["weight/negative_frac"] == pytest.approx(2 / 3)
        assert metrics["weight/negative_probability"] == pytest.approx((0.5 + 0.25 + 0.1 + 0.2 + 0.05) / 5)
        assert metrics["weight/clip_min_frac"] == metrics["weight/dropped_frac"] == 0.0

    def test_a_correct_row_is_weighed_as_td(self, nano):
        rows = [row for row in nano.rows(12) if row.example.is_correct]
        assert any(error < 0 for row in rows for error in naive_td(row).values())
        found = weigh(nano, ("weighting.type=signed",), [rows])
        td = weigh(nano, ("weighting.type=td",), [rows])
        assert by_name(nano, [rows], found) == by_name(nano, [rows], td)
        assert found.metrics == {**td.metrics, "weight/negative_frac": 0.0}

    @pytest.mark.parametrize(("weighs_terminal", "push_below"), [(True, 0.0), (False, 0.0), (True, 0.3)])
    def test_a_loop_over_the_td_errors_gives_weights_and_metrics(self, nano, weighs_terminal, push_below):
        rows, words = nano.rows(9), ("weighting.type=signed", "weighting.beta=0.3", "weighting.clip_max=2.0")
        words = (
            *words,
            f"weighting.weigh_terminal={str(weighs_terminal).lower()}",
            f"weighting.push_below={push_below}",
        )
        config = nano.load(*words).weighting
        splits = [[rows[:2], rows[2:5]], [rows[5:]]]
        results = nano.on_ranks(2, lambda ranks: weigh(nano, words, splits[ranks.rank], ranks))
        expected, pushed = {}, []
        for row in rows:
            errors = naive_td(row)
            for t, k in row.pairs(nano.num_horizons):
                is_unweighed = not weighs_terminal and t + k == row.targets[-1]
                weight = 1.0 if is_unweighed else to_weight(errors[t + k], config)
                is_pushed = errors[t + k] < -push_below and not row.example.is_correct and not is_unweighed
                p = math.exp(-float(row.policy_losses_TH[t, k - 1]))
                pushed += [p] if is_pushed else []
                expected[row.example.row_id, t + k, k] = -weight * p if is_pushed else weight
        named = by_name(nano, splits[0], results[0]) | by_name(nano, splits[1], results[1])
        assert named == pytest.approx(expected, rel=1e-5)
        assert min(named.values()) < 0 < max(named.values())
        kept = [weight for weight in named.values() if 0 < weight < 0.99]
        assert bool(kept), "a correct row, or a small fall of V, is learned less and not unlearned"
        of_tokens = [weight for (_, _, k), weight in expected.items() if k == 1]
        td = weigh(nano, ("weighting.type=td", *words[1:]), [rows])
        for result in results:
            assert result.denominators_H.tolist() == td.denominators_H.tolist()
            assert result.metrics["weight/negative_probability"] == pytest.approx(np.mean(pushed), rel=1e-5)
            assert result.metrics["weight/negative_frac"] == pytest.approx(np.mean([w < 0 for w in of_tokens]))
            assert {name: result.metrics[name] for name in td.metrics} == pytest.approx(td.metrics, rel=1e-6)

    def test_the_weights_sum_is_of_their_sizes_whatever_is_pushed(self, nano):
        """All tokens of these rows are pushed down: the signed weights add up to less than 0."""
        falling = [replace(row, values_T=9 - np.arange(len(row), dtype=np.float32)) for row in nano.rows(9)]
        rows = [row for row in falling if not row.example.is_correct and len(row) < 10]
        result = weigh(nano, ("weighting.type=signed",), [rows])
        assert result.metrics["weight/negative_frac"] == 1.0
        assert all(float(w.sum()) < 0 for w in result.pair_weights_BTH)
        td = weigh(nano, ("weighting.type=td",), [rows])
        assert result.own_totals_H.tolist() == td.own_totals_H.tolist()
        assert (result.own_totals_H > 0).all()

    def test_a_value_that_is_no_number_is_neither_pushed_nor_hidden(self, nano):
        row = replace_values(nano.rows(8)[1], prompt_tokens=1, values=[0.5, math.nan, 0.5], correct=False)
        weights_BTH = weigh(nano, ("weighting.type=signed",), [[row]]).pair_weights_BTH[0]
        assert weights_BTH[0, :2, 0].isnan().all()


def edited(row, *, first, differs, correct_frac=0.5):
    """The row with the edits to its nearest other: places of tokens that differ, and the first of them."""
    differs_T = np.isin(np.arange(len(row)), differs)
    return replace(row, example=replace(row.example, edits=RowEdits(differs_T, first, correct_frac)))


def edited_pair(nano):
    """Two tokens of prompt; at place 3 the incorrect row has two tokens for one of the correct row, then both agree."""
    right, wrong = nano.rows(2)
    right = replace_values(right, prompt_tokens=2, values=[0.0] * 6, correct=True)
    wrong = replace_values(wrong, prompt_tokens=2, values=[0.0] * 7, correct=False)
    return edited(right, first=3, differs=[3]), edited(wrong, first=3, differs=[3, 4])


def no_other(nano, *, correct):
    row = replace_values(nano.rows(4)[2 + correct], prompt_tokens=1, values=[0.0] * 3, correct=correct)
    return edited(row, first=-1, differs=[], correct_frac=float(correct))


class TestOracle:
    """Rule: `oracle` has a perfect critic's TD errors: -b or 1 - b at the first token that differs, 0 elsewhere."""

    WORDS = ("weighting.type=oracle", "weighting.beta=0.2")

    def test_a_pair_by_hand(self, nano):
        right, wrong = edited_pair(nano)
        result = weigh(nano, self.WORDS, [[right], [wrong]])
        named = by_name(nano, [[right], [wrong]], result)
        up, down = min(math.exp(0.5 / 0.2), 5.0), max(math.exp(-0.5 / 0.2), 0.1)
        assert named == pytest.approx(
            {
                (row.example.row_id, t + k, k): weight if t + k == 3 else 1.0
                for row, weight in ((right, up), (wrong, down))
                for t, k in row.pairs(nano.num_horizons)
            }
        )
        counts = Counter(k for row in (right, wrong) for _, k in row.pairs(nano.num_horizons))
        assert result.denominators_H.tolist() == [counts[1], counts[2], counts[3]]
        assert result.metrics["edits/partner_frac"] == 1.0
        assert result.metrics["edits/differing_frac"] == pytest.approx((1 / 4 + 2 / 5) / 2)

    @pytest.mark.parametrize("b", [0.25, 1 / 3, 0.75])
    def test_b_is_the_share_of_correct_rows_that_share_the_prefix(self, nano, b):
        right, wrong = (edited(row, first=3, differs=[3], correct_frac=b) for row in edited_pair(nano))
        words = ("weighting.type=oracle", "weighting.beta=1")
        named = by_name(nano, [[right, wrong]], weigh(nano, words, [[right, wrong]]))
        assert named[right.example.row_id, 3, 1] == pytest.approx(math.exp(1 - b))
        assert named[wrong.example.row_id, 3, 1] == pytest.approx(math.exp(-b))

    def test_a_row_without_an_other_has_weight_1_and_is_counted(self, nano):
        right, wrong = edited_pair(nano)
        rows = [no_other(nano, correct=False), right, wrong, no_other(nano, correct=True)]
        split = [rows[:1], rows[1:]]
        result = weigh(nano, self.WORDS, split)
        named = by_name(nano, split, result)
        ids = (right.example.row_id, wrong.example.row_id)
        assert {weight for (row, _, _), weight in named.items() if row not in ids} == {1.0}
        assert result.metrics["edits/partner_frac"] == 0.5
        assert result.metrics["edits/differing_frac"] == pytest.approx((1 / 4 + 2 / 5) / 2)
        alone = weigh(nano, self.WORDS, [[no_other(nano, correct=True)]]).metrics
        assert alone["edits/partner_frac"] == 0.0
        assert "edits/differing_frac" not in alone

    def test_it_is_td_with_the_values_of_a_perfect_critic(self, nano):
        """V is b up to the first token that differs and R from there on: the same weights, whatever the lambda."""
        rows = [row for row in nano.rows(12) if row.example.edits.first >= 0]
        perfect = []
        for row in rows:
            edits, values = row.example.edits, np.full(len(row), row.reward, dtype=np.float32)
            values[: edits.first] = edits.correct_frac
            perfect.append(replace(row, values_T=values))
        for more in ((), ("weighting.td_lambda=0.9", "weighting.gamma=1"), ("weighting.advantage_norm=batch",)):
            found = by_name(nano, [rows], weigh(nano, ("weighting.type=oracle", *more), [rows]))
            td = by_name(nano, [rows], weigh(nano, ("weighting.type=td", *more), [perfect]))
            assert found == pytest.approx(td, rel=1e-5)
            assert len(set(found.values())) > 2


class TestOracleDrop:
    """Rule: `oracle_drop` leaves out an incorrect row's tokens of the edit, and the loss is a mean over the rest."""

    WORDS = ("weighting.type=oracle_drop",)

    def test_a_pair_by_hand(self, nano):
        right, wrong = edited_pair(nano)
        split = [[right, wrong], [no_other(nano, correct=False)]]
        result = weigh(nano, self.WORDS, split)
        named = by_name(nano, split, result)
        assert named == {(r, j, k): float(not (r == wrong.example.row_id and j in (3, 4))) for r, j, k in named}
        kept = Counter(k for (_, _, k), weight in named.items() if weight)
        assert result.denominators_H.tolist() == [kept[1], kept[2], kept[3]]
        assert result.metrics["weight/dropped_frac"] == pytest.approx(2 / (4 + 5 + 2))

    def test_where_an_incorrect_row_lacks_tokens_the_next_one_stands_wrong(self, nano):
        _, wrong = edited_pair(nano)
        named = by_name(nano, [[row := edited(wrong, first=4, differs=[])]], weigh(nano, self.WORDS, [[row]]))
        assert {j for (_, j, _), weight in named.items() if weight == 0.0} == {4}


class TestDiff:
    """Rule: `diff` weighs a correct row's tokens that differ from the nearest incorrect one with `diff_weight`."""

    @pytest.mark.parametrize(("words", "heavy"), [((), 2.0), (("weighting.diff_weight=3.5",), 3.5)])
    def test_rows_by_hand(self, nano, words, heavy):
        right, wrong = edited_pair(nano)
        right = edited(right, first=3, differs=[3, 5])
        rows = [right, no_other(nano, correct=True), wrong]
        result = weigh(nano, ("weighting.type=diff", *words), [rows])
        named = by_name(nano, [rows], result)
        assert named == {(r, j, k): heavy if r == right.example.row_id and j in (3, 5) else 1.0 for r, j, k in named}
        counts = Counter(k for _, _, k in named)
        assert result.denominators_H.tolist() == [counts[1], counts[2], counts[3]]
        assert result.metrics["weight/mean"] == pytest.approx((2 * heavy + 2 + 2 + 5) / 11)
        assert result.metrics["weight/dropped_frac"] == 0.0
        assert result.metrics["edits/partner_frac"] == pytest.approx(2 / 3)

    def test_tokens_that_only_the_incorrect_row_has_weigh_nothing_more(self, nano):
        right, _ = edited_pair(nano)
        row = edited(right, first=4, differs=[])
        assert set(by_name(nano, [[row]], weigh(nano, ("weighting.type=diff",), [[row]])).values()) == {1.0}


class TestContrast:
    """Rule: `contrast` is clip(exp((log p_plus - log p_minus) / beta)) of the target, at every horizon the same."""

    def test_two_tokens_by_hand(self, nano):
        """p_plus .5 and .25, p_minus .25 and .5: log ratios ln 2 and -ln 2; with beta .5 the weights are 4 and 1/4."""
        row = replace_values(nano.rows(8)[0], prompt_tokens=1, values=[0.0] * 3, correct=True)
        micro = nano.micro_batch([row])
        plus_BT = -torch.tensor([[0.9, 0.5, 0.25]]).log()
        minus_BT = -torch.tensor([[0.1, 0.25, 0.5]]).log()
        micro = replace(micro, reference_losses_BT=plus_BT, incorrect_losses_BT=minus_BT)
        scorer = build_scorer(nano.load(*CONTRAST, "weighting.beta=0.5"), nano.num_horizons)
        result = scorer.weigh([micro], OneRank())
        i = row.example.row_id
        assert by_name(nano, [[row]], result) == pytest.approx({(i, 1, 1): 4.0, (i, 2, 1): 0.25, (i, 2, 2): 0.25})
        assert result.denominators_H.tolist() == [2.0, 1.0, 0.0]
        assert result.metrics["advantage/mean"] == pytest.approx(0.0, abs=1e-6)

    def test_a_loop_over_both_references_gives_the_weights(self, nano):
        rows, words = nano.rows(8), (*CONTRAST, "weighting.beta=2")
        config = nano.load(*words).weighting
        named = by_name(nano, [rows[:3], rows[3:]], weigh(nano, words, [rows[:3], rows[3:]]))
        expected = naive_weights(
            nano,
            rows,
            lambda row, t, k: float(row.incorrect_losses_T[t + k]) - float(row.reference_losses_T[t + k]),
            config,
        )
        assert named == pytest.approx(expected, rel=1e-5)
        assert min(named.values()) < 1 < max(named.values())


class TestDft:
    """Rule: `dft` weighs a pair with the policy's own probability of its target, over all pairs."""

    def test_two_tokens_by_hand(self, nano):
        row = replace_values(nano.rows(8)[0], prompt_tokens=1, values=[0.5, 0.5, 0.5], correct=True)
        losses_TH = np.full((3, 3), np.nan, dtype=np.float32)
        losses_TH[0, 0], losses_TH[0, 1], losses_TH[1, 0] = math.log(2), math.log(4), math.log(10)
        result = weigh(nano, ("weighting.type=dft",), [[replace(row, policy_losses_TH=losses_TH)]])
        named = by_name(nano, [[row]], result)
        # Token 1 at horizon 1, token 2 at horizon 1 and from the prompt at horizon 2.
        i = row.example.row_id
        assert named == pytest.approx({(i, 1, 1): 0.5, (i, 2, 1): 0.1, (i, 2, 2): 0.25}, rel=1e-6)
        assert result.denominators_H.tolist() == [2.0, 1.0, 0.0]
        assert result.metrics["weight/mean"] == pytest.approx(0.85 / 3)
        assert result.metrics["weight/clip_min_frac"] == result.metrics["weight/clip_max_frac"] == 0.0
        assert result.metrics["weight/dropped_frac"] == 0.0

    def test_neither_beta_nor_clips_touch_it(self, nano):
        rows = nano.rows(8)
        words = ("weighting.type=dft", "weighting.beta=0.2", "weighting.clip_min=0.3", "weighting.clip_max=0.4")
        named = by_name(nano, [rows], weigh(nano, words, [rows]))
        expected = {
            (row.example.row_id, t + k, k): math.exp(-float(row.policy_losses_TH[t, k - 1]))
            for row in rows
            for t, k in row.pairs(nano.num_horizons)
        }
        assert named == pytest.approx(expected, rel=1e-5)
        assert min(expected.values()) < 0.3 < 0.4 < max(expected.values())


class TestMetrics:
    """Rule: a step reports its weights over the whole global batch."""

    def test_metrics_equal_a_loop_over_the_global_batch(self, nano):
        rows = nano.rows(8)
        words = ("weighting.beta=0.25", "weighting.clip_min=0.4", "weighting.clip_max=2.0")
        splits = [[rows[:5]], [rows[5:]]]
        metrics = nano.on_ranks(2, lambda ranks: weigh(nano, words, splits[ranks.rank], ranks))[1].metrics
        config = nano.load(*words).weighting
        weights = {(r.example.row_id, j): to_weight(e, config) for r in rows for j, e in naive_td(r).items()}
        last = {(row.example.row_id, row.targets[-1]) for row in rows}
        w = np.array(list(weights.values()))
        terminal = np.array([name in last for name in weights])
        errors = np.array([e for row in rows for e in naive_td(row).values()])
        assert metrics == pytest.approx(
            {
                "weight/mean": w.mean(),
                "weight/std": w.std(),
                "weight/terminal_mean": w[terminal].mean(),
                "weight/terminal_std": w[terminal].std(),
                "weight/other_mean": w[~terminal].mean(),
                "weight/other_std": w[~terminal].std(),
                "weight/clip_min_frac": (w == 0.4).mean(),
                "weight/clip_max_frac": (w == 2.0).mean(),
                "weight/dropped_frac": 0.0,
                "weight/ess_frac": w.sum() ** 2 / (len(w) * (w**2).sum()),
                "weight/terminal_share": abs(w[terminal] - 1).sum() / abs(w - 1).sum(),
                **{f"weight/below_{edge:g}_frac": (w < edge).mean() for edge in DISTRIBUTION_EDGES},
                "advantage/mean": errors.mean(),
                "advantage/std": errors.std(),
            },
            rel=1e-5,
        )
        assert 0.0 < metrics["weight/clip_min_frac"] < 1.0
        assert 0.0 < metrics["weight/clip_max_frac"] < 1.0

    def test_uniform_weights_have_the_full_effective_sample_size(self, nano):
        metrics = weigh(nano, ("weighting.type=uniform",), [nano.rows(8)]).metrics
        assert (metrics["weight/ess_frac"], metrics["weight/std"]) == (1.0, 0.0)

    def test_topk_reports_the_share_it_kept(self, nano):
        rows = nano.rows(9)
        result = weigh(nano, RHO1, [rows])
        num_pairs = sum(len(row.pairs(nano.num_horizons)) for row in rows)
        kept = float(result.denominators_H.sum()) / num_pairs
        assert result.metrics["weight/mean"] == pytest.approx(kept)
        assert result.metrics["weight/dropped_frac"] == pytest.approx(1 - kept)


class TestSources:
    """Rule: an arm reads what its row of `config/arms.py` says, and nothing else."""

    def test_every_arm_has_a_formula(self):
        assert list(FORMULAS) == list(ARMS)

    @pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
    def test_an_arm_weighs_with_the_scores_of_its_row_alone(self, nano, arm):
        words = words_of(arm)
        micro = nano.micro_batch(nano.rows(6), with_policy_losses=True)
        given = replace(
            micro,
            values_BT=micro.values_BT if arm.source == "critic" else None,
            reference_losses_BT=micro.reference_losses_BT if arm.source == "reference" else None,
            incorrect_losses_BT=micro.incorrect_losses_BT if arm.needs_two_references else None,
            policy_losses_BTH=micro.policy_losses_BTH if arm.needs_policy_losses else None,
            edits=micro.edits if arm.needs_edits else None,
        )
        scorer = build_scorer(nano.load(*words), nano.num_horizons)
        assert scorer.needs_policy_losses == arm.needs_policy_losses
        assert scorer.weigh([given], OneRank()).metrics["weight/mean"] > 0.0
        for score, is_read in (
            ("values_BT", arm.source == "critic"),
            ("reference_losses_BT", arm.source == "reference"),
            ("policy_losses_BTH", arm.needs_policy_losses),
            ("incorrect_losses_BT", arm.needs_two_references),
            ("edits", arm.needs_edits),
        ):
            if is_read:
                with pytest.raises(AssertionError, match="needs"):
                    scorer.weigh([replace(given, **{score: None})], OneRank())

    @pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
    def test_beta_sharpens_the_arms_whose_row_says_so(self, nano, arm):
        words = words_of(arm)
        rows = nano.rows(8)
        stds = [weigh(nano, (*words, f"weighting.beta={b}"), [rows]).metrics["weight/std"] for b in (0.5, 2.0)]
        assert (stds[0] != stds[1]) == (arm.shape == "beta")
        assert (stds[0] == 0.0) == (arm.shape == "equal")
