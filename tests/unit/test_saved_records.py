"""Every record that we save comes back as it was written, and says which field of which file is wrong."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from actors.row_converter import PartReceipt
from tests.unit.evaluation.test_results import results_of
from wmtp_ray.artifacts.model_record import ModelRecord, SharedTokenizer, read_model_record
from wmtp_ray.contracts import StepReport
from wmtp_ray.data.dataset_manifest import FILE_NAME as MANIFEST
from wmtp_ray.data.dataset_manifest import (
    Conversion,
    DatasetManifest,
    FileDigest,
    SourceRecord,
    SplitRecord,
    read_manifest,
)
from wmtp_ray.data.kept_rows import Counts
from wmtp_ray.errors import ArtifactError, WmtpError
from wmtp_ray.evaluation.identity import FILE_NAME as CLAIM
from wmtp_ray.evaluation.identity import ClaimedEvaluation
from wmtp_ray.evaluation.results import FILE_NAME as RESULTS
from wmtp_ray.evaluation.results import read_results
from wmtp_ray.evaluation.samples import Sample
from wmtp_ray.model.lora import AdapterSpec
from wmtp_ray.report.quickstart_summary import CriticFindings, QuickstartArm, QuickstartSummary, Share
from wmtp_ray.saved_records import decode_record, read_record, write_exact_record, write_record
from wmtp_ray.tracking.memory_use import MemoryUse, Peak
from wmtp_ray.tracking.result import RunResult, read_result
from wmtp_ray.tracking.sweep_result import (
    SavedObjective,
    SavedPoint,
    SavedSweepFile,
    SavedTrial,
    TrialRecord,
    read_sweep,
    read_trial,
)
from wmtp_ray.tracking.token_evidence import HeldOutLoss, ProgramPair, TokenEvidence, TokenTrace, read_token_evidence
from wmtp_ray.tracking.training_record import PolicyTraining, Start, StartRecord, TrainingRecord
from wmtp_ray.training.checkpoint import RunState, WrittenFile, read_state
from wmtp_ray.training.measure_critic import HealthFindings
from wmtp_ray.training.stages import StageResult, read_stage_result

TRAINING = TrainingRecord("r", "p", 6, 600, 2, "td", "d", Start("/m", "w", None), {"seed": 1})
TRACE = TokenTrace(3, 2, ("a", "b"), (0.5, 1.0), {"td": (1.0, 2.0)}, 0.5, (0.25, 0.5), (0.0, 0.25), (0, 1))
DIGEST = FileDigest("s", 3)
TRIAL = TrialRecord("t", 1, {"weighting.beta": 0.5}, 1, "finished", None, 9, {"loss": 0.5, "nan": None}, "t", ("note",))
POINT = SavedPoint(1, {"weighting.beta": 0.5}, 0.5, 0.25, 0.75, {1: 0.5, 2: 0.5}, {"finished": 2}, (1, 2), 2)
PEAK = Peak(1, 2, "rss")
SHARE = Share(0.5, 0.25, 0.75, 40)
ARM = QuickstartArm(
    "r", "w", 60, 600, SHARE, SHARE, CriticFindings({"critic/auc_100": 0.5}, ("low",), ("length",)), 1.5
)


class Kind(NamedTuple):
    """A kind of record: its file, an example with every field filled, and how its owner reads a folder."""

    file: str
    example: Any
    read: Callable[[Path], Any] | None = None

    @property
    def type(self) -> Any:
        return type(self.example)

    def read_in(self, folder: Path) -> Any:
        if self.read is not None:
            return self.read(folder)
        return read_record(folder / self.file, self.type, "do something")


KINDS = [
    Kind(
        "result.json",
        RunResult(
            "FINISHED", 9, {"loss": 0.5}, "p", {"stage_2": 1.5}, ("w",), MemoryUse(PEAK, PEAK),
            "td",
        ),
        read_result,
    ),
    Kind(
        "stage_result.json",
        StageResult(1, 9, "p", HealthFindings({"auc": 0.5}, ["low"], ["length"]), 7),
        read_stage_result,
    ),
    Kind("state.json", RunState(2, 9, "d", {"mean": 0.5}, "m", 2, 0.5), read_state),
    Kind("start.json", StartRecord("td", Start("/m", "w", TRAINING))),
    Kind("training.json", PolicyTraining("w", TRAINING)),
    Kind(
        "token_evidence.json",
        TokenEvidence("td", 0.5, 2.0, HeldOutLoss(0.5, 0.75, 8, 4), (ProgramPair("p", "q", True, TRACE, TRACE),)),
        read_token_evidence,
    ),
    Kind(CLAIM, ClaimedEvaluation("k", {"dataset": {}})),
    Kind(RESULTS, results_of(), read_results),
    Kind("sample", Sample("a", 0, "x", "y", "stop", 3, 2, (1, 2), (1, 1))),
    Kind("quickstart.json", QuickstartSummary(ARM, {"baseline": ARM}, {"a minus b": SHARE}, {}, ("so",), 1.5)),
    Kind("trial.json", TRIAL, read_trial),
    Kind(
        "sweep.json",
        SavedSweepFile(
            SavedObjective("loss", "min"), "grid", {"weighting.beta": [0.5]}, "t over seeds", ("index",),
            (SavedTrial("t", 1, "stopped", "rule", "t"),), (POINT,), "verdict",
        ),
        read_sweep,
    ),
    Kind(
        "metadata.json",
        ModelRecord(
            "policy", "ready", "v", "float32", 7, {"a": DIGEST}, {"n": 1}, {"b": DIGEST},
            SharedTokenizer("../m", "s"), "2026-01-01T00:00:00", "s", "cpu", 1,
        ),
        read_model_record,
    ),
    Kind(
        MANIFEST,
        DatasetManifest(
            Conversion("d", "l", "s", {"n": 1}, 2),
            "2026-01-01T00:00:00",
            {"train": SplitRecord(SourceRecord("hub", "r", {"f": DIGEST}), {"f": DIGEST}, Counts(problems=3))},
            {"f": DIGEST},
        ),
        lambda folder: read_manifest(folder / MANIFEST),
    ),
    Kind("receipt.json", PartReceipt(DIGEST, DIGEST, Counts())),
    Kind("adapters.json", AdapterSpec(2, 4, ("wq",), "s")),
    Kind("report.json", StepReport(2, 3, {"loss": 0.5})),
]  # fmt: skip
UNTYPED = {"identity", "settings", "overrides", "space"}  # what another part of the code spells, as it is
NAMES = [kind.file for kind in KINDS]


def written(folder: Path, kind: Kind) -> dict[str, Any]:
    write_record(folder / kind.file, kind.example)
    values: dict[str, Any] = json.loads((folder / kind.file).read_bytes())
    return values


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all values of a type, containers too."""
    if place and place[-1] in UNTYPED:
        return
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from leaves(each, (*place, key))


def changed(values: Any, place: tuple[Any, ...]) -> Any:
    """A copy with a value of another type at a place."""
    copy = json.loads(json.dumps(values))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = [[]]  # of no field's type
    return copy


def optional_fields(kind: Kind) -> set[str]:
    return {field.name for field in msgspec.inspect.type_info(kind.type).fields if not field.required}


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_record_comes_back_as_it_was_written(tmp_path: Path, kind: Kind) -> None:
    written(tmp_path, kind)
    assert kind.read_in(tmp_path) == kind.example
    assert (tmp_path / kind.file).read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_field_of_another_type_is_named_with_its_file(tmp_path: Path, kind: Kind) -> None:
    values = written(tmp_path, kind)
    places = list(leaves(values))
    assert len(places) >= len(values) - len(UNTYPED & values.keys())
    for place in places:
        (tmp_path / kind.file).write_text(json.dumps(changed(values, place)))
        with pytest.raises(WmtpError) as caught:
            kind.read_in(tmp_path)
        assert kind.file in str(caught.value)
        assert f"in the field {place[0]}" in str(caught.value), (place, str(caught.value))
        assert "expected " in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_missing_field_is_named_and_one_that_came_later_may_be_absent(tmp_path: Path, kind: Kind) -> None:
    values = written(tmp_path, kind)
    later = optional_fields(kind)
    for name in values.keys() - later:
        (tmp_path / kind.file).write_text(json.dumps({key: each for key, each in values.items() if key != name}))
        with pytest.raises(WmtpError, match=rf"{kind.file}: the field {name} is missing; \w+"):
            kind.read_in(tmp_path)
    (tmp_path / kind.file).write_text(json.dumps({key: each for key, each in values.items() if key not in later}))
    assert type(kind.read_in(tmp_path)) is kind.type


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, kind: Kind) -> None:
    written(tmp_path, kind)
    content = (tmp_path / kind.file).read_bytes()
    (tmp_path / kind.file).write_bytes(content[: len(content) // 2])
    with pytest.raises(WmtpError, match=rf"{kind.file} is damaged: found no JSON"):
        kind.read_in(tmp_path)


def test_a_field_deep_inside_is_named_by_its_whole_path(tmp_path: Path) -> None:
    values = written(tmp_path, KINDS[0])
    del values["memory"]["rank"]["measured_as"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"result\.json: the field memory\.rank\.measured_as is missing; restore"):
        read_result(tmp_path)
    values["memory"] = None
    values["steps"] = "nine"
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"found text in the field steps, expected a whole number; restore"):
        read_result(tmp_path)


def test_a_field_of_a_later_version_is_passed_over_but_not_in_the_state_of_a_run(tmp_path: Path) -> None:
    for kind in KINDS[0], KINDS[2]:
        (tmp_path / kind.file).write_text(json.dumps(written(tmp_path, kind) | {"from_later": 1}))
    assert read_result(tmp_path) == KINDS[0].example
    with pytest.raises(ArtifactError, match=r"state\.json: found the field from_later, which this version does not"):
        read_state(tmp_path)


def test_a_number_that_is_not_finite_is_null_or_comes_back_where_the_record_must_give_it_back(tmp_path: Path) -> None:
    result = dataclasses.replace(KINDS[0].example, metrics={"loss": math.nan, "gain": np.float64("inf")})
    write_record(tmp_path / "result.json", result)
    assert read_result(tmp_path).metrics == {"loss": None, "gain": None}
    write_exact_record(tmp_path / "state.json", RunState(2, 9, "d", {"mean": math.inf}, None, 1, np.float64("nan")))
    state = read_state(tmp_path)
    assert math.isnan(state.mean_loss)
    assert state.scorer == {"mean": math.inf}


def test_what_json_does_not_know_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="complex"):
        write_record(tmp_path / "record", {"value": 1j})
    assert not list(tmp_path.iterdir())


def test_the_error_of_a_data_set_is_one_of_data(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(WmtpError, match=r"manifest\.json: the field conversion is missing; delete it"):
        read_manifest(tmp_path / MANIFEST)


def test_a_list_of_records_names_the_place_in_it() -> None:
    content = b'[{"stage":2,"step":1},{"stage":2,"step":"x"}]'
    with pytest.raises(ArtifactError, match=r"reports: found text in the field \[1\]\.step, expected a whole"):
        decode_record(content, list[StepReport], "reports", "remove it")


def test_a_manifest_of_a_checkpoint_is_typed(tmp_path: Path) -> None:
    write_record(tmp_path / "manifest.json", {"weights": WrittenFile(3, "s")})
    assert read_record(tmp_path / "manifest.json", dict[str, WrittenFile], "go") == {"weights": WrittenFile(3, "s")}
