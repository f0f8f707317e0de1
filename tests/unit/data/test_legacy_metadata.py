"""Files of the earlier generation: labels beside the rows instead of in them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data import index_processes
from wmtp_ray.data.index import build_index, ensure_index, index_path_of, load_built_index, write_index
from wmtp_ray.data.rows import read_rows
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError

MakeRecord = Callable[..., dict[str, object]]
SameIndex = Callable[[RowIndex, RowIndex], None]
LABELS = [(True, 7), (False, 9), (True, 11), (False, 7), (True, 0)]
PROBLEMS = ["b", "a b.c", "b", "c", "a b.c"]


@pytest.fixture
def records(record: MakeRecord) -> list[dict[str, object]]:
    """Five complete records; each test takes out what its rows lack."""
    return [
        record(task_id=f"{problem}_{n}_correct_{n}", is_correct=correct, metadata={"difficulty": difficulty})
        for n, (problem, (correct, difficulty)) in enumerate(zip(PROBLEMS, LABELS, strict=True))
    ]


def without(record: dict[str, object], *keys: str) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in keys}


def write_rows(path: Path, records: list[dict[str, object] | str]) -> Path:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def write_labels(jsonl: Path, labels: list[tuple[bool, int]], problem_ids: list[str] | list[int]) -> None:
    entries = [
        {"is_correct": correct, "difficulty": difficulty, "problem_id": problem_id}
        for (correct, difficulty), problem_id in zip(labels, problem_ids, strict=True)
    ]
    content = {"metadata": entries, "problem_index_map": {"b": [0, 2]}, "stats": {"total": len(entries)}}
    jsonl.with_name(f"{jsonl.stem}_metadata.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("lacking", [["is_correct", "metadata"], ["metadata"], ["is_correct"]])
def test_rows_take_the_labels_they_lack_from_the_file_beside(
    tmp_path: Path, records: list[dict[str, object]], lacking: list[str]
) -> None:
    mixed = [records[0], *(without(each, *lacking) for each in records[1:])]
    path = write_rows(tmp_path / "train.jsonl", mixed)
    write_labels(path, LABELS, PROBLEMS)
    index = build_index(path, on_error="fail").index
    assert index.is_correct_R.tolist() == [correct for correct, _ in LABELS]
    assert index.difficulty_R.tolist() == [difficulty for _, difficulty in LABELS]
    assert [index.problem_names[code] for code in index.problem_R] == PROBLEMS
    assert index.problem_names == ("b", "a b.c", "c")


def test_problems_named_by_numbers_come_from_the_task_id(tmp_path: Path, records: list[dict[str, object]]) -> None:
    path = write_rows(tmp_path / "train.jsonl", [without(each, "metadata") for each in records])
    write_labels(path, LABELS, [3, 1, 3, 2, 1])
    index = build_index(path, on_error="fail").index
    assert [index.problem_names[code] for code in index.problem_R] == ["b_0", "a b.c_1", "b_2", "c_3", "a b.c_4"]


def test_labels_count_malformed_lines_and_no_blank_ones(
    assert_same_index: SameIndex, tmp_path: Path, records: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare: list[dict[str, object] | str] = [without(each, "is_correct", "metadata") for each in records]
    path = write_rows(tmp_path / "train.jsonl", ["", bare[0], "{", *bare[2:4], " ", bare[4]])
    write_labels(path, LABELS, PROBLEMS)
    index = build_index(path, on_error="skip").index
    assert index.is_correct_R.tolist() == [True, True, False, True]
    assert index.difficulty_R.tolist() == [7, 11, 7, 0]
    assert index.problem_names == ("b", "c", "a b.c")
    monkeypatch.setattr(index_processes, "RANGE_BYTES", 100)
    assert_same_index(build_index(path, on_error="skip", num_processes=2).index, index)


def test_without_a_file_of_labels_rows_that_lack_them_are_malformed(
    tmp_path: Path, records: list[dict[str, object]]
) -> None:
    path = write_rows(tmp_path / "train.jsonl", [records[0], without(records[1], "is_correct")])
    with pytest.raises(DataError, match=r'train\.jsonl:2: found no key "is_correct", expected true or false'):
        build_index(path, on_error="fail")


def test_labels_are_not_read_where_every_row_has_its_own(tmp_path: Path, records: list[dict[str, object]]) -> None:
    path = write_rows(tmp_path / "train.jsonl", records)
    (tmp_path / "train_metadata.json").write_text("of another tool", encoding="utf-8")
    assert len(build_index(path, on_error="fail").index) == len(records)


@pytest.mark.parametrize(("rows", "labels"), [("valid", "validation"), ("validation", "valid")])
def test_the_valid_split_has_labels_under_either_name(
    tmp_path: Path, records: list[dict[str, object]], rows: str, labels: str
) -> None:
    path = write_rows(tmp_path / f"{rows}.jsonl", [without(each, "metadata") for each in records])
    write_labels(tmp_path / f"{labels}.jsonl", LABELS, PROBLEMS)
    assert build_index(path, on_error="fail").index.difficulty_R.tolist() == [level for _, level in LABELS]


def test_labels_of_another_length_are_refused(tmp_path: Path, records: list[dict[str, object]]) -> None:
    path = write_rows(tmp_path / "train.jsonl", [without(each, "metadata") for each in records])
    for labels in (LABELS[:4], [*LABELS, (True, 1)]):
        write_labels(path, labels, list(range(len(labels))))
        with pytest.raises(DataError, match=rf"found labels of {len(labels)} rows, expected 5.*same export"):
            build_index(path, on_error="fail")


@pytest.mark.parametrize(("wrong", "label"), [((True, 9), "is_correct"), ((False, 8), "difficulty")])
def test_labels_that_contradict_a_row_name_its_line(
    tmp_path: Path, records: list[dict[str, object]], wrong: tuple[bool, int], label: str
) -> None:
    path = write_rows(tmp_path / "train.jsonl", ["", *records[:3], without(records[3], "is_correct"), records[4]])
    write_labels(path, [LABELS[0], wrong, *LABELS[2:]], PROBLEMS)
    with pytest.raises(DataError, match=rf"found another {label} than the rows of .* in 1 lines \(the first: 3\)"):
        build_index(path, on_error="fail")


@pytest.mark.parametrize("content", ["[]", '{"metadata": [{"is_correct": 1, "difficulty": 1, "problem_id": 1}]}', "{"])
def test_a_file_of_labels_of_another_form_is_refused(
    tmp_path: Path, records: list[dict[str, object]], content: str
) -> None:
    path = write_rows(tmp_path / "train.jsonl", [without(each, "metadata") for each in records])
    (tmp_path / "train_metadata.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"train_metadata\.json: cannot be read as labels .*expected a list `metadata`"):
        build_index(path, on_error="fail")


def test_an_index_is_stale_when_the_labels_it_took_have_changed(
    tmp_path: Path, records: list[dict[str, object]]
) -> None:
    path = write_rows(tmp_path / "train.jsonl", [without(each, "is_correct") for each in records])
    write_labels(path, LABELS, PROBLEMS)
    write_index(build_index(path, on_error="fail"), index_path_of(path))
    assert len(load_built_index(path).index) == len(records)
    write_labels(path, [(not correct, difficulty) for correct, difficulty in LABELS], PROBLEMS)
    with pytest.raises(DataError, match=r"stale: found .* in .*train_metadata\.json"):
        load_built_index(path)


def test_rows_without_labels_are_read_with_those_of_the_index(
    tmp_path: Path, records: list[dict[str, object]], tokenizer: CodeTokenizer
) -> None:
    path = write_rows(
        tmp_path / "train.jsonl", [records[0], *(without(r, "is_correct", "metadata") for r in records[1:])]
    )
    write_labels(path, LABELS, PROBLEMS)
    index = ensure_index(path, tokenizer, on_error="fail")
    assert (index.response_tokens_R > 0).all()
    offsets, sizes = index.offset_R.tolist(), index.num_bytes_R.tolist()
    rows = read_rows(path, offsets, sizes, index.is_correct_R)
    assert [row.is_correct for row in rows] == [correct for correct, _ in LABELS]
    assert [row.source for row in rows] == ["made_up", "", "", "", ""]
    with pytest.raises(DataError, match='found no key "metadata"'):
        read_rows(path, offsets, sizes)
    with pytest.raises(DataError, match='found True in "is_correct", which is False in the index'):
        read_rows(path, offsets[:1], sizes[:1], [False])
