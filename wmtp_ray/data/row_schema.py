"""The JSON Schema of a row, generated from the types that `records.py` decodes into.

What JSON Schema cannot say is refused by the code alone: duplicate keys with different values, lone surrogates, numbers
beyond a double, and 7.0 where an integer is expected, which JSON Schema takes for one.
"""

from typing import Any

import msgspec

from wmtp_ray.data.records import Record

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LABELS = ("is_correct", "metadata")  # a Record may lack them, a row may not
NOT_BLANK = r"\S"


def row_schema() -> dict[str, Any]:
    """Return the schema as a JSON object: a row with its labels, further keys allowed."""
    schema = msgspec.json.schema(Record)
    record = schema["$defs"]["Record"]
    record["description"] = "One line of a JSONL: a program, and whether it solves its problem."
    record["required"] = [*record["required"], *LABELS]
    record["properties"]["output"]["pattern"] = NOT_BLANK
    return {"$schema": DIALECT, "title": "row", **schema}


def schema_text() -> bytes:
    """Spell the schema as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(row_schema()), indent=2) + b"\n"
