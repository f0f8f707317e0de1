"""`wmtp report` as a whole: what it refuses, and its page in a real browser. Starts no Ray."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.flows.browser import Page, find_chromium, open_browser
from tests.unit.report.saved_runs import HOSTILE, TOKENS, write_evidence, write_run
from wmtp_ray.cli import main
from wmtp_ray.errors import ConfigError
from wmtp_ray.report.write_report import write_report

NOW = datetime(2026, 1, 2, 3, 4)
DRAWN = "document.documentElement.dataset.drawn === 'true'"
PHONE, DESK = 390, 1280
needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium is installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three arms of two seeds; one program is hostile, one arm was not evaluated."""
    root = tmp_path_factory.mktemp("runs")
    passed = {"uniform": [1, 0, 0, 1] * 5, "td": [1, 1, 0, 1] * 5, "rho1": None}
    found = [
        write_run(
            root, f"{weighting}{seed}", weighting=weighting, seed=seed, passed=passed[weighting], warnings=(HOSTILE,)
        )
        for weighting in passed
        for seed in (1, 2)
    ]
    write_evidence(root / "td1", "td", 0.1, (HOSTILE, *TOKENS[1:]))
    return found


@pytest.fixture(scope="module")
def html(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("out") / "report.html", NOW)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser() as tab:
        yield tab


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: $CI_ARTIFACTS, where there is one."""
    kept = os.environ.get("CI_ARTIFACTS")
    return Path(kept) if kept else tmp_path_factory.mktemp("screenshots")


def test_one_folder_gets_its_report_inside_and_several_need_a_name(
    runs: list[Path], capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", str(runs[0])]) == 0
    assert (runs[0] / "report.html").stat().st_size > 4_000_000, "Plotly stands in it"
    assert f"{runs[0] / 'report.html'}: open it" in capsys.readouterr().out
    assert main(["report", *map(str, runs)]) == 2
    assert "add --out" in capsys.readouterr().err


def test_what_is_no_run_and_what_cannot_be_written_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds neither config\.yaml nor sweep\.json"):
        write_report([runs[0], tmp_path], tmp_path / "report.html", NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(runs, tmp_path / "file" / "report.html", NOW)


def test_neither_torch_nor_ray_is_imported(runs: list[Path], tmp_path: Path) -> None:
    program = (
        "import sys; from wmtp_ray.cli import main; "
        f"main(['report', {str(runs[0])!r}, '--out', {str(tmp_path / 'r.html')!r}]); "
        "sys.exit(str({'torch', 'ray', 'mlflow'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == ""


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_the_page_draws_everything_without_an_error(
    page: Page, html: Path, artifacts: Path, width: int, scheme: str
) -> None:
    page.errors.clear()
    page.open(html, width=width, scheme=scheme, ready=DRAWN)
    page.screenshot(artifacts / f"report-{width}-{scheme}.png")
    assert page.errors == []
    assert page.run("window.stolen === undefined"), "a program's text was executed"
    empty = "[...document.querySelectorAll('section')].filter(s => s.querySelector('.blocks').children.length === 0)"
    assert page.run(f"{empty}.map(s => s.id)") == []
    undrawn = (
        "[...document.querySelectorAll('.canvas')].filter(c => !c.closest('details') && !c.querySelector('.trace'))"
    )
    assert page.run(f"{undrawn}.map(c => c.getAttribute('aria-label'))") == []
    assert page.run("document.querySelectorAll('.canvas .main-svg').length") >= 40
    assert page.run("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)")


@needs_browser
def test_texts_of_programs_are_shown_as_they_are(page: Page, runs: list[Path], tmp_path: Path) -> None:
    page.open(write_report([runs[2]], tmp_path / "one.html", NOW), width=DESK, ready=DRAWN)
    assert runs[2].name == "td1"
    expected = "".join((HOSTILE, *TOKENS[1:-1]))
    assert page.run("document.querySelector('.program pre').textContent").replace("↵", "") == f"{expected}⟨end⟩"
    assert page.run("document.images.length") == 0


@needs_browser
def test_another_weighting_recolours_the_tokens_and_hidden_pairs_unfold(page: Page, html: Path) -> None:
    page.open(html, width=DESK, ready=DRAWN)
    tokens = "[...document.querySelectorAll('.program pre span')]"
    coloured = f"{tokens}.filter(s => s.style.getPropertyValue('--a') > 0).length"
    assert page.run(coloured) > 0
    choose = "s => { s.value = 'uniform'; s.dispatchEvent(new Event('change')); }"
    page.run(f"({choose})(document.querySelector('select'))")
    assert page.run(coloured) == 0
    page.run("document.querySelector('details.more').open = true")
    page.wait_for("[...document.querySelectorAll('details.more .canvas')].every(c => c.querySelector('.trace'))")


@needs_browser
def test_it_prints_light_with_its_figures(page: Page, html: Path, artifacts: Path) -> None:
    page.errors.clear()
    page.open(html, width=DESK, scheme="dark", ready=DRAWN)
    pdf = page.print_to_pdf(artifacts / "report.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run("getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()") == "#ffffff"
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert page.run("getComputedStyle(document.documentElement).getPropertyValue('--paper').trim()") == "#14171b"
    assert page.errors == []


@needs_browser
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_no_figure_reaches_over_its_caption(page: Page, html: Path, width: int) -> None:
    page.open(html, width=width, ready=DRAWN)
    captioned = "[...document.querySelectorAll('figure.plot')].filter(f => f.querySelector('figcaption'))"
    box = "f.querySelector('{}').getBoundingClientRect()"
    overlap = f"{box.format('.main-svg')}.bottom - {box.format('figcaption')}.top"
    assert page.run(f"Math.max(...{captioned}.map(f => {overlap}))") <= 0
