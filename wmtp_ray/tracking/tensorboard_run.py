"""A run as TensorBoard's event files, in `<run>/tensorboard`: `tensorboard --logdir storage/runs` shows all runs.

A step is one record of a file, so that a file that was cut by a kill has whole steps; which steps there are is read
from the files when the run is opened again, in a new file beside them. Writes with the package tensorboard alone:
neither torch nor tensorflow is imported. Files of a run (config.yaml, eval/) stay where they are, beside the folder.
"""

import ctypes
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmtp_ray.run_folder import RunFolder
from wmtp_ray.tracking.metrics_file import Position
from wmtp_ray.tracking.mlflow_names import metric_key
from wmtp_ray.tracking.mlflow_points import Recorded
from wmtp_ray.tracking.mlflow_run import RunStatus
from wmtp_ray.tracking.sink import RESULT, TrackedRun, stage_of

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

_HEADER = struct.Struct("<QI")  # of a record: bytes, checksum of that
_FOOTER_BYTES = 4
_TEXT, _DT_STRING = "text", 7
_ENDS = {"FINISHED": 1, "FAILED": 2, "KILLED": 2}  # tensorboard.hparams.Status: success, failure


class TensorboardRun:
    """The event files of one run, open for more."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = RunFolder(run.run_dir).tensorboard
        folder.mkdir(parents=True, exist_ok=True)
        self._positions: set[Position] = set()
        self._numbers: dict[str, float] = {}
        self._texts: dict[str, str] = {}
        for path in sorted(folder.iterdir()):
            for event in read_events(path):
                self._note(event)
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.wmtp").open("wb")
        self._writer = RecordWriter(self._file)
        self._write(time.time(), file_version="brain.Event:2")
        if not self._texts:
            self._write(time.time(), summary=_hyper_parameters(run))
        self.set_tags(run.tags)

    def positions(self) -> Collection[Position]:
        """Return the steps of all its files."""
        return self._positions

    def log(self, steps: Sequence[Recorded]) -> None:
        """Append one record for each step, with the time that metrics.jsonl has."""
        for each in steps:
            values = {point.key: point.value for point in each.points}
            if values:
                self._write(each.time_ms / 1000, step=each.report.step, summary=_scalars(values))
        self._file.flush()

    def set_result(self, numbers: Mapping[str, float]) -> None:
        """Append numbers of the run as a whole at step 0, those that changed."""
        named = {f"{RESULT}{metric_key(key, 2)}": float(value) for key, value in numbers.items()}
        changed = {key: value for key, value in named.items() if repr(_single(value)) != repr(self._numbers.get(key))}
        if changed:
            self._write(time.time(), step=0, summary=_scalars(changed))
            self._numbers |= {key: _single(value) for key, value in changed.items()}
            self._file.flush()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Append the tags that changed, as texts."""
        changed = {f"tags/{key}": text for key, text in tags.items() if text and self._texts.get(f"tags/{key}") != text}
        if changed:
            self._write(time.time(), step=0, summary=_texts(changed))
            self._texts |= changed
            self._file.flush()

    def add_artifact(self, path: Path) -> None:
        """Do nothing: TensorBoard keeps no files, and the run's folder has them."""

    def end(self, status: RunStatus) -> None:
        """Write the status and close the file."""
        self._write(time.time(), summary=_session_end(status))
        self._file.close()

    def _write(self, time_s: float, **parts: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time_s, **parts).SerializeToString())

    def _note(self, event: "Event") -> None:
        """Remember what a record of an earlier start holds."""
        values = list(event.summary.value)
        if not values:
            return
        if values[0].metadata.plugin_data.plugin_name:
            self._texts |= {each.tag: each.tensor.string_val[0].decode() for each in values if each.tensor.string_val}
            return
        if values[0].tag.startswith(RESULT):
            self._numbers |= {each.tag: each.simple_value for each in values}
            return
        self._positions.add((stage_of(values[0].tag), event.step))


def read_events(path: Path) -> "Iterator[Event]":
    """Read the whole records of an event file; what a kill has left of the last one is skipped."""
    from tensorboard.compat.proto.event_pb2 import Event

    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            num_bytes, _ = _HEADER.unpack(header)
            data = file.read(num_bytes + _FOOTER_BYTES)
            if len(data) < num_bytes + _FOOTER_BYTES:
                return
            yield Event.FromString(data[:num_bytes])


def remedy(error: BaseException) -> str:
    """Return what to do about an error of this sink."""
    if isinstance(error, OSError):
        return "make room in the run's folder and make it writable"
    return "move the folder tensorboard/ of the run away: it is written anew from metrics.jsonl"


def _single(value: float) -> float:
    """The number as an event stores it, in four bytes."""
    return ctypes.c_float(value).value


def _scalars(values: Mapping[str, float]) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])


def _texts(texts: Mapping[str, str]) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=_TEXT))
    values = [
        Summary.Value(
            tag=tag,
            metadata=metadata,
            tensor=TensorProto(dtype=_DT_STRING, string_val=[text.encode()]),
        )
        for tag, text in texts.items()
    ]
    return Summary(value=values)


def _hyper_parameters(run: TrackedRun) -> "Summary":
    """Return the settings as TensorBoard's HPARAMS page reads them: numbers and switches as such, all else as text."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    began = SessionStartInfo(group_name=run.name, start_time_secs=time.time())
    for key, value in run.params.items():
        if isinstance(value, bool):
            began.hparams[key].bool_value = value
        elif isinstance(value, int | float):
            began.hparams[key].number_value = value
        else:
            began.hparams[key].string_value = str(value)
    return _of_session(HParamsPluginData(session_start_info=began), "session_start_info")


def _session_end(status: RunStatus) -> "Summary":
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    ended = SessionEndInfo(status=_ENDS[status], end_time_secs=time.time())
    return _of_session(HParamsPluginData(session_end_info=ended), "session_end_info")


def _of_session(data: Any, name: str) -> "Summary":
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    value = Summary.Value(tag=f"_hparams_/{name}", metadata=create_summary_metadata(data), tensor=NULL_TENSOR)
    return Summary(value=[value])
