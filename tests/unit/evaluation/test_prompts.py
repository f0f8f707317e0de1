"""Prompts byte by byte: what a policy is asked decides its results."""

import ast
from dataclasses import replace

import pytest

from tests.unit.evaluation.examples import (
    contest_record,
    humaneval_file,
    instruction_record,
    mbpp_file,
    mbpp_record,
    write_lines,
)
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.benchmarks import read_mbpp, training_rows
from wmtp_ray.data.tokenizer import CodeTokenizer, render_row
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.extraction import Goal
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.prompts import FORMATS, answer_key, goal_of, program_of, sanitise


def rendered(name, problems, number=0):
    return FORMATS[name].render(problems.problems[number], problems)


def test_humaneval_is_continued_as_published(tmp_path):
    problems = read_problems(humaneval_file(tmp_path))
    prompt = rendered("completion", problems, 2)
    assert prompt == 'def add_2(a):\n    """Add 2."""\n', "the newline at the end stays"
    program = program_of(problems.problems[2], "humaneval", "    return a + 2\n")
    assert program == prompt + "    return a + 2\n"
    assert answer_key("humaneval") == "completion"


def test_an_answer_to_a_stripped_head_begins_with_the_newline_that_is_missing(tmp_path):
    problems = read_problems(humaneval_file(tmp_path))
    prompt = rendered("completion-stripped", problems, 2)
    assert prompt == 'def add_2(a):\n    """Add 2."""'
    program = program_of(problems.problems[2], "humaneval", "\n    return a + 2")
    namespace: dict[str, object] = {}
    exec(program, namespace)
    assert namespace["add_2"](3) == 5


def test_the_paper_prompt_shows_three_worked_examples(tmp_path):
    problems = read_problems(mbpp_file(tmp_path))
    task = "You are an expert Python programmer, and here is your task: Write a function to add {n}. "
    task += "Your code should pass these tests:\n\nassert add_{n}(0) == {a}\nassert add_{n}(1) == {b}\n"
    task += "assert add_{n}(2) == {c}\n[BEGIN]\n"
    solution = "def add_{n}(a):\n  return a + {n}\n[DONE]\n\n"
    numbers = [{"n": n, "a": n, "b": n + 1, "c": n + 2} for n in (2, 3, 4, 11)]
    shown = "".join((task + solution).format(**each) for each in numbers[:3])
    assert rendered("mbpp-3shot", problems) == shown + task.format(**numbers[3])
    assert FORMATS["mbpp-3shot"].stop == ("[DONE]",)


def test_without_examples_the_task_is_a_docstring_that_parses(tmp_path):
    prompt = rendered("mbpp-0shot", read_problems(mbpp_file(tmp_path)), 1)
    assert prompt == '"""\nWrite a function to add 12.\nassert add_12(0) == 12\n"""\n'
    assert ast.get_docstring(ast.parse(prompt)) is not None


@pytest.mark.parametrize("name", ["completion", "completion-stripped", "mbpp-0shot", "mbpp-3shot", "instruct", "chat"])
def test_a_label_is_named_where_training_names_it_else_at_the_beginning(tmp_path, name):
    problems = read_problems((humaneval_file if name.startswith("completion") else mbpp_file)(tmp_path))
    asked, problem = replace(FORMATS[name], label="correct"), problems.problems[0]
    plain, told = FORMATS[name].text(problem, problems), asked.text(problem, problems)
    assert plain == rendered(name, problems)
    if name == "instruct":
        assert told == plain.replace("### Response:\n", "### Label: correct\n\n### Response:\n")
    else:
        assert told == "### Label: correct\n\n" + plain


def test_the_tokens_of_a_prompt_are_those_of_its_text_with_the_label(tmp_path):
    problems = read_problems(humaneval_file(tmp_path))
    train_tokenizer([each.reference for each in problems.problems] * 9, tmp_path / "tokenizer.model", 300)
    tokenizer, problem = CodeTokenizer(tmp_path / "tokenizer.model"), problems.problems[0]
    asked = replace(FORMATS["instruct"], label="correct")
    ids = asked.prompt_ids(problem, problems, tokenizer)
    assert list(ids) == [tokenizer.bos_id, *tokenizer.encode(asked.text(problem, problems))]


def test_an_instruction_is_the_prompt_of_a_training_row(tmp_path):
    [row] = training_rows(read_mbpp([write_lines(tmp_path / "train.jsonl", [mbpp_record(601)])]))
    problems = read_problems(tmp_path / "train.jsonl")
    assert rendered("instruct", problems) + row.output == render_row(row)
    words = read_problems(write_lines(tmp_path / "words.jsonl", [instruction_record(4)]))
    assert rendered("instruct", words) == "### Instruction:\nplus 4\n\n### Response:\n"
    contest = read_problems(write_lines(tmp_path / "contest.jsonl", [contest_record("1_A")]))
    expected = "### Instruction:\nPrint the sum.\n\n### Input:\nInput: 1 2\n\nOutput: 3\n\n\n### Response:\n"
    assert rendered("instruct", contest) == expected
    heads = read_problems(humaneval_file(tmp_path))
    assert heads.problems[0].prompt in rendered("instruct", heads)


def test_a_program_is_taken_out_of_an_answer_and_a_continuation_is_read_with_its_prompt(tmp_path):
    problem = read_problems(humaneval_file(tmp_path)).problems[2]
    fenced = "Here:\n```python\nprint(1)\n```\n```python\ndef add_2(a):\n    return a + 2\n```\nDone."
    assert sanitise(fenced, "program", goal_of(problem)) == "def add_2(a):\n    return a + 2\n"
    assert sanitise(fenced, "continuation") == fenced
    for answer in (fenced, "    return a + 2\n```\nDone.", "def add_2(a):\n    return a + 2\n"):
        namespace: dict[str, object] = {}
        exec(program_of(problem, "humaneval", answer), namespace)
        assert namespace["add_2"](3) == 5


def test_the_goal_is_what_the_tests_call_or_reading_the_input(tmp_path):
    assert goal_of(read_problems(mbpp_file(tmp_path)).problems[0]) == Goal(frozenset({"add_11"}))
    assert goal_of(read_problems(humaneval_file(tmp_path)).problems[0]) == Goal(frozenset({"add_0"}))
    contest = read_problems(write_lines(tmp_path / "contest.jsonl", [contest_record("1_A")]))
    assert goal_of(contest.problems[0]) == Goal(reads_input=True)
    two = mbpp_record(11) | {
        "code": "def one(a):\n  return a\ndef two(a):\n  return a\ndef inner():\n  pass",
        "test_list": ["assert one(1) == 1", "assert two(sum([1])) == 1"],
    }
    [problem] = read_problems(write_lines(tmp_path / "two.jsonl", [two])).problems
    assert goal_of(problem) == Goal(frozenset({"one", "two"}))


def test_prompts_begin_with_the_begin_token_and_chat_needs_a_template(tmp_path):
    problems = read_problems(humaneval_file(tmp_path))
    train_tokenizer([each.prompt for each in problems.problems], tmp_path / "tokenizer.model", 280)
    tokenizer = CodeTokenizer(tmp_path / "tokenizer.model")
    ids = FORMATS["completion"].prompt_ids(problems.problems[0], problems, tokenizer)
    assert ids == (tokenizer.bos_id, *tokenizer.encode(problems.problems[0].prompt))
    with pytest.raises(ConfigError, match="no chat template"):
        FORMATS["chat"].prompt_ids(problems.problems[0], problems, tokenizer)


def test_every_name_is_its_format():
    assert all(name == each.name for name, each in FORMATS.items())
    assert all("" not in each.stop for each in FORMATS.values())
