import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data import index_file
from wmtp_ray.data.index import (
    BuiltIndex,
    build_index,
    count_tokens,
    ensure_index,
    file_fingerprint,
    index_path_of,
    load_built_index,
    load_index,
    write_index,
)
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError

SameIndex = Callable[[RowIndex, RowIndex], None]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index") / "rows.jsonl"


def test_a_written_index_loads_as_it_was(assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer) -> None:
    jsonl.write_bytes(jsonl.read_bytes() + b"{\n")
    built = build_index(jsonl, on_error="skip")
    counted = BuiltIndex(count_tokens(built.index, tokenizer), built.num_lines, built.num_skipped, built.errors)
    write_index(counted, index_path_of(jsonl))
    loaded = load_built_index(jsonl)
    assert_same_index(loaded.index, counted.index)
    assert (loaded.num_lines, loaded.num_skipped, loaded.errors) == (4, 1, built.errors)


def test_an_index_of_many_row_groups_loads_as_it_was(
    assert_same_index: SameIndex, tmp_path: Path, line: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b", "a", "b", "é", "a", "d", "b"]  # whose order of appearance is neither the groups' nor the alphabet's
    path = tmp_path / "train.jsonl"
    lines = [line(task_id=f"{name}_correct_{n}", metadata={"contest": name}) for n, name in enumerate(names)]
    path.write_bytes(b"\n".join(lines))
    built = build_index(path, on_error="fail")
    for rows in (1, 2, 3):
        monkeypatch.setattr(index_file, "ROW_GROUP_ROWS", rows)
        write_index(built, index_path_of(path))
        assert pq.ParquetFile(index_path_of(path)).num_row_groups == -(-len(names) // rows)
        assert_same_index(load_index(path), built.index)


def test_writing_and_loading_do_not_import_pandas(jsonl: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wmtp_ray.data.index import *\n"
        "jsonl = Path(sys.argv[1]); write_index(build_index(jsonl, on_error='fail'), index_path_of(jsonl))\n"
        "load_index(jsonl); sys.exit('pandas' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(jsonl)], check=True)


def test_the_parquet_file_has_the_columns_and_types_others_rely_on(jsonl: Path, tokenizer: CodeTokenizer) -> None:
    ensure_index(jsonl, tokenizer, on_error="fail")
    table = pq.read_table(f"{jsonl}.index.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "offset": "int64",
        "num_bytes": "int32",
        "difficulty": "int16",
        "is_correct": "bool",
        "problem": "string",
        "language": "int8",
        "cf_rating": "int16",
        "prompt_tokens": "int32",
        "response_tokens": "int32",
        "source": "string",
    }
    assert table["problem"].to_pylist() == ["b", "a b.c", "b"]
    assert table.schema.metadata[b"tokenizer_hash"].decode() == tokenizer.sha256
    assert table.schema.metadata[b"file_fingerprint"].decode() == file_fingerprint(jsonl)


def test_writing_leaves_no_temporary_file(jsonl: Path) -> None:
    write_index(build_index(jsonl, on_error="fail"), index_path_of(jsonl))
    assert sorted(path.name for path in jsonl.parent.iterdir()) == ["train.jsonl", "train.jsonl.index.parquet"]


def test_a_failed_write_leaves_nothing_behind(jsonl: Path) -> None:
    built = build_index(jsonl, on_error="fail")
    out = jsonl.parent / "occupied"
    (out / "inside").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be written"):
        write_index(built, out)
    assert sorted(path.name for path in jsonl.parent.iterdir()) == ["occupied", "train.jsonl"]


def test_a_directory_that_is_not_there_is_refused_and_not_made(jsonl: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_index(build_index(jsonl, on_error="fail"), jsonl.parent / "mistyped" / "index")
    assert not (jsonl.parent / "mistyped").exists()


def test_a_new_index_does_not_disturb_a_reader_of_the_old_one(jsonl: Path, tokenizer: CodeTokenizer) -> None:
    out = index_path_of(jsonl)
    built = build_index(jsonl, on_error="fail")
    write_index(built, out)
    old_content = out.read_bytes()
    with out.open("rb") as reader:
        write_index(replace(built, index=count_tokens(built.index, tokenizer)), out)
        assert reader.read() == old_content
    assert out.read_bytes() != old_content


def test_a_full_disk_keeps_the_old_index(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = index_path_of(jsonl)
    built = build_index(jsonl, on_error="fail")
    write_index(built, out)
    old_content = out.read_bytes()

    def disk_is_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_is_full)
    with pytest.raises(DataError, match="No space left on device"):
        write_index(replace(built, num_lines=9), out)
    assert out.read_bytes() == old_content
    assert sorted(path.name for path in jsonl.parent.iterdir()) == ["train.jsonl", "train.jsonl.index.parquet"]


def edit_in_place(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.mark.parametrize(("old", "new"), [(b"print(2)", b"print(3)"), (b"print(2)", b"print(22)")])
def test_a_stale_index_is_refused_with_the_command_to_run(
    jsonl: Path, tokenizer: CodeTokenizer, old: bytes, new: bytes
) -> None:
    ensure_index(jsonl, tokenizer, on_error="fail")
    before = jsonl.stat()
    edit_in_place(jsonl, old, new)
    os.utime(jsonl, ns=(before.st_atime_ns, before.st_mtime_ns))  # the clock alone must not be trusted
    with pytest.raises(DataError, match=r"stale.*wmtp data index .*train\.jsonl`"):
        load_index(jsonl)
    with pytest.raises(DataError, match="stale"):
        ensure_index(jsonl, tokenizer, on_error="fail")


def test_a_touched_file_keeps_its_index(assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer) -> None:
    index = ensure_index(jsonl, tokenizer, on_error="fail")
    os.utime(jsonl, ns=(1, 1))
    assert_same_index(load_index(jsonl), index)


def test_a_copied_file_may_use_the_copied_index(jsonl: Path, tokenizer: CodeTokenizer, tmp_path: Path) -> None:
    index = ensure_index(jsonl, tokenizer, on_error="fail")
    copy = tmp_path / "copy" / "train.jsonl"
    copy.parent.mkdir()
    for source, target in [(jsonl, copy), (index_path_of(jsonl), index_path_of(copy))]:
        target.write_bytes(source.read_bytes())
    loaded = load_index(copy)
    assert loaded.path == str(copy)
    assert loaded.file_fingerprint == index.file_fingerprint


@pytest.mark.parametrize("position", [0, 999])
def test_the_fingerprint_of_a_large_file_sees_its_first_and_last_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
) -> None:
    monkeypatch.setattr(index_file, "FINGERPRINT_BLOCK_BYTES", 4)
    monkeypatch.setattr(index_file, "FINGERPRINT_BLOCKS", 16)
    path, content = tmp_path / "large", bytearray(1000)
    path.write_bytes(content)
    before = file_fingerprint(path)
    content[position] = 1
    path.write_bytes(content)
    assert file_fingerprint(path) != before


@settings(max_examples=30)
@given(size=st.integers(1, 64), data=st.data())
def test_the_fingerprint_of_a_small_file_sees_every_byte(scratch: Path, size: int, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.binary(min_size=size, max_size=size)))
    scratch.write_bytes(content)
    before = file_fingerprint(scratch)
    content[data.draw(st.integers(0, size - 1))] ^= 1
    scratch.write_bytes(content)
    assert file_fingerprint(scratch) != before


def test_loading_without_an_index_names_the_command(jsonl: Path) -> None:
    with pytest.raises(DataError, match=r"found no index at .*run `wmtp data index .*train\.jsonl`"):
        load_index(jsonl)


@pytest.mark.parametrize("keep_bytes", [0, 100])
def test_a_torn_index_is_refused(jsonl: Path, tokenizer: CodeTokenizer, keep_bytes: int) -> None:
    ensure_index(jsonl, tokenizer, on_error="fail")
    out = index_path_of(jsonl)
    out.write_bytes(out.read_bytes()[:keep_bytes])
    with pytest.raises(DataError, match="torn or foreign"):
        load_index(jsonl)


def test_a_parquet_file_of_another_format_is_refused(jsonl: Path) -> None:
    pq.write_table(pa.table({"offset": [1]}), index_path_of(jsonl))
    with pytest.raises(DataError, match="another format"):
        load_index(jsonl)
