"""JSON objects that belong to a model: params.json, config.json and others. It knows none of their keys."""

from pathlib import Path
from typing import Any

import orjson

from wmtp_ray.data.file_kind import HEAD_BYTES, JSON, kind_of
from wmtp_ray.errors import ArtifactError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that belongs to a model; ArtifactError when it is missing or something else."""
    if not path.exists():
        raise ArtifactError(f"{path} is missing; a model directory holds it beside its weights.")
    try:
        written = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); expected a file: make it readable") from error
    try:
        content = orjson.loads(written)
    except orjson.JSONDecodeError as error:
        kind = kind_of(written[:HEAD_BYTES])
        if kind is not None and kind is not JSON:
            raise ArtifactError(f"{path} is not JSON: found {kind.name}; {kind.remedy}") from error
        raise ArtifactError(
            f"{path} is not JSON: {error}. It is cut short or was edited: take the one that was published with the "
            "weights, or fix the line."
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(
            f"{path} holds {type(content).__name__}, expected an object; give the {path.name} that was published with "
            "the weights"
        )
    return content
