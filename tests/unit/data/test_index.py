import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.contracts import RowIndex
from wmtp_ray.data import index as index_module
from wmtp_ray.data import index_ranges
from wmtp_ray.data.index import (
    build_index,
    count_tokens,
    ensure_index,
    index_path_of,
    load_built_index,
    load_index,
    write_index,
)
from wmtp_ray.data.rows import problem_of, read_rows
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row
from wmtp_ray.errors import DataError

MakeLine = Callable[..., bytes]
SameIndex = Callable[[RowIndex, RowIndex], None]
BOM = b"\xef\xbb\xbf"

# Text that imitates the schema, its keys, its line ends and its escapes.
DECOYS = [
    '"difficulty": 99',
    '"is_correct": false',
    "\u2028",
    "\u2029",
    "\x85",
    "\r\n",
    "\n",
    "\\",
    '"',
    "}",
    "é",
    "\x00",
]
SNEAKY = st.sampled_from(DECOYS)
TEXTS = st.lists(SNEAKY | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4).map("".join)


@st.composite
def records(draw: st.DrawFn) -> dict[str, object]:
    """A valid record in any key order, with decoys: nested keys of the same names, further keys, unknowns left out."""
    decoy = {"difficulty": 99, "is_correct": "no", "task_id": "decoy_correct_0", "metadata": {"difficulty": 98}}
    metadata: dict[str, object] = {
        "source": draw(TEXTS),
        "difficulty": draw(st.integers(-(2**15), 2**15 - 1)),
        "has_tests": draw(st.booleans()),
    }
    metadata |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "language": st.integers(0, 4) | st.none(),
                "cf_rating": st.integers(0, 3500) | st.none(),
                "contest": st.sampled_from(["codeforces", "atcoder"]) | st.none(),
                "nested": st.just(decoy),
            },
        )
    )
    suffix = draw(st.sampled_from(["_correct_0", "_incorrect_12", ""]))
    record: dict[str, object] = {
        "instruction": draw(TEXTS),
        "input": draw(TEXTS),
        "output": draw(TEXTS.filter(str.strip)),
        "task_id": draw(TEXTS) + suffix,
        "is_correct": draw(st.booleans()),
        "metadata": shuffled(draw, metadata),
    }
    if draw(st.booleans()):
        record["decoy"] = decoy
    return shuffled(draw, record)


def shuffled(draw: st.DrawFn, mapping: dict[str, object]) -> dict[str, object]:
    return dict(draw(st.permutations(list(mapping.items()))))


@st.composite
def valid_lines(draw: st.DrawFn) -> bytes:
    text = json.dumps(draw(records()), ensure_ascii=draw(st.booleans()), indent=None, separators=(", ", ": "))
    for key in draw(st.lists(st.sampled_from(["difficulty", "is_correct", "metadata"]), max_size=2)):
        text = text.replace(f'"{key}": ', f'"\\u{ord(key[0]):04x}{key[1:]}" :')  # an escaped key is the same key
    return draw(st.sampled_from([b"", b" "])) + text.encode("utf-8")


@st.composite
def files(draw: st.DrawFn, lines: st.SearchStrategy[bytes]) -> bytes:
    ends = st.sampled_from([b"\n", b"\r\n"])
    blank_or_line = lines | st.sampled_from([b"", b" \t"])
    content = b"".join(draw(blank_or_line) + draw(ends) for _ in range(draw(st.integers(0, 4))))
    return draw(st.sampled_from([b"", BOM])) + content + draw(lines) + draw(st.sampled_from([b"", b"\n", b"\r\n"]))


def naive_rows(content: bytes) -> list[tuple[int, bytes, dict[str, object]]]:
    """Byte offset, bytes and record of every line that json.loads takes for a JSON object."""
    found, offset = [], 0
    for number, part in enumerate(content.split(b"\n")):
        line = part.removesuffix(b"\r")
        start = offset
        if number == 0 and line.startswith(BOM):
            line, start = line[3:], 3
        if line.strip():
            with contextlib.suppress(ValueError):
                found.append((start, line, json.loads(line)))
        offset += len(part) + 1
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("index") / "rows.jsonl"


def assert_index_equals_naive(index: RowIndex, content: bytes) -> None:
    expected = naive_rows(content)
    assert len(index) == len(expected)
    for r, (offset, line, record) in enumerate(expected):
        metadata = record["metadata"]
        assert isinstance(metadata, dict)
        assert (index.offset_R[r], index.num_bytes_R[r]) == (offset, len(line))
        assert index.difficulty_R[r] == metadata["difficulty"]
        assert index.is_correct_R[r] == record["is_correct"]
        assert index.problem_names[index.problem_R[r]] == problem_of(str(record["task_id"]))
        assert index.language_R[r] == (metadata.get("language") or 0)
        assert index.cf_rating_R[r] == (metadata.get("cf_rating") or 0)
        assert index.source_names[index.source_R[r]] == (metadata.get("contest") or metadata["source"])
        assert (index.prompt_tokens_R[r], index.response_tokens_R[r]) == (-1, -1)


@settings(max_examples=60, deadline=None)
@given(content=files(valid_lines()))
def test_the_index_equals_json_loads_on_adversarial_rows(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    built = build_index(scratch, on_error="fail")
    assert (built.num_skipped, built.num_lines) == (0, len(built.index))
    assert_index_equals_naive(built.index, content)


@settings(max_examples=30, deadline=None)
@given(content=files(valid_lines()), cuts=st.lists(valid_lines(), min_size=1, max_size=3))
def test_malformed_lines_are_skipped_and_counted(scratch: Path, content: bytes, cuts: list[bytes]) -> None:
    content = content.rstrip(b"\r\n") + b"\n" + b"\n".join(line[:-1] for line in cuts)
    scratch.write_bytes(content)
    built = build_index(scratch, on_error="skip")
    assert (built.num_skipped, len(built.errors)) == (len(cuts), len(cuts))
    assert built.num_lines == len(built.index) + len(cuts)
    assert_index_equals_naive(built.index, content)


@settings(max_examples=30, deadline=None)
@given(content=files(valid_lines()))
def test_rows_are_found_again_at_their_offsets(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    index = build_index(scratch, on_error="fail").index
    rows = read_rows(scratch, index.offset_R.tolist(), index.num_bytes_R.tolist())
    assert [row.output for row in rows] == [record["output"] for _, _, record in naive_rows(content)]


def write_jsonl(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def test_failing_lists_the_first_ten_malformed_lines_and_their_number(jsonl: Path) -> None:
    jsonl.write_bytes(jsonl.read_bytes() + b"{\n" * 12)
    with pytest.raises(DataError) as caught:
        build_index(jsonl, on_error="fail")
    message = str(caught.value)
    assert "found 12 malformed lines" in message
    assert [f"{jsonl}:{n}: " in message for n in (4, 13, 14)] == [True, True, False]
    assert "on_error=skip" in message


@pytest.mark.parametrize("content", [b"", b"\n \r\n", BOM])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match="an empty file, expected at least one row"):
        build_index(path, on_error="skip")


def test_a_file_of_malformed_lines_only_is_refused_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no valid row"):
        build_index(write_jsonl(tmp_path / "bad.jsonl", [b"[1]", b"x"]), on_error="skip")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        build_index(tmp_path / "absent.jsonl", on_error="skip")


def test_a_byte_order_mark_inside_the_file_is_malformed(tmp_path: Path, line: MakeLine) -> None:
    built = build_index(write_jsonl(tmp_path / "joined.jsonl", [BOM + line(), BOM + line()]), on_error="skip")
    assert (len(built.index), built.num_skipped) == (1, 1)


def test_an_endless_line_is_refused_without_reading_it_all(
    tmp_path: Path, line: MakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_ranges, "MAX_LINE_BYTES", 1000)
    path = write_jsonl(tmp_path / "array.jsonl", [line(), line(output="x" * 1000)])
    with pytest.raises(DataError, match=r"array\.jsonl:2: found a line of"):
        build_index(path, on_error="skip")


def test_token_counts_equal_the_encoded_examples(jsonl: Path, tokenizer: CodeTokenizer) -> None:
    seen: list[tuple[int, int]] = []
    index = count_tokens(build_index(jsonl, on_error="fail").index, tokenizer, lambda *done: seen.append(done))
    for r, row in enumerate(read_rows(jsonl, index.offset_R.tolist(), index.num_bytes_R.tolist())):
        example = encode_row(row, tokenizer, r)
        assert index.prompt_tokens_R[r] == example.prompt_tokens
        assert index.num_tokens_R[r] == len(example.tokens_T)
    assert index.tokenizer_hash == tokenizer.sha256
    assert seen == [(3, 3)]


def test_counting_in_chunks_counts_every_row(
    assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build_index(jsonl, on_error="fail").index
    whole = count_tokens(index, tokenizer)
    monkeypatch.setattr(index_module, "COUNT_ROWS", 2)
    assert_same_index(count_tokens(index, tokenizer), whole)


def test_a_directory_that_cannot_be_written_points_to_another_place(jsonl: Path, tokenizer: CodeTokenizer) -> None:
    nowhere = jsonl.parent / "absent" / "train.index.parquet"
    with pytest.raises(DataError, match=r"name another file or directory with --out"):
        ensure_index(jsonl, tokenizer, on_error="fail", index_path=nowhere)


@pytest.mark.parametrize("name", ["elsewhere", "elsewhere/own.parquet"])
def test_an_index_may_lie_in_another_directory_or_file(
    assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer, name: str
) -> None:
    (jsonl.parent / "elsewhere").mkdir()
    index = ensure_index(jsonl, tokenizer, on_error="fail", index_path=jsonl.parent / name)
    assert not index_path_of(jsonl).exists()
    assert_same_index(load_index(jsonl, jsonl.parent / name), index)


def test_ensuring_twice_reads_the_written_index(
    assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer
) -> None:
    first = ensure_index(jsonl, tokenizer, on_error="fail")
    written_ns = index_path_of(jsonl).stat().st_mtime_ns
    assert_same_index(ensure_index(jsonl, tokenizer, on_error="fail"), first)
    assert index_path_of(jsonl).stat().st_mtime_ns == written_ns


def test_an_uncounted_index_is_counted_when_ensured(
    assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer
) -> None:
    write_index(build_index(jsonl, on_error="fail"), index_path_of(jsonl))
    index = ensure_index(jsonl, tokenizer, on_error="fail")
    assert index.prompt_tokens_R.min() > 0
    assert_same_index(load_index(jsonl), index)


def test_another_tokenizer_counts_anew(
    assert_same_index: SameIndex, jsonl: Path, tokenizer: CodeTokenizer, straddling_tokenizer: CodeTokenizer
) -> None:
    ensure_index(jsonl, straddling_tokenizer, on_error="fail")
    index = ensure_index(jsonl, tokenizer, on_error="fail")
    assert_same_index(index, count_tokens(build_index(jsonl, on_error="fail").index, tokenizer))


def test_an_index_that_left_lines_out_is_refused_when_failing_is_asked(jsonl: Path, tokenizer: CodeTokenizer) -> None:
    jsonl.write_bytes(jsonl.read_bytes() + b"{\n")
    assert len(ensure_index(jsonl, tokenizer, on_error="skip")) == 3
    assert load_built_index(jsonl).num_skipped == 1
    with pytest.raises(DataError, match="1 malformed lines"):
        ensure_index(jsonl, tokenizer, on_error="fail")


def test_rows_without_a_program_are_refused_with_their_lines_or_left_out(jsonl: Path, line: MakeLine) -> None:
    jsonl.write_bytes(jsonl.read_bytes() + line(output=" \n") + b"\n" + line(output="") + b"\n")
    with pytest.raises(DataError, match=r'train\.jsonl:4: found no program in "output".*\n.*train\.jsonl:5: found no'):
        build_index(jsonl, on_error="fail")
    built = build_index(jsonl, on_error="skip")
    assert (len(built.index), built.num_skipped) == (3, 2)


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32LE"),
        ("utf-32-be", "UTF-32BE"),
    ],
)
def test_another_encoding_is_refused_by_its_name(jsonl: Path, encoding: str, named: str) -> None:
    jsonl.write_bytes(jsonl.read_text("utf-8").encode(encoding))
    with pytest.raises(DataError, match=f"found text in {named}, expected UTF-8; convert it: iconv -f {named} "):
        build_index(jsonl, on_error="skip")
