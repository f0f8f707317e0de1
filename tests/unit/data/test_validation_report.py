import json
from pathlib import Path

import pytest

from wmtp_ray.data.validation.checksums import expected_checksum, find_other_bytes
from wmtp_ray.data.validation.report import SHOWN_EXAMPLES, CheckedFile, ValidationReport
from wmtp_ray.data.validation.rules import Finding, Rule
from wmtp_ray.errors import DataError

FILE = CheckedFile("train.jsonl", "data/train.jsonl", 4096, "ab" * 32, None, 200, 90, 7)


def report(*findings: Finding) -> ValidationReport:
    return ValidationReport((FILE,), {"mbpp": 974}, findings)


@pytest.mark.parametrize("rule", Rule)
def test_an_error_is_a_problem_and_a_warning_is_none(rule: Rule) -> None:
    found = report(Finding(rule, ("train.jsonl",), 1, "rows", ("one",)))
    assert found.has_problems == (rule.severity == "error")
    assert ("Refused (exit code 2)" in found.render()) == (rule.severity == "error")


def test_the_table_names_every_rule_and_what_was_not_checked() -> None:
    text = report().render()
    assert not report().has_problems
    assert all(rule.title in text for rule in Rule)
    assert "not checked: one file only" in text
    assert "not checked: no manifest.json names a file" in text
    assert "not checked: no benchmark given" not in text


def test_the_text_shows_a_few_examples_and_json_all() -> None:
    examples = tuple(f"train.jsonl:{number}" for number in range(12))
    found = report(Finding(Rule.REPEATED_ROW, ("train.jsonl",), 30, "rows", examples))
    text = found.render()
    assert "30  rows (15 %) in train.jsonl" in text
    assert examples[SHOWN_EXAMPLES - 1] in text
    assert examples[SHOWN_EXAMPLES] not in text
    assert "and 25 more" in text
    content = json.loads(found.to_json())
    assert content["findings"][0]["examples"] == list(examples)
    assert (content["findings"][0]["rule"], content["findings"][0]["severity"]) == ("repeated_row", "warning")
    assert content["files"][0]["sha256"] == FILE.sha256
    assert content["has_problems"] is False


@pytest.mark.parametrize("folder", ["data", "."])
@pytest.mark.parametrize("form", ["by split", "object", "text"])
def test_a_file_is_held_against_the_manifest_beside_or_above_it(tmp_path: Path, folder: str, form: str) -> None:
    path = tmp_path / "data" / "train.jsonl"
    path.parent.mkdir()
    name = path.relative_to(tmp_path / folder).as_posix()
    files = {"files": {name: "aa" if form == "text" else {"sha256": "aa", "num_bytes": 1}}}
    content = {"conversion": {}, "splits": {"train": files}} if form == "by split" else files
    (tmp_path / folder / "manifest.json").write_text(json.dumps(content))
    assert find_other_bytes("train.jsonl", expected_checksum(path, "aa")) == []
    [finding] = find_other_bytes("train.jsonl", expected_checksum(path, "bb"))
    assert finding.rule is Rule.OTHER_BYTES
    assert "bb" in finding.examples[0]
    assert "aa" in finding.examples[0]


@pytest.mark.parametrize(
    "content", [None, "[]", "{}", '{"files": {"valid.jsonl": "aa"}}', '{"files": ["train.jsonl"]}']
)
def test_a_manifest_that_does_not_name_the_file_says_nothing(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    checksum = expected_checksum(tmp_path / "train.jsonl", "aa")
    assert (checksum.manifest, checksum.expected) == (None, None)
    assert find_other_bytes("train.jsonl", checksum) == []


def test_a_torn_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"files": {')
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read as JSON"):
        expected_checksum(tmp_path / "train.jsonl", "aa")
