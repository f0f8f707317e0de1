"""What a critic says about two programs that differ by one edit: the only test of WHERE it sees a mistake.

A minimal pair is a correct and an incorrect response to one problem whose tokens are equal outside one short span.
Up to the first differing token both critics' states are the same, so comparing the two drops there controls for
position and for everything before. Not here: choosing pairs for training, or any loss.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wmtp_ray.objective.health_measures import auc, wins


@dataclass(frozen=True)
class Trace:
    """One response as the critic saw it: token i moves the value from `values[i]` to `values[i + 1]`.

    `values` holds the states a TD error reads, one per token: V(prompt), then V after every token but the last.
    """

    tokens: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def drop_at(self, token: int) -> float | None:
        """Return the change of value over one token; None for the last token, whose state is terminal."""
        return float(self.values[token + 1] - self.values[token]) if token + 1 < len(self.values) else None


@dataclass(frozen=True)
class MinimalPairHealth:
    """Means over minimal pairs; None where no pair gives a number. `chance` is what a random token would reach.

    `drop_at_edit_auc`: within the wrong program, does V drop more over the edit's tokens than over the others? Its
    control, `drop_at_edit_auc_twin`, asks the same of the same place in the correct program. The standard error counts
    pairs as independent.
    """

    num_pairs: int
    pair_accuracy_mean: float | None
    pair_accuracy_min: float | None
    first_difference_drops: float | None
    largest_drop_in_edit: float | None
    largest_drop_in_edit_chance: float | None
    drop_at_edit_auc: float | None
    drop_at_edit_auc_standard_error: float | None
    drop_at_edit_auc_twin: float | None


def edited_spans(tokens_a: npt.NDArray[np.int64], tokens_b: npt.NDArray[np.int64]) -> tuple[range, range] | None:
    """Return the token ranges in which two responses differ, between common start and common end; None if equal.

    [1 2 3 9] and [1 5 6 3 9] differ in [2] and [5 6]: ranges 1..2 and 1..3. A pure deletion has one empty range.
    """
    shorter = min(len(tokens_a), len(tokens_b))
    differs = np.flatnonzero(tokens_a[:shorter] != tokens_b[:shorter])
    start = int(differs[0]) if len(differs) else shorter
    if start == len(tokens_a) == len(tokens_b):
        return None
    left = shorter - start
    differs_back = np.flatnonzero(tokens_a[::-1][:left] != tokens_b[::-1][:left])
    common_end = int(differs_back[0]) if len(differs_back) else left
    return range(start, len(tokens_a) - common_end), range(start, len(tokens_b) - common_end)


def is_minimal(correct: Trace, incorrect: Trace, *, max_edit_frac: float) -> bool:
    """Whether the responses differ, and only in a span of at most `max_edit_frac` of either."""
    spans = edited_spans(correct.tokens, incorrect.tokens)
    if spans is None:
        return False
    traces = (correct, incorrect)
    return all(len(span) <= max_edit_frac * len(trace.tokens) for span, trace in zip(spans, traces, strict=True))


def minimal_pair_health(pairs: list[tuple[Trace, Trace]]) -> MinimalPairHealth:
    """Measure (correct, incorrect) pairs that are minimal."""
    in_edit = [localisation for pair in pairs if (localisation := _largest_drop(*pair)) is not None]
    first = [dropped for pair in pairs if (dropped := _first_difference(*pair)) is not None]
    areas = [areas for pair in pairs if (areas := _drop_at_edit(*pair)) is not None]
    wrong = [of_wrong for _, of_wrong in areas]
    return MinimalPairHealth(
        num_pairs=len(pairs),
        pair_accuracy_mean=_mean([wins(right.values.mean(), wrong.values.mean()) for right, wrong in pairs]),
        pair_accuracy_min=_mean([wins(right.values.min(), wrong.values.min()) for right, wrong in pairs]),
        first_difference_drops=_mean(first),
        largest_drop_in_edit=_mean([float(hit) for hit, _ in in_edit]),
        largest_drop_in_edit_chance=_mean([chance for _, chance in in_edit]),
        drop_at_edit_auc=_mean(wrong),
        drop_at_edit_auc_standard_error=float(np.std(wrong, ddof=1) / np.sqrt(len(wrong))) if len(wrong) > 1 else None,
        drop_at_edit_auc_twin=_mean([of_right for of_right, _ in areas]),
    )


def drop_auc(trace: Trace, span: range) -> float | None:
    """Return the chance that V drops more over a token of `span` than over another token of the response.

    An empty span stands for the token at its start. The last token, whose state is terminal, is left out; None where
    that leaves one side empty. Values [.5 .5 .1 .2 .2] change by [0 -.4 .1 0]: the drop at token 1 is the largest, 1.0.
    """
    drops = -np.diff(trace.values)
    is_inside = np.zeros(len(drops), dtype=np.bool_)
    is_inside[span.start : max(span.stop, span.start + 1)] = True
    return auc(drops, is_inside)


def _first_difference(correct: Trace, incorrect: Trace) -> float | None:
    spans = edited_spans(correct.tokens, incorrect.tokens)
    assert spans is not None, "a minimal pair differs"
    right, wrong = correct.drop_at(spans[0].start), incorrect.drop_at(spans[1].start)
    return None if right is None or wrong is None else wins(right, wrong)


def _largest_drop(correct: Trace, incorrect: Trace) -> tuple[bool, float] | None:
    """Return whether the wrong program's largest drop lies in the edit, and the chance that a random token does."""
    changes = np.diff(incorrect.values)
    spans = edited_spans(correct.tokens, incorrect.tokens)
    assert spans is not None, "a minimal pair differs"
    start, stop = spans[1].start, min(max(spans[1].stop, spans[1].start + 1), len(changes))
    if start >= stop:
        return None
    return start <= int(np.argmin(changes)) < stop, (stop - start) / len(changes)


def _drop_at_edit(correct: Trace, incorrect: Trace) -> tuple[float, float] | None:
    spans = edited_spans(correct.tokens, incorrect.tokens)
    assert spans is not None, "a minimal pair differs"
    right, wrong = drop_auc(correct, spans[0]), drop_auc(incorrect, spans[1])
    return None if right is None or wrong is None else (right, wrong)


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
