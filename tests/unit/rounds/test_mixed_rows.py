"""What a round trains on: the share is exact, the draw is the round's own, and no program counts twice."""

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import build_index
from wmtp_ray.errors import DataError
from wmtp_ray.rounds.mixed_rows import Mix, mix_rows, rows_of_share

MIX = Mix(share=0.5, only_correct=False, seed=7, number=0)


def row(program: str, is_correct: bool, problem: str = "list_1", origin: str = "0") -> bytes:
    label = "correct" if is_correct else "incorrect"
    values = {
        "instruction": f"Solve {problem}.", "input": "", "output": program, "is_correct": is_correct,
        "task_id": f"{problem}_{label}_{origin}",
        "metadata": {"source": "list_tasks", "difficulty": 1, "has_tests": True, "language": 3},
    }  # fmt: skip
    return json.dumps(values).encode() + b"\n"


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def file_of(path: Path, num_correct: int, num_incorrect: int) -> RowIndex:
    rows = [row(f"x = {n}", n < num_correct, "list_9", str(n)) for n in range(num_correct + num_incorrect)]
    return build_index(written(path, *rows), on_error="fail").index


def collected(path: Path, num_correct: int, num_incorrect: int) -> Path:
    rows = [row(f"y = {n}", n < num_correct, origin=f"a-{n}") for n in range(num_correct + num_incorrect)]
    return written(path, *rows)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, (40, 40)), (0.25, (100, 33)), (0.8, (10, 40)), (1.0, (0, 40)), (0.0, (100, 0)), (None, (100, 40))],
)
def test_the_side_that_has_too_few_rows_decides_how_many_there_are(share, expected):
    assert rows_of_share(100, 40, share) == expected


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 99))
def test_a_share_is_exact_to_one_row_and_takes_one_side_whole(num_file, num_collected, percent):
    share = Fraction(percent, 100)
    of_file, of_collected = rows_of_share(num_file, num_collected, float(share))
    assert 0 <= of_file <= num_file
    assert 0 <= of_collected <= num_collected
    assert of_file == num_file or of_collected == num_collected
    off = of_collected * (1 - share) - of_file * share  # 0 where the share is exact
    assert abs(off) <= max(share, 1 - share) / 2


def test_the_rows_are_whole_lines_of_both_sides_in_the_share_asked_for(tmp_path):
    file, rows = file_of(tmp_path / "file.jsonl", 4, 16), collected(tmp_path / "rows.jsonl", 3, 5)
    mixed = mix_rows(out := tmp_path / "mixed" / "round_0.jsonl", file, [rows], MIX)
    assert (mixed.from_file, mixed.from_file_of, mixed.collected, mixed.collected_of) == (8, 20, 8, 8)
    lines = out.read_bytes().splitlines(keepends=True)
    known = (tmp_path / "file.jsonl").read_bytes().splitlines(keepends=True)
    assert len(set(lines) & set(known)) == 8
    assert lines[8:] == rows.read_bytes().splitlines(keepends=True)


def test_without_a_share_all_rows_of_both_are_there_and_with_one_none_of_the_file(tmp_path):
    file, rows = file_of(tmp_path / "file.jsonl", 4, 16), collected(tmp_path / "rows.jsonl", 3, 5)
    every = mix_rows(tmp_path / "all.jsonl", file, [rows], replace(MIX, share=None))
    assert (every.from_file, every.collected) == (20, 8)
    alone = mix_rows(tmp_path / "alone.jsonl", None, [rows], replace(MIX, share=1.0))
    assert (alone.from_file, alone.collected) == (0, 8)
    assert (tmp_path / "alone.jsonl").read_bytes() == rows.read_bytes()


def test_where_only_correct_rows_are_read_the_share_is_one_of_correct_rows(tmp_path):
    file, rows = file_of(tmp_path / "file.jsonl", 4, 16), collected(tmp_path / "rows.jsonl", 3, 5)
    mix_rows(out := tmp_path / "mixed.jsonl", file, [rows], replace(MIX, only_correct=True))
    labels = Counter(json.loads(line)["is_correct"] for line in out.read_bytes().splitlines())
    assert labels == {True: 6}


def test_rounds_draw_different_rows_of_the_file_and_one_round_the_same_again(tmp_path):
    file, rows = file_of(tmp_path / "file.jsonl", 40, 60), collected(tmp_path / "rows.jsonl", 10, 10)
    drawn = [
        mix_rows(tmp_path / f"{name}.jsonl", file, [rows], replace(MIX, number=number)).sha256
        for name, number in (("first", 0), ("again", 0), ("second", 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_program_of_several_rounds_counts_once_with_its_newest_row(tmp_path):
    old = written(tmp_path / "old.jsonl", row("y = 1", True, origin="old"), row("y = 2", False, origin="old"))
    new = written(tmp_path / "new.jsonl", row("y  =  1  # the same", True, origin="new"))
    mixed = mix_rows(out := tmp_path / "mixed.jsonl", None, [old, new], replace(MIX, share=1.0))
    assert (mixed.collected, mixed.repeated, mixed.contradicted) == (2, 1, 0)
    assert [json.loads(line)["task_id"] for line in out.read_bytes().splitlines()] == [
        "list_1_incorrect_old",
        "list_1_correct_new",
    ]


def test_the_same_program_of_another_problem_is_another_row(tmp_path):
    rows = written(tmp_path / "rows.jsonl", row("y = 1", True, "list_1"), row("y = 1", False, "list_2"))
    assert mix_rows(tmp_path / "mixed.jsonl", None, [rows], replace(MIX, share=1.0)).collected == 2


def test_a_program_whose_rounds_contradict_each_other_is_no_row(tmp_path):
    old = written(tmp_path / "old.jsonl", row("y = 1", False, origin="old"), row("y = 2", True))
    new = written(tmp_path / "new.jsonl", row("y = 1", True, origin="new"))
    mixed = mix_rows(out := tmp_path / "mixed.jsonl", None, [old, new], replace(MIX, share=1.0, only_correct=True))
    assert (mixed.collected, mixed.repeated, mixed.contradicted) == (1, 1, 1)
    assert [json.loads(line)["output"] for line in out.read_bytes().splitlines()] == ["y = 2"]


@pytest.mark.parametrize(("num_collected", "share"), [(0, 0.5), (0, 1.0), (1, 0.01)])
def test_a_share_that_cannot_be_kept_is_refused_and_not_replaced_by_another(tmp_path, num_collected, share):
    file = file_of(tmp_path / "file.jsonl", 5, 5)
    rows = collected(tmp_path / "rows.jsonl", num_collected, 0)
    with pytest.raises(DataError, match=rf"round 0: found .* and {num_collected} collected ones.*rounds.num_samples"):
        mix_rows(tmp_path / "mixed.jsonl", None if share == 1.0 else file, [rows], replace(MIX, share=share))
    assert not (tmp_path / "mixed.jsonl").exists()


def test_rows_of_other_collected_rows_or_settings_are_made_anew_and_others_are_kept(tmp_path):
    file, rows = file_of(tmp_path / "file.jsonl", 5, 5), collected(tmp_path / "rows.jsonl", 2, 2)
    out = tmp_path / "mixed.jsonl"
    first = mix_rows(out, file, [rows], MIX)
    written_at = out.stat().st_mtime_ns
    assert mix_rows(out, file, [rows], MIX) == first
    assert out.stat().st_mtime_ns == written_at
    collected(rows, 4, 2)
    assert mix_rows(out, file, [rows], MIX).collected == 6
    assert mix_rows(out, file, [rows], replace(MIX, share=None)).from_file == 10


def test_labels_that_stand_in_another_file_move_into_the_rows(tmp_path):
    lines = [json.loads(line) for line in row("x = 1", True).splitlines() + row("x = 2", False).splitlines()]
    for line in lines:
        del line["is_correct"]
    path = written(tmp_path / "train.jsonl", *(json.dumps(line).encode() + b"\n" for line in lines))
    labels = [{"is_correct": label, "difficulty": 1, "problem_id": "list_1"} for label in (True, False)]
    (tmp_path / "train_metadata.json").write_text(json.dumps({"metadata": labels}))
    rows = collected(tmp_path / "rows.jsonl", 2, 0)
    mix_rows(out := tmp_path / "mixed.jsonl", build_index(path, on_error="fail").index, [rows], MIX)
    assert [json.loads(line)["is_correct"] for line in out.read_bytes().splitlines()] == [True, False, True, True]
