"""The JSON Schema of a row takes what the code takes, for any line that both can read."""

import json
from collections.abc import Callable

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.data.records import MalformedRow
from wmtp_ray.data.row_schema import row_schema, schema_text
from wmtp_ray.data.rows import decode_row

VALIDATOR = jsonschema.Draft202012Validator(row_schema())
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(["", " \n", "\u2003", "x", "print(1)", "日本"]),
    st.integers(-40_000, 40_000),
    st.just(0.5),
    st.just([]),
    st.just({}),
)
KEYS = ["instruction", "input", "output", "task_id", "is_correct", "metadata", "further"]
METADATA_KEYS = ["source", "difficulty", "has_tests", "language", "cf_rating", "contest", "further"]
ABSENT = object()


def accepts(line: bytes) -> bool:
    try:
        decode_row(line)
    except MalformedRow:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES | st.just(ABSENT), max_size=2),
    labels=st.dictionaries(st.sampled_from(METADATA_KEYS), VALUES | st.just(ABSENT), max_size=2),
)
def test_schema_and_code_accept_the_same_rows(
    record: Callable[..., dict[str, object]], changes: dict[str, object], labels: dict[str, object]
) -> None:
    row = record()
    metadata = row["metadata"]
    assert isinstance(metadata, dict)
    row["metadata"] = {key: value for key, value in (metadata | labels).items() if value is not ABSENT}
    row = {key: value for key, value in (row | changes).items() if value is not ABSENT}
    assert VALIDATOR.is_valid(row) == accepts(json.dumps(row).encode())


@pytest.mark.parametrize("missing", [*KEYS[:-1], None])
def test_every_key_of_a_row_is_required(record: Callable[..., dict[str, object]], missing: str | None) -> None:
    row = {key: value for key, value in record().items() if key != missing}
    assert VALIDATOR.is_valid(row) is (missing is None)


def test_the_schema_is_one_itself_and_is_written_as_it_is() -> None:
    jsonschema.Draft202012Validator.check_schema(row_schema())
    assert json.loads(schema_text()) == row_schema()
