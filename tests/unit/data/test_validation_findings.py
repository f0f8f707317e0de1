from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.data.validation import findings as findings_module
from wmtp_ray.data.validation.findings import ScannedFile, find_in_rows
from wmtp_ray.data.validation.overlap import COMMON_PROBLEMS, TOO_MANY_COMMON, find_overlap
from wmtp_ray.data.validation.passages import BenchmarkTask, Passages
from wmtp_ray.data.validation.rules import Finding, Rule
from wmtp_ray.data.validation.scan import scan_range
from wmtp_ray.errors import DataError

MakeLine = Callable[..., bytes]
Scan = Callable[..., ScannedFile]
PROMPT = "Return the greatest common divisor of two integers a and b, please do so."
LAYOUT_RULES = (Rule.REPEATED_TASK_ID, Rule.REPEATED_ROW, Rule.REPEATED_PROGRAM)
TASKS = (
    BenchmarkTask("HumanEval/13", True, (PROMPT,)),
    BenchmarkTask("mbpp_601", False, ("Sort the given list twice.",)),
)


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    """Write lines to a file of that name and scan it."""

    def write_and_scan(name: str, *lines: bytes) -> ScannedFile:
        path = tmp_path / name
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return ScannedFile(path, name, scan_range(path, 0, path.stat().st_size, TASKS))

    return write_and_scan


@pytest.fixture
def clean(line: MakeLine) -> list[bytes]:
    """Two problems, an answer of each class; nothing is wrong with them."""
    return [
        line(instruction=f"Do {name}.", task_id=f"{name}_{label}_0", is_correct=label == "correct", output=f"{label}()")
        for name in ("a", "b")
        for label in ("correct", "incorrect")
    ]


def only(findings: list[Finding], *rules: Rule) -> list[Finding]:
    """Return the findings, which have to be of these rules."""
    assert [finding.rule for finding in findings] == list(rules)
    return findings


def test_clean_splits_yield_nothing(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    valid = scan("valid.jsonl", line(instruction="Do c.", task_id="c_correct_0"))
    files = [scan("train.jsonl", *clean), valid]
    assert find_in_rows(files) + find_overlap(files, Passages(TASKS)) == []


def test_malformed_lines_are_named_with_their_reasons(scan: Scan, clean: list[bytes]) -> None:
    [finding] = only(find_in_rows([scan("train.jsonl", clean[0], b"{torn", clean[1], b"[]")]), Rule.MALFORMED)
    assert (finding.count, finding.unit, finding.files) == (2, "lines", ("train.jsonl",))
    assert finding.examples[0].startswith("train.jsonl:2: found invalid or truncated JSON")
    assert finding.examples[1].startswith("train.jsonl:4: found a list")


def test_an_exact_repetition_is_found_within_a_file_and_across(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    again = line(instruction="Do a.", task_id="a_correct_7", output="correct()")
    within = only(
        find_in_rows([scan("train.jsonl", *clean, again, clean[0])]), Rule.REPEATED_TASK_ID, Rule.REPEATED_ROW
    )
    assert within[1].count == 2
    assert within[1].examples[0] == "train.jsonl:1 a_correct_0 and train.jsonl:5 a_correct_7"
    across = find_in_rows([scan("train.jsonl", *clean), scan("valid.jsonl", again)])
    rules = [Rule.REPEATED_ROW, Rule.PROBLEM_IN_TWO_SPLITS, Rule.INSTRUCTION_IN_TWO_SPLITS]
    for finding in only(across, *rules):
        assert (finding.count, finding.files) == (1, ("train.jsonl", "valid.jsonl"))
        assert "train.jsonl:1" in finding.examples[0]
        assert "valid.jsonl:1" in finding.examples[0]


def test_a_repetition_in_another_layout_is_found_and_not_counted_twice(
    scan: Scan, clean: list[bytes], line: MakeLine
) -> None:
    changed = line(instruction="Do  a.", task_id="a_correct_1", output="correct()  # the same\n")
    findings = only(find_in_rows([scan("train.jsonl", *clean, changed, changed)]), *LAYOUT_RULES)
    assert [finding.count for finding in findings] == [1, 1, 1]
    assert findings[2].examples == ("train.jsonl:1 a_correct_0 and train.jsonl:5 a_correct_1",)


@pytest.mark.parametrize("output", ["correct()", "correct()\n\n"])
def test_a_program_with_both_labels_is_an_error_once(
    scan: Scan, clean: list[bytes], line: MakeLine, output: str
) -> None:
    denied = [
        line(instruction="Do a.", task_id=f"a_incorrect_{n}", is_correct=False, output=output + "\n" * n)
        for n in (1, 2)
    ]
    findings = find_in_rows([scan("train.jsonl", *clean, *denied)])
    [finding] = [finding for finding in findings if finding.rule.severity == "error"]
    assert (finding.rule, finding.count, finding.unit) == (Rule.BOTH_LABELS, 1, "programs")
    assert finding.examples == ("train.jsonl:1 a_correct_0 and train.jsonl:5 a_incorrect_1",)


def test_the_same_program_for_another_problem_denies_nothing(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    other = line(instruction="Do c.", task_id="c_incorrect_0", is_correct=False, output="correct()")
    assert find_in_rows([scan("train.jsonl", *clean, other)]) == []


def test_a_label_against_the_task_id_is_an_error(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    wrong = line(instruction="Do c.", task_id="c_correct_0", is_correct=False)
    free = line(instruction="Do d.", task_id="d", is_correct=False)
    [finding] = only(find_in_rows([scan("train.jsonl", *clean, wrong, free)]), Rule.LABEL_AGAINST_TASK_ID)
    assert finding.examples == ("train.jsonl:5: is_correct is false in c_correct_0",)


def test_a_problem_in_two_splits_is_found_by_name_and_by_text(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    train = scan("train.jsonl", *clean)
    by_name = scan("valid.jsonl", line(instruction="Do it differently.", task_id="b_correct_9"))
    by_text = scan("test.jsonl", line(instruction=" Do\na.", task_id="renamed_correct_0", output="other()"))
    findings = only(find_in_rows([train, by_name, by_text]), Rule.PROBLEM_IN_TWO_SPLITS, Rule.INSTRUCTION_IN_TWO_SPLITS)
    assert findings[0].examples == ("b: train.jsonl:3 and valid.jsonl:1",)
    assert findings[1].examples == ("train.jsonl:1 a_correct_0 and test.jsonl:1 renamed_correct_0",)


def test_benchmark_texts_are_found_in_instructions_and_outputs(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    asked = line(instruction=f"Easy. {PROMPT.upper()}", task_id="c_correct_0")
    written = line(instruction="Do d.", task_id="d_correct_0", output=f'"""{PROMPT}"""')
    other_split = line(instruction="Do e: sort the given list twice!", task_id="e_correct_0")
    file = scan("train.jsonl", *clean, asked, written, other_split)
    test, other = only(find_overlap([file], Passages(TASKS)), Rule.TEST_TASK, Rule.OTHER_TASK)
    assert (test.count, other.count) == (2, 1)
    assert test.examples[0].startswith("HumanEval/13 in c (train.jsonl:5; rows: 1, passages: 2): ")
    assert '"return the greatest common divisor of two integers a and b please do"' in test.examples[0]
    assert "in d (train.jsonl:6;" in test.examples[1]
    assert other.examples[0].startswith("mbpp_601 in e (train.jsonl:7; rows: 1, passages: 1)")


@pytest.mark.parametrize("num_problems", [COMMON_PROBLEMS, COMMON_PROBLEMS + 1])
def test_a_passage_in_many_problems_is_a_phrase_and_no_leak(scan: Scan, line: MakeLine, num_problems: int) -> None:
    lines = [line(instruction=f"Do {n}.", task_id=f"{n}_correct_0", output=PROMPT) for n in range(num_problems)]
    [finding] = find_overlap([scan("train.jsonl", *lines)], Passages(TASKS))[:1]
    expected = Rule.TEST_TASK if num_problems <= COMMON_PROBLEMS else Rule.COMMON_PHRASE
    assert finding.rule is expected


def test_a_long_text_copied_into_many_problems_is_a_leak(scan: Scan, line: MakeLine) -> None:
    text = " ".join(f"word{number}" for number in range(12 + TOO_MANY_COMMON))
    copies = [line(instruction=f"{text} {n}", task_id=f"{n}_correct_0") for n in range(COMMON_PROBLEMS + 1)]
    path = scan("train.jsonl", *copies).path
    tasks = (BenchmarkTask("HumanEval/1", True, (text,)),)
    file = ScannedFile(path, "train.jsonl", scan_range(path, 0, path.stat().st_size, tasks))
    leak, _ = only(find_overlap([file], Passages(tasks)), Rule.TEST_TASK, Rule.COMMON_PHRASE)
    assert leak.count == COMMON_PROBLEMS + 1


def test_rows_that_only_hash_alike_are_not_reported(scan: Scan, clean: list[bytes]) -> None:
    file = scan("train.jsonl", *clean)
    for column_N in (file.rows.exact_N, file.rows.program_N, file.rows.task_id_N):
        column_N[:] = 7  # as if all four rows had collided
    assert find_in_rows([file]) == []


def test_a_file_that_changed_since_it_was_scanned_is_refused(scan: Scan, clean: list[bytes]) -> None:
    file = scan("train.jsonl", *clean, clean[0])
    file.path.write_bytes(b"#" * file.path.stat().st_size)
    with pytest.raises(DataError, match=r"train\.jsonl"):
        find_in_rows([file])


@given(st.lists(st.integers(0, 5), max_size=30))
def test_every_row_is_paired_with_the_first_of_its_hash(hashes: list[int]) -> None:
    repeats = findings_module._repeats(np.array(hashes, np.uint64))
    pairs = sorted(zip(repeats.again_D.tolist(), repeats.first_D.tolist(), strict=True))
    assert pairs == [(row, hashes.index(h)) for row, h in enumerate(hashes) if hashes.index(h) != row]


def test_rows_without_a_program_are_counted_apart_from_malformed_lines(
    scan: Scan, clean: list[bytes], line: MakeLine
) -> None:
    empty = [line(output=output) for output in ("", " \n", "\u2003")]
    [finding] = only(find_in_rows([scan("train.jsonl", *clean, *empty)]), Rule.EMPTY_PROGRAM)
    assert (finding.count, finding.unit, finding.rule.severity) == (3, "lines", "error")
    assert finding.examples[0] == 'train.jsonl:5: found no program in "output" (empty or white space), expected one'


@pytest.mark.parametrize("output", ["# later\n\n  # or never", "```python\n```", "~~~", "print(1)\0", "\0"])
def test_a_program_that_can_do_nothing_is_a_warning(
    scan: Scan, clean: list[bytes], line: MakeLine, output: str
) -> None:
    odd = line(instruction="Do c.", task_id="c_correct_0", output=output)
    [finding] = only(find_in_rows([scan("train.jsonl", *clean, odd)]), Rule.NO_CODE)
    assert (finding.count, finding.examples) == (1, ("train.jsonl:5 c_correct_0",))


@pytest.mark.parametrize("output", ["x = 1  # one", "```python\nprint(1)\n```", "print('#')", "pass"])
def test_a_program_with_a_line_of_code_is_none(scan: Scan, clean: list[bytes], line: MakeLine, output: str) -> None:
    odd = line(instruction="Do c.", task_id="c_correct_0", output=output)
    only(find_in_rows([scan("train.jsonl", *clean, odd)]))


def test_an_empty_instruction_is_a_warning(scan: Scan, clean: list[bytes], line: MakeLine) -> None:
    odd = [line(instruction=text, task_id=f"c{n}_correct_0", output=f"f({n})") for n, text in enumerate(("", " \n"))]
    [finding] = only(find_in_rows([scan("train.jsonl", *clean, *odd)]), Rule.NO_INSTRUCTION)
    assert finding.count == 2
