from dataclasses import replace

import pytest

from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.decoding import Decoded, DecodingSettings, DecodingStatistics

SETTINGS = DecodingSettings(max_new_tokens=5, temperature=0.5, top_p=0.9, stop=("\n",), draft_horizons=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"stop": ("a", "")}, "not empty"),
        ({"draft_horizons": -1}, "draft_horizons is -1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **changed)


def test_statistics_sum_forwards_tokens_and_drafts_per_horizon() -> None:
    one = Decoded("a", (5, 6, 7, 8), "", "", "end", num_forwards=3, drafted_H=(2, 2), accepted_H=(1, 1))
    two = Decoded("b", (5, 6, 7), "", "", "length", num_forwards=3, drafted_H=(2, 2), accepted_H=(0, 0))
    found = DecodingStatistics.of([one, two])
    assert found == DecodingStatistics(2, num_tokens=8, num_forwards=6, drafted_H=(4, 4), accepted_H=(1, 1))
    assert found.tokens_per_forward == pytest.approx(8 / 6)
    assert found.acceptance_H == (0.25, 0.25)


def test_plain_decoding_makes_one_token_a_forward() -> None:
    found = DecodingStatistics.of([Decoded("a", (5, 6), "", "", "end", num_forwards=3, drafted_H=(), accepted_H=())])
    assert (found.tokens_per_forward, found.acceptance_H) == (1.0, ())
    assert DecodingStatistics.of([]).tokens_per_forward == 0.0
