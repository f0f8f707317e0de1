"""Parts of a conversion: what a killed one left is taken up again if it is whole and made alike, never otherwise."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from actors.row_converter import (
    FinishedPart,
    PartSettings,
    SourcePart,
    finish_part,
    finish_parts,
    part_files,
    parts_table,
)
from tests.code_contests import record_of, write_parquet
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.dataset_manifest import FileDigest
from wmtp_ray.data.index import build_index
from wmtp_ray.data.kept_rows import RowLimits
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.data.validation.rules import Rule
from wmtp_ray.flows.data.convert_parts import list_parts
from wmtp_ray.flows.data.validate_data import validate_data


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CodeTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(["print(int(input()) + 1)\n", "### Instruction:\nSolve p.\n"] * 9, path, 300)
    return CodeTokenizer(path)


@pytest.fixture
def settings(tmp_path: Path, tokenizer: CodeTokenizer) -> PartSettings:
    return PartSettings(tmp_path / "parts", tokenizer, RowLimits(languages=(3,), max_tokens=400))


@pytest.fixture
def part(tmp_path: Path) -> SourcePart:
    path = write_parquet(tmp_path / "train-0.parquet", [record_of(f"p{n}") for n in range(6)], row_group_size=3)
    return SourcePart("train", 1, str(path), file_sha256(path), row_group=1)


def content(part: SourcePart, settings: PartSettings) -> tuple[bytes, bytes]:
    files = part_files(part, settings)
    return files.rows.read_bytes(), files.problems.read_bytes()


def test_a_part_holds_its_row_group_in_order(part: SourcePart, settings: PartSettings) -> None:
    finished = finish_part(part, settings)
    rows, problems = content(part, settings)
    assert [line.split(b'"task_id":"')[1][:2] for line in rows.splitlines()] == [
        b"p3",
        b"p3",
        b"p4",
        b"p4",
        b"p5",
        b"p5",
    ]
    assert problems.count(b"\n") == finished.receipt.counts.problems == 3
    assert (finished.receipt.rows.num_bytes, finished.receipt.counts.rows) == (len(rows), 6)
    assert {path.name[0] for path in settings.directory.iterdir()} == {"t"}, "a temporary file was left"


def test_a_whole_part_is_not_made_again(part: SourcePart, settings: PartSettings) -> None:
    first = finish_part(part, settings)
    inode = part_files(part, settings).rows.stat().st_ino
    assert finish_part(part, settings) == replace(first, reused=True)
    assert part_files(part, settings).rows.stat().st_ino == inode


@pytest.mark.parametrize("damaged", ["rows", "problems"])
@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_part_is_made_again(part: SourcePart, settings: PartSettings, damaged: str, damage: str) -> None:
    first = finish_part(part, settings)
    before = content(part, settings)
    path: Path = getattr(part_files(part, settings), damaged)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5] + (b"" if damage == "cut" else b"other"))
    assert finish_part(part, settings) == first
    assert content(part, settings) == before


def test_a_part_without_its_receipt_is_made_again(part: SourcePart, settings: PartSettings) -> None:
    finish_part(part, settings)
    part_files(part, settings).receipt.unlink()
    assert not finish_part(part, settings).reused


def test_a_part_made_otherwise_is_not_taken_up(part: SourcePart, settings: PartSettings) -> None:
    finish_part(part, settings)
    others = [
        (replace(part, sha256="0" * 64), settings),
        (replace(part, row_group=0), settings),
        (replace(part, number=0), settings),
        (part, replace(settings, limits=replace(settings.limits, max_tokens=399))),
        (part, replace(settings, limits=replace(settings.limits, languages=(1, 3)))),
    ]
    assert [finish_part(*other).reused for other in others] == [False] * len(others)


def test_an_error_of_a_source_travels_as_a_row(part: SourcePart, settings: PartSettings) -> None:
    foreign = Path(part.path).with_name("train-1.parquet")
    foreign.write_bytes(b"no parquet")
    table = finish_parts(parts_table([replace(part, path=str(foreign))]), settings)
    [row] = table.to_pylist()
    assert "train-1.parquet: found a torn or foreign file" in row["error"]
    assert not settings.directory.exists() or list(settings.directory.iterdir()) == []


def test_a_finished_part_is_what_the_table_hands_back(part: SourcePart, settings: PartSettings) -> None:
    [row] = finish_parts(parts_table([part]), settings).to_pylist()
    assert msgspec.json.decode(row["finished"], type=FinishedPart) == replace(finish_part(part, settings), reused=False)
    assert row["error"] == ""


TEXTS = st.none() | st.sampled_from(["", " \n", "p", "print(1)\n", "# nothing", "\0", "日本 ё"])
NUMBERS = st.none() | st.sampled_from([0, 3, 7, -1, 28, 40_000])
LISTS = st.none() | st.lists(TEXTS, max_size=3)


def paired(first: str, values: st.SearchStrategy[Any], second: str) -> st.SearchStrategy[Any]:
    """Lists that are mostly of one length."""
    pairs = st.lists(st.tuples(values, TEXTS), max_size=4)
    whole = pairs.map(lambda each: {first: [a for a, _ in each], second: [b for _, b in each]})
    return st.one_of(whole, whole, whole, st.none(), st.fixed_dictionaries({first: st.just([None]), second: LISTS}))


RECORDS = st.builds(
    lambda name, columns: record_of("p") | {"name": name} | columns,
    st.one_of(st.sampled_from(["p", "q", "p (2)", "a_correct_0"]), TEXTS),
    st.fixed_dictionaries(
        {},
        optional={
            "description": TEXTS,
            **{f"{kind}_tests": paired("input", TEXTS, "output") for kind in ("public", "private", "generated")},
            **{
                name: paired("language", st.sampled_from([3, 3, 3, 2, 300, None]), "solution")
                for name in ("solutions", "incorrect_solutions")
            },
            **dict.fromkeys(("source", "difficulty", "cf_rating", "memory_limit_bytes"), NUMBERS),
            "time_limit": st.none() | st.fixed_dictionaries({"seconds": NUMBERS, "nanos": NUMBERS}),
            **dict.fromkeys(("input_file", "output_file"), TEXTS),
            "is_description_translated": st.none() | st.booleans(),
        },
    ),
)
NOT_THE_CONVERTERS = {Rule.BOTH_LABELS, Rule.NO_ROWS}  # contradictions of the source itself, and a part without rows


@hypothesis_settings(max_examples=60, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4))
def test_whatever_is_null_the_rows_written_pass_our_own_index_and_validation(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: CodeTokenizer, records: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("nulls")
    source = write_parquet(root / "train-0.parquet", records)
    settings = PartSettings(root / "parts", tokenizer, RowLimits(languages=(1, 3), max_tokens=400))
    [part] = list_parts("train", [(source, FileDigest("0" * 64, 1))])
    [outcome] = finish_parts(parts_table([part]), settings).to_pylist()
    if outcome["error"]:
        assert re.search(r"problem ('|\d+ of row group).*: found .* (in|and) .*expected", outcome["error"], re.DOTALL)
        return
    counts = msgspec.json.decode(outcome["finished"], type=FinishedPart).receipt.counts
    rows = part_files(part, settings).rows
    report = validate_data([rows], benchmarks={})
    errors = {finding.rule for finding in report.findings if finding.rule.severity == "error"}
    assert errors <= NOT_THE_CONVERTERS
    assert counts.problems == len(records)
    if counts.rows:
        assert len(build_index(rows, on_error="fail").index) == counts.rows
