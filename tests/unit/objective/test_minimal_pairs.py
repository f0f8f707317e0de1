import numpy as np
import pytest

from wmtp_ray.objective.minimal_pairs import Trace, drop_auc, edited_spans, is_minimal, minimal_pair_health


def trace(tokens: list[int], values: list[float]) -> Trace:
    return Trace(np.array(tokens), np.array(values))


@pytest.mark.parametrize(
    ("a", "b", "spans"),
    [
        ([1, 2, 3, 9], [1, 5, 6, 3, 9], (range(1, 2), range(1, 3))),
        ([1, 2, 3], [1, 2, 3], None),
        ([1, 2, 9], [1, 9], (range(1, 2), range(1, 1))),
        ([7, 7, 9], [7, 7, 7, 9], (range(2, 2), range(2, 3))),
        ([1, 2], [3, 4], (range(2), range(2))),
        ([1, 2], [1, 2, 3], (range(2, 2), range(2, 3))),
    ],
)
def test_edited_span_lies_between_common_start_and_common_end(
    a: list[int], b: list[int], spans: tuple[range, range] | None
) -> None:
    found = edited_spans(np.array(a), np.array(b))
    if spans is None:
        assert found is None
        return
    assert found is not None
    # Empty ranges are equal whatever their place; the place matters here.
    assert [(s.start, s.stop) for s in found] == [(s.start, s.stop) for s in spans]
    assert a[: found[0].start] == b[: found[1].start]
    assert a[found[0].stop :] == b[found[1].stop :]


def test_a_pair_is_minimal_only_if_the_edit_is_short_in_both() -> None:
    base = trace([1, 2, 3, 4, 9], [0.5] * 5)
    assert is_minimal(base, trace([1, 2, 8, 4, 9], [0.5] * 5), max_edit_frac=0.25)
    assert not is_minimal(base, trace([1, 7, 8, 4, 9], [0.5] * 5), max_edit_frac=0.25)
    assert not is_minimal(base, base, max_edit_frac=0.25)


def test_a_critic_that_sees_the_edit_scores_full_marks() -> None:
    correct = trace([1, 2, 3, 4, 5, 9], [0.5, 0.5, 0.5, 0.6, 0.6, 0.6])
    incorrect = trace([1, 2, 8, 4, 5, 9], [0.5, 0.5, 0.5, 0.1, 0.2, 0.2])
    health = minimal_pair_health([(correct, incorrect)])
    assert health.num_pairs == 1
    assert health.pair_accuracy_mean == health.pair_accuracy_min == health.first_difference_drops == 1.0
    assert health.largest_drop_in_edit == 1.0
    assert health.largest_drop_in_edit_chance == pytest.approx(1 / 5)
    assert (health.drop_at_edit_auc, health.drop_at_edit_auc_standard_error) == (1.0, None)


def test_the_area_of_a_drop_counts_all_pairs_of_a_token_inside_and_one_outside_the_edit() -> None:
    values = [0.5, 0.4, 0.5, 0.1, 0.1, 0.3]  # changes -.1 +.1 -.4 0 +.2
    inside, outside = [-0.4, 0.0], [-0.1, 0.1, 0.2]
    expected = np.mean([float(a < b) for a in inside for b in outside])
    assert drop_auc(trace([1, 2, 3, 4, 5, 9], values), range(2, 4)) == pytest.approx(expected)
    assert drop_auc(trace([1, 2, 3, 4, 5, 9], values), range(2, 2)) == 1.0, "an empty span is the token at its start"
    assert drop_auc(trace([1, 2, 9], [0.5, 0.4, 0.1]), range(2, 3)) is None, "the last token has no state after it"


def test_the_twin_tells_a_place_where_v_always_drops_from_a_mistake() -> None:
    always = [0.5, 0.5, 0.1, 0.1, 0.1]
    pairs = [(trace([1, 2, 3, 4, 9], always), trace([1, 8, 3, 4, 9], always)) for _ in range(3)]
    health = minimal_pair_health(pairs)
    assert health.drop_at_edit_auc == health.drop_at_edit_auc_twin == 1.0
    assert health.drop_at_edit_auc_standard_error == 0.0


def test_a_drop_away_from_the_edit_does_not_count_as_locating_it() -> None:
    correct = trace([1, 2, 3, 4, 9], [0.5, 0.5, 0.5, 0.4, 0.4])
    incorrect = trace([1, 2, 8, 4, 9], [0.5, 0.1, 0.1, 0.2, 0.2])
    health = minimal_pair_health([(correct, incorrect)])
    assert health.first_difference_drops == 0.0
    assert health.largest_drop_in_edit == 0.0
    assert health.pair_accuracy_mean == 1.0


def test_a_difference_at_the_last_token_says_nothing_about_drops() -> None:
    health = minimal_pair_health([(trace([1, 2, 9], [0.5] * 3), trace([1, 2, 8], [0.5] * 3))])
    assert health.first_difference_drops is None
    assert health.largest_drop_in_edit is None
    assert health.pair_accuracy_mean == 0.5


def test_without_pairs_nothing_is_claimed() -> None:
    health = minimal_pair_health([])
    assert health.num_pairs == 0
    assert health.pair_accuracy_mean is None
