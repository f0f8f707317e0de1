"""The summary tells what differs in training first, and a verdict on unequal training says that it is confounded."""

import json
from dataclasses import asdict
from pathlib import Path

from wmtp_ray.report.arms import group_runs, reference_arm
from wmtp_ray.report.blocks import Bullets, Section, Table, Words
from wmtp_ray.report.document import sections_of
from wmtp_ray.report.saved_run import SavedRun, read_run
from wmtp_ray.tracking.training_record import record_of_run

from .saved_runs import write_run

HARD, GAIN = [0] * 40, [1] * 20 + [0] * 20


def trained(
    root: Path,
    name: str,
    weighting: str,
    passed: list[int],
    *,
    steps: int = 30,
    start: str = "nano",
    seed: int = 1,
) -> SavedRun:
    """A run that started from the policy with the hash `start`."""
    run = write_run(
        root,
        name,
        weighting=weighting,
        passed=passed,
        num_steps=steps,
        seed=seed,
        changes={"model.path": start},
    )
    begun = {"path": f"/models/{start}", "weights_sha256": start, "training": None}
    (run / "start.json").write_text(json.dumps({"weighting": weighting, "start": begun}))
    return read_run(run)


def summary_of(*runs: SavedRun) -> Section:
    section = sections_of(group_runs(runs))[0]
    assert section.anchor == "summary"
    return section


def lead_of(section: Section) -> str:
    return next(block.text for block in section.blocks if isinstance(block, Words) and block.role == "lead")


def test_a_ceiling_is_called_one_alone_and_beside_others(tmp_path: Path) -> None:
    baseline, oracle = trained(tmp_path, "a", "uniform", HARD), trained(tmp_path, "b", "oracle", GAIN)
    for section in (summary_of(oracle), summary_of(baseline, oracle)):
        items = [item for block in section.blocks if isinstance(block, Bullets) for item in block.items]
        (told,) = [item for item in items if "ceiling" in item]
        assert " is a ceiling, not a method: its weights come from the rows of the other class" in told
    assert all(
        "ceiling" not in item
        for block in summary_of(baseline).blocks
        if isinstance(block, Bullets)
        for item in block.items
    )


def test_what_differs_in_training_stands_before_the_verdict(tmp_path: Path) -> None:
    section = summary_of(trained(tmp_path, "a", "uniform", HARD), trained(tmp_path, "b", "td", GAIN, steps=40))
    first = section.blocks[0]
    assert isinstance(first, Table)
    rows = {row[0]: row[1:] for row in first.rows}
    assert first.header[1:] == ("baseline", "verifiable")
    assert rows["steps"] == ("30", "40")
    assert rows["started from"] == ("nano (nano)", "nano (nano)")
    assert rows["weighting"] == ("uniform", "td")
    assert rows["rows"] == ("correct_only", "mixed")


def test_a_verdict_after_unequal_steps_says_so(tmp_path: Path) -> None:
    section = summary_of(trained(tmp_path, "a", "uniform", HARD), trained(tmp_path, "b", "td", GAIN, steps=40))
    lead = lead_of(section)
    assert lead.startswith("verifiable solves more problems of tiny than baseline")
    assert "This comparison is confounded: verifiable trained 40 steps and baseline 30" in lead


def test_a_verdict_after_another_start_says_so_though_nothing_can_be_told(tmp_path: Path) -> None:
    section = summary_of(trained(tmp_path, "a", "uniform", HARD), trained(tmp_path, "b", "td", HARD, start="other"))
    assert "cannot be told apart" in lead_of(section)
    clause = "This comparison is confounded: baseline started from nano (nano), verifiable from other (other)"
    assert clause in lead_of(section)


def test_equal_training_is_not_called_confounded(tmp_path: Path) -> None:
    section = summary_of(
        trained(tmp_path, "a", "uniform", HARD),
        trained(tmp_path, "b", "td", GAIN),
        trained(tmp_path, "c", "shuffled", HARD),
    )
    words = [
        lead_of(section),
        *(text for block in section.blocks if isinstance(block, Bullets) for text in block.items),
    ]
    assert len(words) == 3, "method, control, and method against control"
    assert not any("confounded" in text for text in words)


def test_one_seed_with_other_steps_is_enough(tmp_path: Path) -> None:
    section = summary_of(
        *(trained(tmp_path, f"a{seed}", "uniform", HARD, seed=seed) for seed in (1, 2)),
        *(trained(tmp_path, f"b{seed}", "td", GAIN, seed=seed, steps=30 + (seed == 2)) for seed in (1, 2)),
    )
    assert "confounded: verifiable trained 31 steps and baseline 30" in lead_of(section)


def test_an_evaluated_checkpoint_counts_with_its_own_steps(tmp_path: Path) -> None:
    """The run went on after the evaluation: its folder tells 40 steps, the results those of the policy they are of."""
    base, method = trained(tmp_path, "a", "uniform", HARD, steps=40), trained(tmp_path, "b", "td", GAIN, steps=40)
    path = tmp_path / "b" / "eval" / "tiny" / "results.json"
    content = json.loads(path.read_text())
    content["sources"]["training"] = asdict(record_of_run(tmp_path / "b", 25))
    path.write_text(json.dumps(content))
    assert "confounded" not in lead_of(summary_of(base, method))
    assert "confounded: verifiable trained 25 steps and baseline 40" in lead_of(summary_of(base, read_run(method.path)))


def test_the_reference_is_the_uniform_arm_that_trained_as_the_others_did(tmp_path: Path) -> None:
    """The run that all start from is a baseline too, and comes first by its name."""
    arms = group_runs(
        [
            trained(tmp_path, "a-base", "uniform", HARD, steps=240, start="nano"),
            trained(tmp_path, "b-baseline", "uniform", HARD, start="base"),
            trained(tmp_path, "c-verifiable", "td", HARD, start="base"),
        ]
    )
    assert reference_arm(arms).runs[0].name == "b-baseline"


def test_a_run_that_fell_back_is_told_and_counts_as_what_it_ran_with(tmp_path: Path) -> None:
    trained(tmp_path, "back", "td", HARD)
    begun = {"path": "/models/nano", "weights_sha256": "nano", "training": None}
    (tmp_path / "back" / "start.json").write_text(json.dumps({"weighting": "uniform", "start": begun}))
    back = read_run(tmp_path / "back")
    told = (
        "back was asked for weighting.type=td and ran with uniform weights (critic.gate): it counts as uniform on "
        "mixed rows."
    )
    for runs in ([back], [back, trained(tmp_path, "method", "td", GAIN)]):
        bullets = [text for block in summary_of(*runs).blocks if isinstance(block, Bullets) for text in block.items]
        assert told in bullets
