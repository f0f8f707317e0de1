import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.examples import (
    contest_record,
    converted_mbpp_file,
    humaneval_file,
    humaneval_record,
    instruction_record,
    mbpp_file,
    mbpp_plus_record,
    mbpp_record,
    write_lines,
)
from wmtp_ray.data.benchmarks import problem_line, read_humaneval, read_mbpp
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import JudgeTask, judge_answer
from wmtp_ray.evaluation.problems import AssertTests, FunctionTests, StdioTests, read_problems

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def test_a_head_to_continue_is_humaneval_and_words_are_an_instruction(tmp_path):
    heads = read_problems(humaneval_file(tmp_path))
    assert (heads.kind, len(heads.problems)) == ("humaneval", 3)
    assert heads.problems[1].tests == FunctionTests("def check(candidate):\n    assert candidate(1) == 2\n", "add_1")
    words = read_problems(write_lines(tmp_path / "words.jsonl", [instruction_record(4)]))
    assert (words.kind, words.problems[0].task_id, words.problems[0].prompt) == ("instruction", "list_4", "plus 4")
    assert words.problems[0].reference == instruction_record(4)["canonical_solution"], "words are no part of a program"


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
        ({"description": "x", "public_tests": []}, r"the keys .*\(CodeContests without .*name"),
        ({"tests": [], "setup_code": ""}, r"the keys .*\(converted without entry_point"),
        (mbpp_record(11) | {"test": "assert add_11(5) == 16"}, r"the keys .*\(MBPP with test\)"),
        (humaneval_record(0) | {"bug_type": "x"}, r"the keys .*\(HumanEval with bug_type\)"),
        (humaneval_record(0) | {"test_list": ["assert add_0(1) == 1"]}, r"the keys .*\(HumanEval with test_list\)"),
    ],
)
def test_what_holds_no_problems_is_refused(tmp_path, record, found):
    path = write_lines(tmp_path / "rows.jsonl", [record])
    with pytest.raises(DataError, match=f"rows.jsonl:1: found {found}.* expected problems with tests"):
        read_problems(path)


def test_all_of_mbpp_plus_is_judged_by_its_suite(tmp_path):
    """Ids of every split, spelled either way; the base asserts are what prompts show."""
    records = [mbpp_plus_record(2), mbpp_plus_record(11), mbpp_plus_record(700) | {"task_id": "Mbpp/700"}]
    found = read_problems(write_lines(tmp_path / "plus.jsonl", records))
    assert (found.kind, found.left_out) == ("mbpp", ())
    assert [each.task_id for each in found.problems] == ["Mbpp/2", "Mbpp/11", "Mbpp/700"]
    tests = found.problems[1].tests
    assert isinstance(tests, AssertTests)
    assert (tests.entry_point, tests.deciding) == ("add_11", (records[1]["test"],))
    assert tests.asserts == tuple(records[1]["test_list"])
    converted = tmp_path / "problems.jsonl"
    converted.write_bytes(b"".join(problem_line(each) + b"\n" for each in read_mbpp([tmp_path / "plus.jsonl"])))
    assert read_problems(converted).problems == found.problems


def test_a_program_that_passes_only_the_base_asserts_of_mbpp_plus_fails(tmp_path):
    [problem] = read_problems(write_lines(tmp_path / "plus.jsonl", [mbpp_plus_record(11)])).problems
    programs = ("def add_11(a):\n    return {0: 11, 1: 12, 2: 13}[a]\n", "def add_11(a):\n    return a + 11\n")
    with Judge(num_workers=1) as judge:
        found = [judge_answer(judge, JudgeTask("Mbpp/11", 0, program, problem.tests)).status for program in programs]
    assert found == ["fail", "pass"]


def test_the_raw_files_of_evalplus_are_refused_by_name(tmp_path):
    record = humaneval_record(0) | {"base_input": [[1]], "plus_input": [[2]], "atol": 0, "contract": ""}
    for test in ({}, {"test": ""}):
        path = write_lines(tmp_path / "raw.jsonl", [record | test])
        with pytest.raises(DataError, match=r"raw\.jsonl:1: found EvalPlus' own file .* its `test` column"):
            read_problems(path)


def test_a_converted_problem_that_any_program_would_pass_is_refused(tmp_path):
    (problem,) = read_humaneval([write_lines(tmp_path / "humaneval.jsonl", [humaneval_record(0)])])
    for tests in ((), ("def check(candidate):\n    pass\n",)):
        converted = tmp_path / "converted.jsonl"
        converted.write_bytes(problem_line(replace(problem, tests=tests)) + b"\n")
        with pytest.raises(DataError, match=r"converted\.jsonl:1: found the problem HumanEval/0 without a test"):
            read_problems(converted)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([mbpp_record(11) | {"test_list": []}], "p.jsonl:1: found the problem 11 without a test"),
        ([mbpp_plus_record(11) | {"test": " "}], "p.jsonl:1: found the problem 11 without a test"),
        ([humaneval_record(0) | {"test": "assert True"}], "p.jsonl:1: found the problem HumanEval/0 without a test"),
        (
            [humaneval_record(0) | {"test": "def check(candidate: object) -> None:\n    pass\n"}],
            "p.jsonl:1: found the problem HumanEval/0 without a test",
        ),
        ([humaneval_record(0), mbpp_record(11)], r"several kinds \(HumanEval at .*p.jsonl:1, MBPP at .*p.jsonl:2\)"),
        ([humaneval_record(0), instruction_record(1)], "found list_1 without the head of a function"),
        ([humaneval_record(0), humaneval_record(0)], "found HumanEval/0 more than once"),
        ([["x"]], "p.jsonl:1: found a list, expected an object"),
    ],
)
def test_problems_that_any_program_would_pass_and_mixtures_are_refused(tmp_path, records, message):
    with pytest.raises(DataError, match=message):
        read_problems(write_lines(tmp_path / "p.jsonl", records))


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
