import orjson
import pytest

from wmtp_ray.errors import ArtifactError
from wmtp_ray.tracking.result import RunResult, read_result, write_result

RESULT = RunResult("FINISHED", 200, {"loss/total": 0.5}, "ab" * 32, {"critic": 1.5, "train": 60.0}, ("a warning",))


def test_result_reads_back_equal(tmp_path):
    write_result(tmp_path, RESULT)
    assert read_result(tmp_path) == RESULT


def test_keys_are_those_that_outside_code_reads(tmp_path):
    path = write_result(tmp_path, RESULT)
    assert path == tmp_path / "result.json"
    assert list(orjson.loads(path.read_bytes())) == [
        "status",
        "steps",
        "metrics",
        "policy_sha256",
        "seconds_per_stage",
        "warnings",
        "memory",
        "weighting",
        "decisions",
    ]


def test_later_result_replaces_the_earlier_and_leaves_nothing_beside(tmp_path):
    write_result(tmp_path, RunResult("KILLED", 1, {}, None, {}, ()))
    write_result(tmp_path, RESULT)
    assert read_result(tmp_path) == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_run_without_result_is_said(tmp_path):
    with pytest.raises(ArtifactError, match="expected the result of a run that has ended"):
        read_result(tmp_path)
