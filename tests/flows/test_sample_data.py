"""`wmtp data sample`: whole rows of few problems, labels of a problem in halves, the same for the same seed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from wmtp_ray.cli import main
from wmtp_ray.data.index import build_index, index_path_of, write_index

NUM_PROBLEMS, NUM_CORRECT, NUM_INCORRECT = 20, 9, 5


def row(problem: int, number: int, *, is_correct: bool) -> dict[str, object]:
    return {
        "instruction": f"Do {problem}.",
        "input": "",
        "output": f"print({number})",
        "task_id": f"p {problem}_{'correct' if is_correct else 'incorrect'}_{number}",
        "is_correct": is_correct,
        "metadata": {"source": "made_up", "difficulty": 7, "has_tests": True},
    }


@pytest.fixture
def rows() -> list[dict[str, object]]:
    numbers = range(NUM_CORRECT + NUM_INCORRECT)
    return [row(problem, n, is_correct=n < NUM_CORRECT) for n in numbers for problem in range(NUM_PROBLEMS)]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(each)}\n" for each in rows), encoding="utf-8")
    return path


def indexed(path: Path) -> Path:
    write_index(build_index(path, on_error="fail"), index_path_of(path))
    return path


def sample(source: Path, out: Path, *words: str) -> list[str]:
    assert main(["data", "sample", str(source), "--out", str(out), *words]) == 0
    return out.read_text(encoding="utf-8").splitlines()


def test_few_problems_with_both_labels_copied_in_order(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    source = indexed(write(tmp_path / "train.jsonl", rows))
    lines = sample(source, tmp_path / "new" / "small.jsonl", "--problems", "4", "--rows-per-problem", "12")
    positions = [source.read_text(encoding="utf-8").splitlines().index(line) for line in lines]
    assert positions == sorted(set(positions))
    drawn = Counter((each["instruction"], each["is_correct"]) for each in map(json.loads, lines))
    assert sorted(drawn.values()) == [5] * 4 + [6] * 4, "6 of 9 correct rows and all 5 incorrect ones, of 4 problems"


def test_the_seed_decides(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    source = indexed(write(tmp_path / "train.jsonl", rows))
    drawn = [
        sample(source, tmp_path / f"{name}.jsonl", "--problems", "4", "--seed", seed)
        for name, seed in (("first", "0"), ("again", "0"), ("other", "1"))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_labels_from_a_file_beside_move_into_the_rows(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    bare = [{key: value for key, value in each.items() if key not in ("is_correct", "metadata")} for each in rows]
    source = write(tmp_path / "train.jsonl", bare)
    labels = [{"is_correct": each["is_correct"], "difficulty": 7, "problem_id": 0} for each in rows]
    (tmp_path / "train_metadata.json").write_text(json.dumps({"metadata": labels}), encoding="utf-8")
    sample(indexed(source), tmp_path / "small.jsonl", "--problems", "3")
    index = build_index(tmp_path / "small.jsonl", on_error="fail").index
    assert len(index.problem_names) == 3
    assert index.is_correct_R.sum() == 3 * 8
    assert set(index.difficulty_R.tolist()) == {7}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--problems", "0"], "found 0 problems"), (["--rows-per-problem", "1"], "of 1 rows, expected at least 1 of 2")],
)
def test_nothing_to_draw_is_refused(
    tmp_path: Path,
    rows: list[dict[str, object]],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    source = indexed(write(tmp_path / "train.jsonl", rows))
    assert main(["data", "sample", str(source), "--out", str(tmp_path / "small.jsonl"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "small.jsonl").exists()


def test_a_file_that_is_there_is_left_alone(
    tmp_path: Path, rows: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = indexed(write(tmp_path / "train.jsonl", rows))
    assert main(["data", "sample", str(source), "--out", str(source)]) == 2
    assert "expected a new name" in capsys.readouterr().err
    assert len(source.read_text(encoding="utf-8").splitlines()) == len(rows)
