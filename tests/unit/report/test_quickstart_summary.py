"""The quickstart claims what its arms show after equal training, and says so when nothing can be told."""

import dataclasses
from pathlib import Path

import orjson

from tests.documents import ROOT
from tests.unit.evaluation.test_results import results_of
from tests.unit.tracking.trained_runs import record
from wmtp_ray.evaluation.results import EvaluationResults
from wmtp_ray.report.quickstart_summary import (
    EXPLANATION,
    PUBLISHED_CEILING,
    QuickstartArm,
    QuickstartSummary,
    Share,
    differences_between,
    verdict_sentences,
    write_summary,
)
from wmtp_ray.tracking.training_record import Start

BASE = Start("/runs/base/final", "base-file", record("base", Start("/models/nano", "nano-file", None)))


def evaluated(name: str, num_passed: int, *, steps: int = 60, tokens: int = 6000) -> EvaluationResults:
    """An arm that solves so many of 40 problems."""
    found = results_of({str(task): ["pass" if task < num_passed else "fail"] for task in range(40)}, ks=(1,))
    training = record(name, BASE, steps=steps, tokens=tokens, weighting=name)
    sources = dataclasses.replace(found.sources, answers_path=f"/runs/{name}/final", training=training)
    identity = found.identity | {"answers": {"model": {"weights_sha256": name}}}
    return dataclasses.replace(found, sources=sources, identity=identity)


def arms(baseline: int, verifiable: int, shuffled: int, **changes: int) -> dict[str, EvaluationResults]:
    return {
        "baseline": evaluated("baseline", baseline),
        "verifiable": evaluated("verifiable", verifiable, **changes),
        "shuffled": evaluated("shuffled", shuffled),
    }


def test_it_names_the_winner_first_with_the_difference_and_its_interval() -> None:
    results = arms(15, 30, 15)
    found = differences_between(results)["verifiable minus baseline"]
    assert found.value == 15 / 40
    numbers = f"difference +37.5 points, 95 % interval [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    won = "verifiable solves more of the 40 held-out problems than baseline: 75.0 % against 37.5 %"
    assert verdict_sentences(results, arms(15, 15, 15))[1] == f"{won}, {numbers}."
    lost = verdict_sentences(arms(30, 15, 15), results)[1]
    turned = "baseline solves more of the 40 held-out problems than verifiable: 75.0 % against 37.5 %"
    assert lost == f"{turned}, {numbers}."


def test_where_the_interval_holds_zero_nothing_is_told_and_the_reason_is_given() -> None:
    sentences = verdict_sentences(arms(15, 16, 15), arms(15, 15, 15))
    assert sentences[1].startswith("No difference is shown between verifiable and baseline on 40 held-out problems: ")
    assert "nothing shows that it matters where they lie" in sentences[3]
    assert sentences[5].startswith("The ceiling: with a critic that knows every bug, 100 steps from such a base ")
    assert sentences[6].startswith("Weights win as far as the critic sees which token is wrong")
    assert "docs/results/evidence.md" in sentences[7]


def test_a_win_is_not_explained_away_and_is_not_made_more_than_one_seed() -> None:
    sentences = verdict_sentences(arms(5, 35, 5), arms(5, 5, 5))
    assert not any("as far as the critic sees" in sentence for sentence in sentences)
    assert sentences[-1].startswith("One seed")


def test_programs_drawn_at_temperature_1_have_a_winner_of_their_own() -> None:
    sentence = verdict_sentences(arms(5, 35, 5), arms(30, 10, 5))[4]
    assert sentence.startswith(
        "Drawn at temperature 1: baseline solves more of the 40 held-out problems than verifiable"
    )


def test_equal_training_is_said_with_its_steps_and_tokens() -> None:
    first = verdict_sentences(arms(5, 5, 5, tokens=6050), arms(5, 5, 5))[0]
    assert first == "Equal training: every arm took 60 steps from the same start, on 6,000 to 6,050 supervised tokens."


def test_unequal_training_is_said_instead() -> None:
    first = verdict_sentences(arms(5, 35, 5, steps=180), arms(5, 5, 5))[0]
    assert "This comparison is confounded: verifiable trained 180 steps and baseline 60" in first


def test_the_ceiling_is_the_one_that_is_published() -> None:
    published = (ROOT / EXPLANATION).read_text(encoding="utf-8")
    assert f"| oracle | 100 | 1 | {PUBLISHED_CEILING:.3f} |" in published


def test_the_record_holds_every_arm_with_its_training_and_result(tmp_path: Path) -> None:
    arm = QuickstartArm("/runs/a", "hash", 60, 6000, Share(0.5, 0.4, 0.6, 300), Share(0.3, 0.2, 0.4, 300), None, 12.0)
    summary = QuickstartSummary(arm, {"baseline": arm}, {}, {}, ("A sentence.",), 99.0)
    write_summary(tmp_path / "quickstart.json", summary)
    found = orjson.loads((tmp_path / "quickstart.json").read_bytes())
    assert found["arms"]["baseline"] == {
        "run": "/runs/a",
        "started_from": "hash",
        "steps": 60,
        "supervised_tokens": 6000,
        "greedy": {"estimate": 0.5, "low": 0.4, "high": 0.6, "num_problems": 300},
        "t1": {"estimate": 0.3, "low": 0.2, "high": 0.4, "num_problems": 300},
        "critic_health": None,
        "seconds": 12.0,
    }
