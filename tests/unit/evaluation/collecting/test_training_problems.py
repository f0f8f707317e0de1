"""Problems to train on are put as the rows of their data set put them; evaluated ones are refused."""

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from tests.unit.evaluation.examples import (
    contest_record,
    converted_mbpp_file,
    humaneval_file,
    instruction_record,
    mbpp_file,
    mbpp_record,
    write_lines,
)
from wmtp_ray.data.benchmarks import read_mbpp, training_rows
from wmtp_ray.data.codecontests import StdioTest, shown_tests
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import problem_of
from wmtp_ray.errors import ConfigError, DataError
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.evaluated_problems import (
    EvaluatedProblems,
    read_evaluated,
    require_none_evaluated,
    without_evaluated,
)
from wmtp_ray.evaluation.collecting.training_problems import read_training_problems
from wmtp_ray.evaluation.problems import read_problems


@pytest.mark.parametrize("file_of", [mbpp_file, converted_mbpp_file], ids=["published", "converted"])
def test_of_mbpp_the_train_split_is_put_as_its_rows_put_it(tmp_path: Path, file_of) -> None:
    path = file_of(tmp_path)
    (found,), (row,) = read_training_problems(path).described, training_rows(read_mbpp([tmp_path / "mbpp.jsonl"]))
    assert (found.name, found.instruction, found.input) == (problem_of(row.task_id), row.instruction, row.input)
    assert read_training_problems(path).source == row.source
    assert found.problem.task_id == "Mbpp/601"


def test_mbpp_without_its_train_split_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mbpp.jsonl", [mbpp_record(number) for number in (2, 11)])
    with pytest.raises(DataError, match="no problem of MBPP's train split among 2"):
        read_training_problems(path)


def test_a_contest_brings_its_difficulty_rating_and_site(tmp_path: Path) -> None:
    records = [
        contest_record("1_A. Sum", contest="codeforces", difficulty=7, cf_rating=800, is_description_translated=False),
        contest_record("p2", contest=None, difficulty=0, cf_rating=None, is_description_translated=False),
    ]
    training = read_training_problems(write_lines(tmp_path / "train_problems.jsonl", records))
    first, second = training.described
    assert (first.name, first.difficulty, first.cf_rating, first.contest) == ("1_A. Sum", 7, 800, "codeforces")
    assert (second.difficulty, second.cf_rating, second.contest) == (0, None, None)
    assert first.input == shown_tests((StdioTest("1 2\n", "3\n"),))
    assert training.source == "code_contests"


def test_a_file_of_ones_own_is_its_source_unless_said(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine_problems.jsonl", [instruction_record(1) | {"task_id": "p1"}])
    assert read_training_problems(path).source == "mine"
    assert read_training_problems(path, "other").source == "other"


@pytest.mark.parametrize("name", ["valid_problems.jsonl", "test_problems.jsonl"])
def test_a_file_that_is_named_as_a_held_out_split_is_refused(tmp_path: Path, name: str) -> None:
    path = write_lines(tmp_path / name, [instruction_record(1)])
    with pytest.raises(DataError, match="named as a held-out split"):
        read_training_problems(path)


def test_benchmarks_are_known_by_name_without_their_files(tmp_path: Path) -> None:
    nothing = EvaluatedProblems({}, {}, {})
    for file in (humaneval_file(tmp_path), mbpp_file(tmp_path)):
        with pytest.raises(DataError, match=r"its name is of a benchmark.*--on-evaluated skip"):
            require_none_evaluated(read_problems(file), nothing)
    train = read_training_problems(mbpp_file(tmp_path)).problems
    require_none_evaluated(train, nothing)


def test_a_prompt_of_an_evaluated_file_is_known_in_any_spacing_and_case(tmp_path: Path) -> None:
    evaluated = write_lines(tmp_path / "ours.jsonl", [instruction_record(1)])
    copied = instruction_record(5) | {"prompt": " PLUS  1\n"}
    problems = read_problems(write_lines(tmp_path / "train.jsonl", [copied, instruction_record(6)]))
    found = read_evaluated(problems, [evaluated, tmp_path / "absent.jsonl"])
    with pytest.raises(DataError, match=r"1 of 2 problems.*list_5: its prompt is that of list_1 of "):
        require_none_evaluated(problems, found)
    assert [each.task_id for each in without_evaluated(problems, found)] == ["list_6"]


def test_the_held_out_splits_beside_a_file_are_evaluated_ones(tmp_path: Path) -> None:
    write_lines(tmp_path / "valid_problems.jsonl", [instruction_record(2)])
    problems = read_problems(write_lines(tmp_path / "train_problems.jsonl", [instruction_record(2)]))
    found = read_evaluated(problems, [])
    with pytest.raises(DataError, match=r"its prompt is that of list_2 of .*valid_problems\.jsonl"):
        without_evaluated(problems, found)


def test_generated_problems_of_another_seed_share_names_and_are_told_apart_by_what_they_ask(tmp_path: Path) -> None:
    """As the quickstart's files of one seed are evaluated, and another seed's are trained on."""
    small = ListTasks(
        num_train_problems=20, num_valid_problems=10, num_correct=1, num_incorrect=1, systematic_frac=0, seed=1
    )
    evaluated = write_list_tasks(tmp_path / "a", small)
    trained = write_list_tasks(tmp_path / "b", replace(small, num_train_problems=200, seed=2))
    problems = read_problems(trained.train_problems)
    found = read_evaluated(problems, [evaluated.valid_problems])
    kept = without_evaluated(problems, found)
    asked = {each.prompt for each in read_problems(evaluated.valid_problems).problems}
    assert {f"list_{number}" for number in range(20, 30)} & {each.task_id for each in kept}
    assert {each.task_id for each in kept} == {each.task_id for each in problems.problems if each.prompt not in asked}
    with pytest.raises(DataError, match="found 10 of 10 problems"):
        require_none_evaluated(read_problems(evaluated.valid_problems), found)


def test_an_evaluated_problem_in_other_words_and_under_another_name_is_known_by_its_tests(tmp_path: Path) -> None:
    train = [
        instruction_record(5) | {key: instruction_record(1)[key] for key in ("test", "canonical_solution")},
        instruction_record(6),
    ]
    problems = read_problems(write_lines(tmp_path / "train.jsonl", train))
    found = read_evaluated(problems, [write_lines(tmp_path / "ours.jsonl", [instruction_record(1)])])
    with pytest.raises(DataError, match=r"1 of 2 problems.*list_5: its tests are those of list_1 of "):
        require_none_evaluated(problems, found)


def test_a_name_that_is_no_number_of_a_generator_is_an_evaluated_problem_s_whatever_it_asks(tmp_path: Path) -> None:
    ours = write_lines(tmp_path / "ours.jsonl", [instruction_record(1) | {"task_id": "sum-of-two"}])
    problems = read_problems(write_lines(tmp_path / "t.jsonl", [instruction_record(2) | {"task_id": "Sum-of-two"}]))
    with pytest.raises(DataError, match=r"Sum-of-two: its name is in .*ours\.jsonl"):
        require_none_evaluated(problems, read_evaluated(problems, [ours]))


def test_the_same_prompt_is_not_asked_for_by_an_unlike_one(tmp_path: Path) -> None:
    problems = read_problems(write_lines(tmp_path / "a.jsonl", [instruction_record(1)]))
    other = read_problems(write_lines(tmp_path / "b.jsonl", [instruction_record(2)]))
    require_none_evaluated(problems, EvaluatedProblems.of([other]))
    assert orjson.loads((tmp_path / "a.jsonl").read_bytes())["prompt"] == "plus 1"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"num_samples": 0}, "--num-samples is 0, expected 1 or more"),
        ({"num_samples": 4, "until_both": 1}, "--until-both without --max-samples"),
        ({"num_samples": 4, "max_samples": 8}, "--max-samples without --until-both"),
        ({"num_samples": 4, "until_both": 1, "max_samples": 3}, "--max-samples is 3, expected 4 or more"),
        ({"num_samples": 4, "until_both": 2, "max_samples": 8, "max_correct": 1}, "--max-correct is 1 with"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CollectionSettings(**numbers)
