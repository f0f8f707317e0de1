import gzip
from pathlib import Path

import pytest

from tests.unit.evaluation.examples import (
    contest_record,
    converted_mbpp_file,
    humaneval_file,
    instruction_record,
    mbpp_file,
    write_lines,
)
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, StdioTests, read_problems

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def test_a_head_to_continue_is_humaneval_and_words_are_an_instruction(tmp_path):
    heads = read_problems(humaneval_file(tmp_path))
    assert (heads.kind, len(heads.problems)) == ("humaneval", 3)
    assert heads.problems[1].tests == FunctionTests("def check(candidate):\n    assert candidate(1) == 2\n", "add_1")
    words = read_problems(write_lines(tmp_path / "words.jsonl", [instruction_record(4)]))
    assert (words.kind, words.problems[0].task_id, words.problems[0].prompt) == ("instruction", "list_4", "plus 4")


def test_a_compressed_file_is_the_same_problems(tmp_path):
    plain = humaneval_file(tmp_path)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_problems(packed).problems == read_problems(plain).problems


def test_generated_list_problems_are_read(tmp_path):
    tasks = ListTasks(
        seed=0, num_train_problems=40, num_valid_problems=3, num_correct=1, num_incorrect=0, systematic_frac=0.5
    )
    found = read_problems(write_list_tasks(tmp_path, tasks).valid_problems)
    assert (found.kind, len(found.problems)) == ("instruction", 3)
    assert all("check(candidate)" in each.tests.source for each in found.problems)


@pytest.mark.parametrize("write", [mbpp_file, converted_mbpp_file])
def test_of_mbpp_the_test_split_is_evaluated_and_the_rest_said(tmp_path, write):
    found = read_problems(write(tmp_path))
    assert found.kind == "mbpp"
    assert [each.task_id for each in found.problems] == ["Mbpp/11", "Mbpp/12"], "the ids that EvalPlus knows"
    assert [each.task_id for each in found.examples] == ["Mbpp/2", "Mbpp/3", "Mbpp/4"]
    assert found.left_out == ("4 problems of other splits than test",)
    asserts = ("assert add_11(0) == 11", "assert add_11(1) == 12", "assert add_11(2) == 13")
    assert found.problems[0].tests == AssertTests(asserts, "", "add_11")


def test_all_tests_of_a_contest_problem_count_and_its_own_limits(tmp_path):
    found = read_problems(write_lines(tmp_path / "test_problems.jsonl", [contest_record("1_A. Sum")]))
    [problem] = found.problems
    assert (found.kind, problem.task_id) == ("codecontests", "1_A. Sum")
    assert problem.tests == StdioTests((("1 2\n", "3\n"), ("4 5\n", "9\n")), 2.0, 256 << 20)
    assert problem.shown == "Input: 1 2\n\nOutput: 3\n", "what training rows show: public tests only"


def test_contest_problems_that_stdin_cannot_judge_are_left_out_and_said(tmp_path):
    records = [
        contest_record("good"),
        contest_record("file", input_file="in.txt"),
        contest_record("bare", public_tests=[], private_tests=[]),
    ]
    found = read_problems(write_lines(tmp_path / "p.jsonl", records))
    assert [each.task_id for each in found.problems] == ["good"]
    assert found.left_out == ("1 problems that read or write files", "1 problems without tests")
    with pytest.raises(DataError, match="nothing to judge: 2 problems that read"):
        read_problems(write_lines(tmp_path / "p.jsonl", [records[1], records[1]]))


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"instruction": "x", "output": "y", "task_id": "z"}, r"the keys \['instruction', 'output', 'task_id'\]"),
        ({"description": "x", "public_tests": []}, "a record without"),
        ({"tests": [], "setup_code": ""}, "a record without"),
    ],
)
def test_what_holds_no_problems_is_refused(tmp_path, record, found):
    path = write_lines(tmp_path / "rows.jsonl", [record])
    with pytest.raises(DataError, match=f"rows.jsonl: found {found}.* expected problems with tests"):
        read_problems(path)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="found no record"):
        read_problems(write_lines(tmp_path / "none.jsonl", []))


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("humaneval/HumanEval.jsonl.gz", "humaneval", 164),
        ("mbpp/mbpp.jsonl", "mbpp", 500),
        ("mbpp/sanitized-mbpp.json", "mbpp", 257),
    ],
)
def test_the_published_files_are_read(name, kind, count):
    if not (SHARED / name).exists():
        pytest.skip("the published file is not there")
    found = read_problems(SHARED / name)
    assert (found.kind, len(found.problems)) == (kind, count)
