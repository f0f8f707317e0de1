"""Rules of the generated benchmark: labels proved by execution, held-out behaviour, no give-aways, same bytes."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp_ray.data.list_tasks import ListTasks, ListTasksFiles, write_list_tasks
from wmtp_ray.data.list_tasks.list_problems import (
    SYSTEMATIC_BUGS,
    asked_operations,
    draw_inputs,
    is_sound,
    skeletons_by_difficulty,
    systematic_bugs,
    word_prompt,
)
from wmtp_ray.data.list_tasks.operations import (
    ABSENT_CONSTANT,
    DIFFICULTIES,
    OPERATIONS,
    REDUCERS,
    Composition,
    Operation,
    Reducer,
    Step,
)
from wmtp_ray.data.list_tasks.programs import STYLES, render_program, run_program
from wmtp_ray.errors import ConfigError

CONFIG = ListTasks(
    seed=3, num_train_problems=170, num_valid_problems=50, num_correct=3, num_incorrect=3, systematic_frac=0.6
)
TINY = replace(CONFIG, num_train_problems=40, num_valid_problems=5, num_correct=1, num_incorrect=2)
BY_WORDS = {part.words: part for part in (*OPERATIONS, *REDUCERS)}
Record = dict[str, Any]

steps = st.sampled_from([Step(operation, c) for operation in OPERATIONS for c in operation.constants])
compositions = st.builds(
    Composition, st.lists(steps, min_size=1, max_size=3).map(tuple), st.sampled_from([None, *REDUCERS])
)
styles = st.sampled_from(STYLES)
short_lists = st.lists(st.integers(-20, 20), max_size=8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ListTasksFiles:
    return write_list_tasks(tmp_path_factory.mktemp("list_tasks"), CONFIG)


@pytest.fixture(scope="module")
def rows(files: ListTasksFiles) -> dict[str, list[Record]]:
    return {"train": read(files.train), "valid": read(files.valid)}


@pytest.fixture(scope="module")
def problems(files: ListTasksFiles) -> dict[str, list[Record]]:
    return {"train": read(files.train_problems), "valid": read(files.valid_problems)}


def read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problem_of(row: Record) -> str:
    return re.sub(r"_(in)?correct_\d+$", "", row["task_id"])


def passes(program: str, problem: Record) -> bool:
    """Run the tests as an outsider would, from the two files' text alone."""
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    exec(problem["test"], namespace)
    try:
        namespace["check"](namespace[problem["entry_point"]])
    except AssertionError:
        return False
    return True


def words_asked(prompt: str) -> list[str]:
    """The parts a prompt asks for, constants left open, from its words alone."""
    reducer, after, steps_text = prompt.partition(" after ")
    parts = re.split(r", | then ", steps_text if after else prompt)
    if after and reducer != "list":
        parts.append(reducer)
    return [re.sub(r"\d+", "{c}", part) for part in parts]


def composition_asked(prompt: str) -> Composition:
    """What a prompt asks for, from its words alone."""
    constants = [int(number) for number in re.findall(r"\d+", prompt)]
    parts = [BY_WORDS[words] for words in words_asked(prompt)]
    operations = [part for part in parts if isinstance(part, Operation)]
    steps = [Step(part, constants.pop(0) if "{c}" in part.words else ABSENT_CONSTANT) for part in operations]
    reducers = [part for part in parts if isinstance(part, Reducer)]
    return Composition(tuple(steps), reducers[0] if reducers else None)


def test_every_label_holds_when_the_tests_are_run(
    rows: dict[str, list[Record]], problems: dict[str, list[Record]]
) -> None:
    for split in ("train", "valid"):
        by_id = {problem["task_id"]: problem for problem in problems[split]}
        for row in rows[split]:
            assert passes(row["output"], by_id[problem_of(row)]) == row["is_correct"], row


def test_every_problem_has_ten_tests_and_a_passing_solution(problems: dict[str, list[Record]]) -> None:
    for problem in problems["train"] + problems["valid"]:
        assert problem["test"].count("assert candidate(") == 10
        assert passes(problem["canonical_solution"], problem)


def test_rows_follow_the_schema(rows: dict[str, list[Record]]) -> None:
    for row in rows["train"] + rows["valid"]:
        assert list(row) == ["instruction", "input", "output", "task_id", "is_correct", "metadata"]
        assert row["instruction"]
        assert re.fullmatch(r"list_\d+", problem_of(row))
        assert f"_{'correct' if row['is_correct'] else 'incorrect'}_" in row["task_id"]
        metadata = row["metadata"]
        assert (metadata["source"], metadata["has_tests"], metadata["language"]) == ("list_tasks", True, 3)
        assert metadata.get("bug") in ((None,) if row["is_correct"] else ("systematic", "diffuse"))


def test_counts_are_as_configured(rows: dict[str, list[Record]], problems: dict[str, list[Record]]) -> None:
    assert (len(problems["train"]), len(problems["valid"])) == (170, 50)
    for split in ("train", "valid"):
        counts = Counter((problem_of(row), row["is_correct"]) for row in rows[split])
        assert len(counts) == 2 * len(problems[split])
        assert set(counts.values()) == {3}
        assert len({row["task_id"] for row in rows[split]}) == len(rows[split])


def test_no_program_occurs_twice_for_a_problem(rows: dict[str, list[Record]]) -> None:
    programs = Counter((problem_of(row), row["output"]) for row in rows["train"] + rows["valid"])
    assert max(programs.values()) == 1


def test_every_difficulty_occurs_in_both_splits(rows: dict[str, list[Record]]) -> None:
    for split in ("train", "valid"):
        assert {row["metadata"]["difficulty"] for row in rows[split]} == set(range(1, 12))


def test_difficulty_is_the_sum_of_the_costs_of_the_words(problems: dict[str, list[Record]]) -> None:
    for problem in problems["train"] + problems["valid"]:
        assert problem["difficulty"] == sum(BY_WORDS[words].cost for words in words_asked(problem["prompt"]))


def test_held_out_problems_are_new_in_behaviour(problems: dict[str, list[Record]]) -> None:
    tests = [problem["test"] for problem in problems["train"] + problems["valid"]]
    assert len(set(tests)) == len(tests)


def test_held_out_problems_ask_for_nothing_unseen(problems: dict[str, list[Record]]) -> None:
    asked = {
        split: {words for problem in problems[split] for words in words_asked(problem["prompt"])} for split in problems
    }
    assert asked["train"] == set(BY_WORDS)
    assert asked["valid"] <= asked["train"]


def test_wrong_programs_are_right_for_some_other_problem(rows: dict[str, list[Record]]) -> None:
    """`sum(sorted(a))` and its like answer no problem, so they would tell wrong programs at a glance."""
    for row in rows["train"]:
        assert not re.search(r"(sum|len)\((list\(reversed|sorted)", row["output"]), row


def test_no_token_belongs_to_wrong_programs_only(rows: dict[str, list[Record]]) -> None:
    tokens = defaultdict(set)
    for row in rows["train"]:
        tokens[row["is_correct"]] |= set(re.findall(r"\w+|[^\w\s]|\s+", row["output"]))
    assert tokens[False] <= tokens[True]


def test_length_does_not_give_the_label_away(rows: dict[str, list[Record]]) -> None:
    num_chars = Counter[bool]()
    for row in rows["train"]:
        num_chars[row["is_correct"]] += len(row["output"])
    assert num_chars[False] == pytest.approx(num_chars[True], rel=0.03)


def test_a_wrong_program_is_one_edit_away_from_the_correct_one_of_its_index(rows: dict[str, list[Record]]) -> None:
    programs = {row["task_id"]: row["output"] for row in rows["train"]}
    for task_id, program in programs.items():
        if "_incorrect_" in task_id:
            lines = program.split("\n"), programs[task_id.replace("_incorrect_", "_correct_")].split("\n")
            assert len(lines[0]) == len(lines[1])
            assert 1 <= sum(wrong != right for wrong, right in zip(*lines, strict=True)) <= 2  # two: a swap of steps


def test_systematic_rows_carry_the_bug_of_an_operation_asked_for(rows: dict[str, list[Record]]) -> None:
    kinds = Counter(row["metadata"]["bug"] for row in rows["train"] if not row["is_correct"])
    assert min(kinds["systematic"], kinds["diffuse"]) > 50
    for row in rows["train"]:
        if row["metadata"].get("bug") == "systematic":
            assert set(words_asked(row["instruction"])) & set(SYSTEMATIC_BUGS)


@pytest.mark.parametrize("systematic_frac", [0.0, 1.0])
def test_systematic_frac_decides_where_a_systematic_bug_is_possible(tmp_path: Path, systematic_frac: float) -> None:
    config = replace(TINY, systematic_frac=systematic_frac, num_incorrect=1)
    inputs = draw_inputs(Random(config.seed))
    num_possible = 0
    for row in read(write_list_tasks(tmp_path, config).train):
        asked = composition_asked(row["instruction"])
        right = [asked.apply(values) for values in inputs]
        shown = [bug for bug in systematic_bugs(asked) if [bug.apply(values) for values in inputs] != right]
        possible = any(is_sound(bug, inputs) for bug in shown)
        num_possible += possible
        if not row["is_correct"]:
            assert row["metadata"]["bug"] == ("systematic" if possible and systematic_frac else "diffuse")
    assert num_possible > 10


def test_no_operation_is_wrong_in_half_of_its_programs(files: ListTasksFiles) -> None:
    shares = json.loads(files.manifest.read_text())["splits"]["train"]["systematic_bug_share"]
    assert set(shares) == set(SYSTEMATIC_BUGS)
    assert all(0.05 < share < 0.4 for share in shares.values())


def test_manifest_counts_and_hashes_what_was_written(
    files: ListTasksFiles, rows: dict[str, list[Record]], problems: dict[str, list[Record]]
) -> None:
    manifest = json.loads(files.manifest.read_text())
    assert manifest["config"]["seed"] == CONFIG.seed
    for path in (files.train, files.valid, files.train_problems, files.valid_problems):
        assert manifest["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    for split, counts in manifest["splits"].items():
        assert counts["rows"] == len(rows[split]) == counts["correct_rows"] + counts["incorrect_rows"]
        assert counts["problems"] == len(problems[split]) == sum(counts["problems_by_difficulty"].values())
        assert counts["systematic_rows"] == sum(row["metadata"].get("bug") == "systematic" for row in rows[split])
        assert counts["systematic_rows"] + counts["diffuse_rows"] == counts["incorrect_rows"]


def test_same_config_gives_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    write_list_tasks(tmp_path / "here", TINY)
    program = (
        "import pathlib, sys; from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks;"
        f"write_list_tasks(pathlib.Path(sys.argv[1]), {TINY!r})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], check=True, env=environment)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("config", "train", "valid"),
    [
        (
            TINY,
            "b60568959602af9f1c7b0a66f9e498740f9b5f2854d580ae9108f38ed04de9de",
            "33ddc93c25559793b0a79eecf2b324c263ce9052c703d2c0c365a61ebc932c17",
        ),
        (
            CONFIG,
            "b435cda8af5f659663e0d529acde72ce7f5b28d06d694ce921338e52fd0eeb7c",
            "8f13ef0f9c4eae8fb5d4eeb727e3c7a12931cc7239511ed6649423e96193a113",
        ),
    ],
)
def test_rows_are_the_bytes_they_have_always_been(tmp_path: Path, config: ListTasks, train: str, valid: str) -> None:
    files = write_list_tasks(tmp_path, config)
    for path, expected in ((files.train, train), (files.valid, valid)):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected


@pytest.mark.parametrize(("frac", "num_problems"), [(0.0, 0), (0.001, 1), (1 / 16, 11), (1 / 8, 21), (0.5, 85)])
def test_a_scarce_regime_is_the_full_one_without_correct_rows_of_the_other_problems(
    files: ListTasksFiles, tmp_path: Path, frac: float, num_problems: int
) -> None:
    scarce = write_list_tasks(tmp_path, replace(CONFIG, correct_problems_frac=frac))
    lines, whole = scarce.train.read_bytes().splitlines(), files.train.read_bytes().splitlines()
    keep = {problem_of(row) for row in read(scarce.train) if row["is_correct"]}
    assert len(keep) == num_problems
    assert lines == [line for line in whole if not (row := json.loads(line))["is_correct"] or problem_of(row) in keep]
    for name in ("valid", "train_problems", "valid_problems"):
        assert getattr(scarce, name).read_bytes() == getattr(files, name).read_bytes()
    manifest = json.loads(scarce.manifest.read_text())
    assert manifest["config"]["correct_problems_frac"] == frac
    counts = manifest["splits"]["train"]
    assert (counts["problems_with_correct_rows"], counts["correct_rows"]) == (num_problems, 3 * num_problems)
    assert counts["rows"] == len(lines) == 3 * num_problems + counts["incorrect_rows"]
    assert manifest["splits"]["valid"]["problems_with_correct_rows"] == 50


def test_the_seed_draws_who_has_correct_rows_and_a_smaller_share_is_part_of_a_larger_one(tmp_path: Path) -> None:
    def solved(seed: int, frac: float) -> set[str]:
        config = replace(TINY, seed=seed, correct_problems_frac=frac)
        train = write_list_tasks(tmp_path / f"{seed}-{frac}", config).train
        return {problem_of(row) for row in read(train) if row["is_correct"]}

    shares = [solved(3, frac) for frac in (0.1, 0.25, 0.6)]
    assert [len(share) for share in shares] == [4, 10, 24]
    assert shares[0] < shares[1] < shares[2]
    assert solved(3, 0.25) == shares[1] != solved(4, 0.25)


@pytest.mark.parametrize("number", [1, 3])
def test_held_out_operations_are_in_no_correct_row_and_nothing_else_changes(
    files: ListTasksFiles, tmp_path: Path, number: int
) -> None:
    config = replace(CONFIG, held_out_operations=number, correct_problems_frac=0.25)
    held_out = set(config.operations_without_correct_rows)
    assert len(held_out) == number
    assert held_out < set(replace(config, held_out_operations=number + 1).operations_without_correct_rows)
    written = write_list_tasks(tmp_path, config)
    assert set(json.loads(written.manifest.read_text())["operations_without_correct_rows"]) == held_out
    rows = read(written.train)
    correct = [row for row in rows if row["is_correct"]]
    assert not any(held_out & asked_operations(row["instruction"]) for row in correct)
    assert len({problem_of(row) for row in correct}) == round(0.25 * CONFIG.num_train_problems)
    assert held_out <= {words for row in rows for words in asked_operations(row["instruction"])}
    whole = [json.loads(line) for line in files.train.read_bytes().splitlines()]
    assert [row for row in rows if not row["is_correct"]] == [row for row in whole if not row["is_correct"]]
    assert written.valid_problems.read_bytes() == files.valid_problems.read_bytes()


def test_all_train_problems_asking_for_what_is_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="held_out_operations is 14, and every one of the 40 train problems"):
        write_list_tasks(tmp_path, replace(TINY, held_out_operations=14, seed=1))


def test_shares_of_systematic_bugs_count_the_rows_that_are_there(files: ListTasksFiles, tmp_path: Path) -> None:
    few = write_list_tasks(tmp_path, replace(CONFIG, correct_problems_frac=0.0))
    few_share, full_share = (
        json.loads(each.manifest.read_text())["splits"]["train"]["systematic_bug_share"] for each in (few, files)
    )
    for words, share in full_share.items():  # half of the full regime's rows are correct ones
        assert few_share[words] == pytest.approx(2 * share, abs=2e-4)


def test_another_seed_gives_other_problems(tmp_path: Path) -> None:
    texts = [write_list_tasks(tmp_path / str(seed), replace(TINY, seed=seed)).train.read_text() for seed in (1, 2)]
    assert texts[0] != texts[1]


@given(compositions, styles, st.lists(short_lists, min_size=1, max_size=5))
def test_every_style_computes_the_reference_semantics(
    composition: Composition, style: Any, inputs: list[list[int]]
) -> None:
    before = json.dumps(inputs)
    answers = run_program(render_program(composition, style), inputs)
    assert answers == [composition.apply(values) for values in inputs]
    assert json.dumps(inputs) == before


@given(compositions, st.integers(0, 99))
def test_a_prompt_says_which_operations_it_asks_for(composition: Composition, seed: int) -> None:
    assert asked_operations(word_prompt(Random(seed), composition)) == composition.operation_words


@given(compositions)
def test_every_composition_has_a_text_of_its_own_in_each_style(composition: Composition) -> None:
    assert len({render_program(composition, style) for style in STYLES}) == len(STYLES)


@given(compositions)
def test_each_systematic_bug_replaces_one_step_that_invites_it(composition: Composition) -> None:
    bugs = systematic_bugs(composition)
    assert len(bugs) == sum(step.operation.words in SYSTEMATIC_BUGS for step in composition.steps)
    for bug in bugs:
        assert bug.reducer == composition.reducer
        assert sum(asked != done for asked, done in zip(composition.steps, bug.steps, strict=True)) == 1
        assert all(step.constant in step.operation.constants for step in bug.steps)


def test_every_difficulty_can_be_composed() -> None:
    for difficulty, by_num_steps in skeletons_by_difficulty().items():
        assert by_num_steps
        for operations, reducer in (skeleton for deck in by_num_steps for skeleton in deck):
            cost = sum(operation.cost for operation in operations) + (reducer.cost if reducer else 0)
            assert cost == difficulty
            assert difficulty in DIFFICULTIES


@pytest.mark.parametrize(
    ("words", "reducer", "sound"),
    [
        (["sort", "add {c}"], None, True),
        (["sort"], "sum", False),
        (["reverse", "sort"], None, False),
        (["add {c}", "reverse", "add {c}"], None, False),
        (["sort", "first {c}"], "sum", True),
    ],
)
def test_sound_is_what_repeats_nothing_and_needs_every_step(words: list[str], reducer: str | None, sound: bool) -> None:
    steps = tuple(Step(BY_WORDS[each], 2) for each in words)
    assert is_sound(Composition(steps, reducer and BY_WORDS[reducer]), draw_inputs(Random(0))) == sound


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train_problems", 0),
        ("num_valid_problems", -1),
        ("num_correct", 7),
        ("num_incorrect", 25),
        ("systematic_frac", 1.5),
        ("correct_problems_frac", -0.1),
        ("correct_problems_frac", 1.1),
        ("correct_problems_frac", float("nan")),
        ("held_out_operations", -1),
        ("held_out_operations", 15),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        replace(CONFIG, **{name: value})


def test_a_regime_without_any_row_is_refused() -> None:
    with pytest.raises(ConfigError, match="leaves no row to train on"):
        replace(CONFIG, correct_problems_frac=0.0, num_incorrect=0)


def test_too_few_train_problems_for_the_held_out_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise num_train_problems"):
        write_list_tasks(tmp_path, replace(TINY, num_train_problems=2, num_valid_problems=10))


def test_the_largest_numbers_of_rows_can_be_written(tmp_path: Path) -> None:
    config = replace(TINY, num_train_problems=11, num_valid_problems=0, num_correct=6, num_incorrect=24)
    files = write_list_tasks(tmp_path, config)
    assert len(read(files.train)) == 11 * 30
    assert read(files.valid) == []
