"""`wmtp data inspect` as a whole, on generated rows. Starts no Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.cli import main
from wmtp_ray.data.index import build_index, ensure_index, index_path_of, write_index
from wmtp_ray.data.inspect_data import inspect_data
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError, DataError

SMALL_STEPS = ["train.batch_rows=4", "critic_stage.batch_rows=4", "data.valid_problems_frac=0.1"]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Sixty rows of ten problems, half correct, difficulties 1 to 10, no rating."""
    rows = [
        {
            "instruction": f"Print {problem}.",
            "input": "",
            "output": f"print({problem})" if answer % 2 else f"print({problem} + {answer})",
            "task_id": f"p{problem}_{'correct' if answer % 2 else 'incorrect'}_{answer}",
            "is_correct": bool(answer % 2),
            "metadata": {"source": "generated", "difficulty": problem + 1, "has_tests": True, "language": 3},
        }
        for problem in range(10)
        for answer in range(6)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def counted(jsonl: Path, tmp_path: Path) -> Path:
    """The same with an index that has token counts."""
    model = tmp_path / "tokenizer.model"
    train_tokenizer(jsonl.read_text().splitlines(), model, 300)
    ensure_index(jsonl, CodeTokenizer(model), on_error="fail")
    return jsonl


def test_a_file_and_what_a_recipe_would_draw_are_shown_without_a_model(counted: Path, tmp_path: Path) -> None:
    picture = tmp_path / "overview.png"
    text = inspect_data(counted, index_path=None, words=SMALL_STEPS, picture=picture)
    assert "60 rows of 10 problems; 30 rows are correct (50 %)" in text
    assert "What recipe=verifiable would draw" in text
    assert "Plan of stage 1" in text
    assert "Plan of stage 2" in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_words_of_a_launch_choose_recipe_and_sampling(counted: Path) -> None:
    words = ["recipe=baseline", *SMALL_STEPS, "train.sampling.n_samples=8", "data.max_tokens=9"]
    text = inspect_data(counted, index_path=None, words=words, picture=None)
    assert "What recipe=baseline would draw" in text
    assert "Stage 2 cannot be planned: " in text
    assert "data.max_tokens=9 and would be left out" in text


def test_recipes_of_ones_own_are_found(counted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.mine.yaml").write_text("data: {policy_rows: mixed}\nweighting: {type: td}\n")
    (tmp_path / "mine" / "defaults.yaml").write_text("train: {batch_rows: 4}\ncritic_stage: {batch_rows: 4}\n")
    words = ["data", "inspect", str(counted), "recipe=mine", "--config-dir", str(tmp_path / "mine")]
    assert main(words) == 0
    assert "What recipe=mine would draw" in capsys.readouterr().out
    assert main(words[:-2]) == 2
    words = ["evaluate", "--samples", "absent.jsonl", "--dataset", str(counted), "--preset", "mine"]
    assert main([*words, "--config-dir", str(tmp_path / "mine")]) == 2
    assert "there is no preset of that name" in capsys.readouterr().err
    (tmp_path / "mine" / "preset.mine.yaml").write_text("")
    assert main([*words, "--config-dir", str(tmp_path / "mine")]) == 2
    assert "preset" not in capsys.readouterr().err


def test_an_index_without_token_counts_is_shown_and_not_planned(jsonl: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.parquet"
    write_index(build_index(jsonl, on_error="fail"), elsewhere)
    text = inspect_data(jsonl, index_path=elsewhere, words=[], picture=None)
    assert "Lengths in bytes" in text
    assert "Stage 1 cannot be planned: " in text
    assert "have no token counts" in text


def test_problems_are_classed_in_the_languages_that_the_words_choose(counted: Path, tmp_path: Path) -> None:
    text = inspect_data(counted, index_path=None, words=SMALL_STEPS, picture=None)
    assert "here 10 of 10 have any (100 %)" in text
    counts = tmp_path / "counts.json"
    words = [*SMALL_STEPS, "data.languages=[cpp]", "train.sampling.problem_classes=[both]"]
    text = inspect_data(counted, index_path=None, words=words, picture=None, counts=counts)
    assert "Problems by the labels of their rows in data.languages=[cpp]" in text
    assert "train.sampling.problem_classes=[both] leaves no row" in text
    found = json.loads(counts.read_bytes())
    assert found["problem_classes"]["both"] == {"num_problems": 0, "num_rows": 0}
    assert found["problem_classes_of_languages"] == ["cpp"]


def test_mistakes_are_refused(jsonl: Path, counted: Path) -> None:
    with pytest.raises(ConfigError, match="difficulty_bin"):
        inspect_data(counted, index_path=None, words=["train.sampling.difficulty_bin={}"], picture=None)
    jsonl.write_text("")
    with pytest.raises(DataError, match="wmtp data index"):
        inspect_data(jsonl, index_path=None, words=[], picture=None)
    with pytest.raises(DataError, match="found no index"):
        inspect_data(jsonl.with_name("other.jsonl"), index_path=None, words=[], picture=None)


def test_neither_torch_nor_ray_is_imported(counted: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wmtp_ray.data.inspect_data import inspect_data; "
        f"inspect_data(Path({str(counted)!r}), index_path=None, words={SMALL_STEPS!r}, picture=None); "
        "sys.exit(str({'torch', 'ray', 'mlflow', 'pandas', 'matplotlib'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_lines_that_the_index_left_out_are_said(jsonl: Path) -> None:
    row = json.loads(jsonl.read_text().splitlines()[0])
    jsonl.write_text(jsonl.read_text() + json.dumps(row | {"output": " \n"}) + "\n")
    write_index(build_index(jsonl, on_error="skip"), index_path_of(jsonl))
    text = inspect_data(jsonl, index_path=None, words=SMALL_STEPS, picture=None)
    assert "Left out of the index: 1 of 61 lines" in text
    assert 'train.jsonl:61: found no program in "output"' in text
