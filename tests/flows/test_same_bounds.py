"""One saved evaluation, read by everything that shows Pass@K: all show the same bounds."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from tests.unit.evaluation.test_results import results_of
from tests.unit.report.saved_runs import write_run
from wmtp_ray.evaluation.compare import compare
from wmtp_ray.evaluation.results import EvaluationResults, read_results, write_results
from wmtp_ray.flows.evaluate.evaluate_run import render_results
from wmtp_ray.report.arms import group_runs, reference_arm
from wmtp_ray.report.comparison import DatasetComparison, compare_datasets
from wmtp_ray.report.document import render_document
from wmtp_ray.report.quickstart_summary import QuickstartArm, differences_between, share_of
from wmtp_ray.report.quickstart_tables import pass_table
from wmtp_ray.report.saved_run import SavedRun, read_run

# Passed, of three answers each; one problem could not be judged often enough for K = 3.
PASSED = {
    "baseline": [0, 1, 3, 0, 0, 2, 1, 0, 0, 3, 0, 0, 1, 0, 0, 0, 2],
    "verifiable": [1, 3, 3, 0, 2, 2, 3, 0, 0, 3, 1, 0, 3, 1, 0, 2, 3],
}
EARLIER = {"low": 0.0, "high": 0.0}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with an evaluation; that of `verifiable` has the bounds of an earlier version's rule."""
    root = tmp_path_factory.mktemp("runs")
    for name, weighting in (("baseline", "uniform"), ("verifiable", "td")):
        run = write_run(root, name, weighting=weighting)
        statuses = {f"t{place}": ["pass"] * each + ["fail"] * (3 - each) for place, each in enumerate(PASSED[name])}
        results = results_of(statuses | {"last": ["pass", "error", "error"]}, ks=(1, 3))
        (run / "eval" / "humaneval").mkdir(parents=True)
        file = write_results(run / "eval" / "humaneval", results)
        if name == "verifiable":
            content = orjson.loads(file.read_bytes())
            content["pass_at_k"] = {k: each | EARLIER for k, each in content["pass_at_k"].items()}
            file.write_bytes(orjson.dumps(content))
    return root


def results_in(root: Path) -> dict[str, EvaluationResults]:
    return {name: read_results(root / name / "eval" / "humaneval") for name in PASSED}


def compared(runs: list[SavedRun], k: int) -> DatasetComparison:
    arms = group_runs(runs)
    return next(each for each in compare_datasets(arms, reference_arm(arms)) if each.k == k)


@pytest.mark.parametrize("k", [1, 3])
def test_an_estimate_has_one_interval_in_files_tables_metrics_quickstart_and_report(evaluated: Path, k: int) -> None:
    found = results_in(evaluated)
    comparison = compared([read_run(evaluated / name) for name in PASSED], k)
    for score in comparison.scores:
        results = found[score.arm.name]
        estimate = results.pass_at_k[str(k)]
        bounds = (estimate.low, estimate.high)
        assert 0.0 < bounds[0] < estimate.value < bounds[1] < 1.0
        assert (score.interval.low, score.interval.high) == bounds, "report"
        metrics = results.metrics()
        assert tuple(metrics[f"eval/humaneval/pass@{k}/ci_{end}"] for end in ("low", "high")) == bounds, "metrics"
        assert (share_of(estimate).low, share_of(estimate).high) == bounds, "quickstart.json"
        assert f"[{bounds[0]:.3f}, {bounds[1]:.3f}]" in render_results([results]), "the table of an evaluation"
    written = orjson.loads((evaluated / "baseline" / "eval" / "humaneval" / "results.json").read_bytes())
    assert written["pass_at_k"][str(k)] == dataclasses.asdict(found["baseline"].pass_at_k[str(k)]), "results.json"


@pytest.mark.parametrize("k", [1, 3])
def test_a_difference_has_one_interval_in_compare_and_report(evaluated: Path, k: int) -> None:
    found = results_in(evaluated)
    comparison = compare(found["baseline"], found["verifiable"])
    here = comparison.differences[str(k)]
    (there,) = compared([read_run(evaluated / name) for name in PASSED], k).differences
    assert (there.problems.difference.low, there.problems.difference.high) == (here.low, here.high)
    assert there.problems.difference.value == here.value
    assert f"[{here.low:+.3f}, {here.high:+.3f}]" in comparison.render()
    if k == 1:
        assert differences_between(found)["verifiable minus baseline"] == here


def test_the_page_and_the_quickstarts_table_show_these_bounds(evaluated: Path) -> None:
    found = results_in(evaluated)
    page = _Text(render_document([read_run(evaluated / name) for name in PASSED], [], "Made today."))
    for name, results in found.items():
        estimate = results.pass_at_k["1"]
        assert f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f} %" in page.text, name
    arms = {
        name: QuickstartArm(name, None, 60, 6000, share_of(results.pass_at_k["1"]), None, None, 1.0)
        for name, results in found.items()
    }
    shown = pass_table(arms)
    for name, results in found.items():
        estimate = results.pass_at_k["1"]
        assert f"[{estimate.low:.3f}, {estimate.high:.3f}]" in shown, name


class _Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "
