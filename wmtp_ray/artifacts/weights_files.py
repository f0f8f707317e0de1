"""Rows with their token weights as files for other trainers: weights.parquet, weights.jsonl and manifest.json.

    weights.parquet  one row for each use of a row, in plan order; `parquet_schema` names the columns
    weights.jsonl    the same rows, one a line: model_input and loss_fn_inputs (target_tokens, weights), beside them
                     row_id, step and denominator
    manifest.json    `WeightsManifest`: where the weights come from, and what they are divided by

All are written row by row into a folder that appears whole or not at all. docs/export_weights.md is for their readers.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.contracts import Float32
from wmtp_ray.durable_files import atomic_directory
from wmtp_ray.errors import ArtifactError
from wmtp_ray.saved_records import encode_line, write_record
from wmtp_ray.scoring.weighed_rows import WeighedRow

PARQUET, JSON_LINES, MANIFEST = "weights.parquet", "weights.jsonl", "manifest.json"
FORM = "wmtp.weights.v1"
_TOKENS_PER_GROUP = 1 << 20  # of a row group: what stands in memory, some 20 MB


@dataclass(frozen=True)
class UsedRow:
    """A use of a row in a step, whose last row `ends_step`. `use` counts the row's uses before this one in the plan."""

    step: int
    use: int
    problem: str
    row: WeighedRow
    denominators: tuple[float, ...]
    ends_step: bool


@dataclass(frozen=True)
class LossInputs:
    """What a weighted cross-entropy asks for beside the input, position by position."""

    target_tokens: list[int]
    weights: list[float]


@dataclass(frozen=True)
class Line:
    """A line of weights.jsonl. `horizon_weights` are those of horizon 2 and on, where they differ from `weights`."""

    model_input: list[int]
    loss_fn_inputs: LossInputs
    row_id: int
    step: int
    denominator: float
    horizon_weights: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelUsed:
    """A model that weights were made with, after so many `steps` of stage 2.

    `sha256` is that of the file of weights; of a checkpoint that of its policy's tensors, as `policy_sha256` in
    result.json. `value_head_sha256` is that of the file of a critic's value head; None where the head is as new, or one
    of the checkpoint's tensors.
    """

    path: str
    steps: int
    sha256: str
    value_head_sha256: str | None = None


@dataclass(frozen=True)
class CriticUsed:
    """The critic, in the version that made the weights. `bundle` is where its value head comes from, None where that
    is as new. `run_versions`: the oldest and the newest version with which a run scores the exported steps.
    """

    version: int
    source: str
    bundle: str | None
    model: ModelUsed
    run_versions: tuple[int, int]


@dataclass(frozen=True)
class FileWritten:
    """A file of the export."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class WeightsManifest:
    """All that the two other files do not say.

    `weighting` is the arm's name; `asked_weighting` what config.yaml says, another one where critic.gate fell back.
    `config_sha256` is that of the text of config.yaml, `plan_sha256` the plan's digest. Rows are uses of rows; targets
    are labels that are trained, or would be if the weighting had not dropped them. `horizon_starts` is the first step
    of each horizon, empty where all are trained from the first. `whole_steps` of `num_steps` are
    here with all of their rows. `denominator` says what a step's weighted cross-entropies are divided by.
    """

    source: str
    weighting: str
    asked_weighting: str
    config_sha256: str
    plan_sha256: str
    plan_version: int
    dataset: str
    dataset_fingerprint: str
    tokenizer: str
    tokenizer_sha256: str
    critic: CriticUsed | None
    policy: ModelUsed | None
    references: tuple[ModelUsed, ...]
    normalizer: str
    denominator: str
    num_horizons: int
    horizon_coefs: tuple[float, ...]
    horizon_starts: tuple[int, ...]
    differs_by_horizon: bool
    first_step: int
    num_steps: int = 0
    whole_steps: int = 0
    rows: int = 0
    tokens: int = 0
    targets: int = 0
    files: dict[str, FileWritten] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    form: str = FORM


def parquet_schema(num_horizons: int) -> pa.Schema:
    """Return the columns; `num_horizons` is how many horizons have weights of their own, 1 where all have the same."""
    ids, weights = pa.list_(pa.int32()), pa.list_(pa.float32())
    columns = [
        ("step", pa.int64()),
        ("row_id", pa.int64()),
        ("use", pa.int32()),
        ("problem", pa.string()),
        ("is_correct", pa.bool_()),
        ("input_ids", ids),
        ("labels", ids),
        ("weights", weights),
        *((f"weights_h{k}", weights) for k in range(2, num_horizons + 1)),
        ("denominators", pa.list_(pa.float64())),
    ]
    return pa.schema(columns)


def require_new(directory: Path) -> None:
    """Refuse a folder that holds anything, before minutes are spent."""
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ArtifactError(f"{directory} is there already and not an empty folder; give a new one with --out")


def write_weights(directory: Path, manifest: WeightsManifest, used: Iterable[UsedRow]) -> WeightsManifest:
    """Write the rows as they come and return the manifest with what was counted; on an error nothing is left.

    Rows of a step stand together and begin with its first.
    """
    require_new(directory)
    num_horizons = manifest.num_horizons if manifest.differs_by_horizon else 1
    with atomic_directory(directory) as temporary:
        counts = _write_rows(temporary, num_horizons, used)
        paths = [temporary / name for name in (PARQUET, JSON_LINES)]
        files = {path.name: FileWritten(path.stat().st_size, file_sha256(path)) for path in paths}
        whole = replace(manifest, **asdict(counts), files=files)
        write_record(temporary / MANIFEST, whole)
    return whole


@dataclass
class _Counts:
    """Running sums of what was written; the fields are the manifest's."""

    num_steps: int = 0
    whole_steps: int = 0
    rows: int = 0
    tokens: int = 0
    targets: int = 0

    def add(self, used: UsedRow, *, begins_step: bool) -> None:
        self.num_steps += begins_step
        self.whole_steps += used.ends_step
        self.rows += 1
        self.tokens += len(used.row.labels_N)
        self.targets += int((used.row.labels_N >= 0).sum())


def _write_rows(directory: Path, num_horizons: int, used: Iterable[UsedRow]) -> _Counts:
    counts, waiting, waiting_tokens, step = _Counts(), list[UsedRow](), 0, -1
    schema = parquet_schema(num_horizons)
    with (
        (directory / JSON_LINES).open("wb") as lines,
        pq.ParquetWriter(directory / PARQUET, schema, compression="zstd") as parquet,
    ):
        for each in used:
            counts.add(each, begins_step=each.step != step)
            step = each.step
            lines.write(encode_line(_line(each, num_horizons)))
            waiting.append(each)
            waiting_tokens += len(each.row.labels_N)
            if waiting_tokens >= _TOKENS_PER_GROUP:
                parquet.write_table(_table(waiting, num_horizons))
                waiting, waiting_tokens = [], 0
        if waiting:
            parquet.write_table(_table(waiting, num_horizons))
    return counts


def _line(used: UsedRow, num_horizons: int) -> Line:
    row = used.row
    weights = [_shortest(weights_N) for weights_N in row.weights_HN[:num_horizons]]
    return Line(
        model_input=row.input_ids_N.tolist(),
        loss_fn_inputs=LossInputs(row.target_tokens_N.tolist(), weights[0]),
        row_id=row.row_id,
        step=used.step,
        denominator=used.denominators[0],
        horizon_weights={str(k): each for k, each in enumerate(weights[1:], start=2)},
    )


def _shortest(weights_N: Float32) -> list[float]:
    """Spell float32 with the digits that it has: 1.02, not 1.0199999809265137."""
    return [float(text) for text in weights_N.astype(str)]


def _table(used: list[UsedRow], num_horizons: int) -> pa.Table:
    rows = [each.row for each in used]
    ids, weights = pa.int32(), pa.float32()
    horizons = [_lists((row.weights_HN[k] for row in rows), weights) for k in range(num_horizons)]
    arrays = [
        pa.array([each.step for each in used], pa.int64()),
        pa.array([row.row_id for row in rows], pa.int64()),
        pa.array([each.use for each in used], pa.int32()),
        pa.array([each.problem for each in used], pa.string()),
        pa.array([row.is_correct for row in rows], pa.bool_()),
        _lists((row.input_ids_N for row in rows), ids),
        _lists((row.labels_N for row in rows), ids),
        *horizons,
        pa.array([each.denominators for each in used], pa.list_(pa.float64())),
    ]
    return pa.Table.from_arrays(arrays, schema=parquet_schema(num_horizons))


def _lists(arrays: Iterable[np.ndarray], kind: pa.DataType) -> pa.ListArray:
    """A column of lists from one flat array and where it is cut."""
    parts = list(arrays)
    offsets = np.cumsum([0, *(len(part) for part in parts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(parts), kind))
