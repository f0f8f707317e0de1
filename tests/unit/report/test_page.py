"""The page holds together whatever stands in it: hostile texts, missing parts, one run or many."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from wmtp_ray.contracts import StepReport
from wmtp_ray.objective.true_values import AuditedPrefix, value_agreement
from wmtp_ray.report.arms import group_runs
from wmtp_ray.report.blocks import Figure
from wmtp_ray.report.document import render_document
from wmtp_ray.report.page import as_json, css_class, strength, visible
from wmtp_ray.report.saved_run import SavedRun, read_run
from wmtp_ray.report.saved_sweep import read_saved_sweep
from wmtp_ray.report.sections.critic_audits import critic_audit_blocks
from wmtp_ray.tracking.critic_audit import AuditSettings, CriticAudit, write_critic_audit
from wmtp_ray.tracking.decisions import Decisions
from wmtp_ray.tracking.kept_critic import HeldOutReading, KeptCritic
from wmtp_ray.tracking.metrics_file import JsonlSink
from wmtp_ray.tracking.result import read_result, write_result

from .saved_runs import CRITIC_METRICS, HOSTILE, TOKENS, write_config, write_run

SECTIONS = ["summary", "pass-at-k", "learning", "weights", "critic", "tokens", "waiting", "throughput"]
SECTIONS += ["configuration", "warnings"]


class Outline(HTMLParser):
    """What a browser's parser makes of the page: sections, missing parts, elements, texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.sections: list[str] = []
        self.missing = 0
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes += list(given)
        self._inside = tag
        if tag == "section":
            self.sections.append(given.get("id") or "")
        self.missing += given.get("class") == "missing"

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.texts).append(data)


def rendered(*runs: SavedRun) -> str:
    return render_document(runs, [], "Made today.")


def several(root: Path) -> list[SavedRun]:
    return [
        read_run(write_run(root, f"{weighting}{seed}", weighting=weighting, seed=seed, passed=passed))
        for weighting, passed in (("uniform", [1, 0, 0, 1]), ("td", [1, 1, 0, 1]), ("shuffled", [1, 0, 1, 0]))
        for seed in (1, 2)
    ]


def test_several_arms_fill_every_section(tmp_path: Path) -> None:
    outline = Outline(rendered(*several(tmp_path)))
    assert outline.sections == SECTIONS
    text = " ".join(outline.texts)
    for expected in ("baseline", "verifiable", "shuffled", "Wilcoxon p", "against its control shuffled", "sign test p"):
        assert expected in text
    assert "every run" not in text, "nothing warned"


def test_every_section_of_a_run_that_has_only_begun_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_config(tmp_path / "new", "td", 1, {})
    outline = Outline(rendered(read_run(tmp_path / "new")))
    assert outline.sections == SECTIONS
    assert outline.missing == 9, "all but the configuration"
    assert any("wmtp evaluate" in text for text in outline.texts)


def test_one_evaluated_arm_lacks_no_comparison_and_an_unevaluated_reference_is_named(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "a", passed=[1, 0]))
    assert Outline(rendered(run)).missing == 0
    base = read_run(write_run(tmp_path, "base", weighting="uniform"))
    text = " ".join(Outline(rendered(run, base)).texts)
    assert "Differences on tiny: baseline was not evaluated on it" in text
    assert "wmtp evaluate --checkpoint base --dataset tiny" in text


def test_numbers_on_the_page_are_those_of_the_files(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "a", passed=[1, 0, 0], margin=0.0625, warnings=("look at this",)))
    text = " ".join(Outline(rendered(run)).texts)
    for expected in ("33.3\u00a0%", "+0.0625", "0.620", "look at this", "0.710", "80.0\u00a0%", "too low"):
        assert expected in text, expected


def test_answers_are_shown_with_their_verdicts_their_format_and_how_many_are_empty(tmp_path: Path) -> None:
    text = " ".join(Outline(rendered(read_run(write_run(tmp_path, "a", passed=[1, 0, 0])))).texts)
    assert "3 of 9 problems" in text
    assert "completion-stripped" in text
    assert "auto: a reason" in text
    assert "a, t0, answer 0: pass" in text
    assert "return '<b>0'" in text
    assert "a, t1, answer 0: fail: AssertionError" in text
    assert "a: 2 of 3 answers on tiny are empty" in text


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    tokens = (HOSTILE, *TOKENS[1:-1], "'\"><b onclick=x>", "<end>")
    run = write_run(tmp_path, "a", tokens=tokens, warnings=(HOSTILE,), changes={f"tags.{HOSTILE[:20]}": HOSTILE})
    plain = Outline(rendered(read_run(write_run(tmp_path, "b"))))
    page = rendered(read_run(run))
    outline = Outline(page)
    assert sum(HOSTILE in text for text in outline.texts) >= 8, "the tokens of the pairs, the warning, the tag"
    assert (outline.tags.count("script"), outline.tags.count("img"), outline.tags.count("b")) == (3, 0, 0)
    assert set(outline.attributes) == set(plain.attributes)
    assert "onerror=window.stolen=2>" not in page.replace("&lt;", "<").split("<body>")[0]
    (figures,) = [text for text in outline.scripts if text.startswith("[{")]
    assert "<" not in figures
    assert any("&lt;/script&gt;" in str(trace.get("text")) for each in json.loads(figures) for trace in each["traces"])


def test_json_in_a_page_can_end_nothing_and_reads_back() -> None:
    text = as_json({"a": HOSTILE, "b": "it's"})
    assert not set("<>&'\u2028") & set(text)
    assert json.loads(text) == {"a": HOSTILE, "b": "it's"}


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    page = rendered(read_run(write_run(tmp_path, "a")))
    markup = page.split("<script>")[0]
    assert "default-src 'none'" in markup
    assert "http://" not in markup
    assert "https://" not in markup
    assert page.count("plotly.js v") <= 2, "Plotly stands in it once"


@pytest.mark.parametrize(
    ("weight", "classes", "how_strong"),
    [
        (1.0, "down", 0.0),
        (5.0, "up at-max", 1.0),
        (0.1, "down at-min", 1.0),
        (0.0, "dropped", 0.0),
        (-0.25, "pushed", 0.25),
        (-5.0, "pushed", 1.0),
        (5**0.5, "up", 0.5),
    ],
)
def test_a_token_is_coloured_by_the_ratio_of_its_weight_to_one(weight: float, classes: str, how_strong: float) -> None:
    assert css_class(weight, 0.1, 5.0, is_edit=False) == classes
    assert css_class(weight, 0.1, 5.0, is_edit=True) == f"{classes} edit"
    assert strength(weight, 0.1, 5.0) == how_strong


def test_a_run_whose_horizons_come_in_shows_how_many_it_trains(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", passed=[1, 0])
    title = "Horizons that are trained"
    assert title not in rendered(read_run(run))
    sink = JsonlSink(run)
    for step in (30, 31):
        sink.log(StepReport(2, step, {"loss/ce_h1": 1.0, "train/horizons": step - 29.0}))
    sink.close()
    assert title in rendered(read_run(run))


@pytest.mark.parametrize(
    ("weighting", "metric", "column"),
    [
        ("signed", "weight/negative_frac", "pushed down"),
        ("oracle", "edits/partner_frac", "rows compared"),
        ("diff", "edits/differing_frac", "tokens that differ"),
    ],
)
def test_the_table_of_weights_has_the_columns_that_an_arm_reports(
    tmp_path: Path, weighting: str, metric: str, column: str
) -> None:
    plain = rendered(read_run(write_run(tmp_path, "a")))
    run = write_run(tmp_path, "b", weighting=weighting)
    sink = JsonlSink(run)
    sink.log(StepReport(2, 30, {"weight/mean": 1.0, metric: 0.375}))
    sink.close()
    texts = Outline(rendered(read_run(run))).texts
    assert column not in Outline(plain).texts
    assert {column, "37.5\u00a0%"} <= set(texts)


def test_without_a_lower_clip_a_light_token_still_has_a_colour() -> None:
    assert css_class(0.05, 0.0, 5.0, is_edit=False) == "down"
    assert [strength(weight, 0.0, 5.0) for weight in (0.0, 0.05, 0.1, 0.1**0.5, 1.0)] == [0.0, 1.0, 1.0, 0.5, 0.0]


def test_a_line_break_can_be_seen() -> None:
    assert visible("\n    ") == "↵\n    "
    assert visible(" x") == " x"


def test_a_sweep_has_a_section_of_its_own_and_the_runs_of_its_best_points(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    text = " ".join(Outline(page := render_document([], [read_saved_sweep(sweep)], "now")).texts)
    assert Outline(page).sections == ["sweep-1", *SECTIONS]
    for expected in (
        "Point 1 is first",
        "weighting.beta",
        "beta=0.2",
        "weight_collapse",
        "index and plan",
        "0.4000 to 0.6000",
    ):
        assert expected in text, expected
    empty = write_sweep(tmp_path / "empty", with_runs=False)
    assert Outline(render_document([], [read_saved_sweep(empty)], "now")).sections == ["sweep-1"]


def test_a_sweep_over_the_extent_of_training_says_so_before_its_verdict(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path / "sweep", with_runs=False)
    text = " ".join(Outline(render_document([], [read_saved_sweep(directory)], "now")).texts)
    assert "which may decide alone" not in text, "beta does not make a training longer"
    content = json.loads((directory / "sweep.json").read_text())
    content["space"] = {"weighting.beta": [0.2, 0.9], "train.max_steps": [10, 20]}
    (directory / "sweep.json").write_text(json.dumps(content))
    text = " ".join(Outline(render_document([], [read_saved_sweep(directory)], "now")).texts)
    words = "The points differ in how long or from where they train (train.max_steps), which may decide alone."
    assert text.index(words) < text.index("Point 1 is first")


def write_sweep(directory: Path, *, with_runs: bool = True) -> Path:
    """A sweep of two points with two seeds each, of which one was stopped; sweep.json as `tracking/sweep_result.py`."""
    trials, points = [], []
    for point, beta in ((1, 0.2), (0, 0.9)):
        for seed in (1, 2):
            name = f"point_{point}_seed_{seed}"
            if with_runs:
                write_run(directory, name, seed=seed, changes={"weighting.beta": beta}, num_steps=2)
            stopped = (point, seed) == (0, 2)
            trials.append(
                {
                    "name": name,
                    "point": point,
                    "run_dir": name,
                    "status": "stopped" if stopped else "finished",
                    "stop_reason": "weight_collapse" if stopped else None,
                }
            )
        values = {"1": 0.5} | ({"2": 0.5} if point == 1 else {})
        points.append(
            {
                "point": point,
                "overrides": {"weighting.beta": beta},
                "mean": 0.5,
                "low": 0.4 if point == 1 else None,
                "high": 0.6 if point == 1 else None,
                "values": values,
                "statuses": {"finished": len(values)},
            }
        )
    directory.mkdir(exist_ok=True)
    content = {
        "search": "grid",
        "space": {"weighting.beta": [0.2, 0.9]},
        "objective": {"metric": "held_out/loss_correct", "mode": "min"},
        "interval": "Student's t over seeds, 95%",
        "shared": ["index and plan"],
        "trials": trials,
        "points": points,
        "verdict": "Point 1 is first, but its interval overlaps.",
    }
    (directory / "sweep.json").write_text(json.dumps(content))
    return directory


def test_the_gate_is_never_passed_without_a_word_on_what_the_critic_does_not_beat(tmp_path: Path) -> None:
    run = write_run(tmp_path, "passes", weighting="td", passed=[1])
    metrics = CRITIC_METRICS | {"critic/baseline_token_identity_pair_accuracy": 0.9}
    (run / "stage_result.json").write_text(json.dumps({"health": {"metrics": metrics, "failures": []}}))
    text = " ".join(Outline(rendered(read_run(run))).texts)
    assert "passes the gate" in text
    assert "It does not beat: token identity (pair accuracy 0.700 against 0.900); bag of tokens" in text
    assert "Not measured: position, problem base rate, the policy's own log-likelihood." in text


def test_a_critic_that_was_kept_is_shown_with_its_readings(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    assert "kept after step" not in rendered(read_run(run))
    readings = (HeldOutReading(10, 0.25), HeldOutReading(20, 0.2125), HeldOutReading(30, 0.2618))
    kept = KeptCritic(20, 0.2125, 30, 120, readings)
    write_result(run, replace(read_result(run), decisions=Decisions(critic=kept)))
    with (run / "metrics.jsonl").open("a") as file:
        for reading in readings:
            file.write(f'{{"stage":1,"step":{reading.step - 1},"time":0,"held_out/critic_loss":{reading.loss}}}\n')
    page = rendered(read_run(run))
    for told in ("kept after step", "0.2125", "30 of 120", "10: 0.2500, 20: 0.2125, 30: 0.2618"):
        assert told in page
    assert "Held-out loss of the critic in stage 1" in page


def test_an_audit_of_a_critic_is_shown_by_stratum_with_its_calibration(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a")
    assert "Calibration of V" not in rendered(read_run(run))
    prefixes = (
        AuditedPrefix("p", True, 0, 1, 3, 0.75, 4, 4),
        AuditedPrefix("p", True, 0, 2, 3, 0.25, 1, 4),
        AuditedPrefix("q", False, None, 3, 5, 0.125, 3, 4),
    )
    agreement = {"all": value_agreement(prefixes), "at the edit": value_agreement(prefixes[:2])}
    settings = AuditSettings(rollouts=4, problems=2, seed=1)
    write_critic_audit(run, CriticAudit(settings, "final", "critic/final", 2, 2, 1, 0, agreement, prefixes))
    page = rendered(read_run(run))
    for told in ("2 at the edit", "Monte Carlo", "Calibration of V", "0.500 [", "] of 1<", "continuations that pass"):
        assert told in page
    figure = critic_audit_blocks(group_runs([read_run(run)]))[1]
    assert isinstance(figure, Figure)
    assert (figure.traces[0]["x"], figure.traces[0]["y"]) == ([0.125, 0.25, 0.75], [0.75, 0.25, 1.0])


def test_a_frozen_critic_s_head_and_drift_have_figures_of_their_own(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path, "own")), read_run(write_run(tmp_path, "frozen", seed=2))]
    titles = {"own": "Drift of V since the start of stage 2: KL", "frozen": "Value loss of the policy&#39;s own head"}
    for run in runs:
        assert not any(title in rendered(run) for title in titles.values())
    more = {"own": "critic/drift_kl", "frozen": "policy_head/value_loss"}
    for run in runs:
        curves = run.curves[2]
        curves.metrics[more[run.name]] = curves.steps * 0.01
        assert [name for name, title in titles.items() if title in rendered(run)] == [run.name]
