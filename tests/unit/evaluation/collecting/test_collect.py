"""Rows from answers: a decoder that gives known answers, or a nano model; the real judge; one process."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.evaluation.collecting.nano_world import command, make_nano_world, problems_file, rows_of
from tests.unit.evaluation.examples import mbpp_record, write_lines
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.cli import main
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.rows import problem_of
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError, DataError
from wmtp_ray.evaluation.collecting.collect import CollectionPlan, collect
from wmtp_ray.evaluation.collecting.collection_manifest import CollectionManifest, read_collection_manifest
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.local_workers import Decode, LocalWorkers
from wmtp_ray.evaluation.collecting.training_problems import TrainingProblems, read_training_problems
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode
from wmtp_ray.evaluation.evaluation_port import Workers
from wmtp_ray.evaluation.formats import ChosenFormat
from wmtp_ray.evaluation.identity import Execution, ModelHashes, decoding_identity, identify
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.prompts import FORMATS

QUIET = Console(quiet=True)
WRONG = "def f(a):\n    return 'wrong'\n"
Answers = Callable[[str, int], str]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano_world(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge("rlimits", 0.3, 2, isolation_required="rlimits") as judge:
        yield judge


@pytest.fixture(scope="module")
def training(storage: Path) -> TrainingProblems:
    return read_training_problems(problems_file(storage))


def planned(storage: Path, training: TrainingProblems, out: Path, settings: CollectionSettings) -> CollectionPlan:
    tokenizer = CodeTokenizer(storage / "models_v2" / "nano_mtp" / "tokenizer.model")
    words = ["recipe=baseline", "preset=quickstart", f"storage_root={storage}", "evaluation.temperature=1"]
    config = load_config(parse_arguments([*words, "run_name=r"]), now=datetime(2026, 1, 1))
    instruct = FORMATS["instruct"]
    hashes = ModelHashes("weights", "params", tokenizer.sha256)
    answers = decoding_identity(hashes, instruct, config.evaluation, Execution(7, "cpu", "float32", 1))
    return CollectionPlan(
        training=training,
        policy="model",
        chosen=ChosenFormat(instruct, "asked for"),
        tokenizer=tokenizer,
        decoding=DecodingSettings(24, 1.0, 1.0, instruct.stop, 0),
        identity=identify(training.problems, answers, config.evaluation, "rlimits"),
        settings=settings,
        out=out,
    )


def giving(answers: Answers, asked: list[str] | None = None) -> Decode:
    """A decoder that answers with what `answers` says of a problem and a number."""

    def decoded(requests: Sequence[DecodingRequest], settings: DecodingSettings) -> Iterator[Decoded]:
        for request in requests:
            task_id, _, sample = request.key.rpartition("#")
            text = answers(task_id, int(sample))
            if asked is not None:
                asked.append(request.key)
            yield Decoded(request.key, (1, 2), text, text, "end", 3, (), ())

    return decoded


def collected(plan: CollectionPlan, decoder: Decode, judge: Judge, num_judges: int = 2) -> CollectionManifest:
    @contextmanager
    def start() -> Iterator[Workers]:
        yield LocalWorkers(decoder, judge, num_judges)

    collect(plan, start, QUIET)
    return read_collection_manifest(plan.out)


def references(training: TrainingProblems) -> dict[str, str]:
    records = rows_of(training.problems.path)
    return {record["task_id"]: record["canonical_solution"] for record in records}


def mixed(training: TrainingProblems) -> Answers:
    """In turn: correct, the same with a comment, wrong, blank."""
    correct = references(training)

    def answer(task_id: str, sample: int) -> str:
        program = correct[task_id]
        return [program, f"# again\n{program}\n", WRONG.replace("f(", f"{name_in(program)}("), " \n"][sample % 4]

    return answer


def name_in(program: str) -> str:
    return program.partition("def ")[2].partition("(")[0]


def test_rows_say_the_verdict_and_their_origin_and_read_like_the_rows_of_the_data_set(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    plan = planned(storage, training, tmp_path / "rows.jsonl", CollectionSettings(4))
    manifest = collected(plan, giving(mixed(training)), judge)
    rows, originals = rows_of(plan.out), rows_of(problems_file(storage).with_name("train.jsonl"))
    assert [row["is_correct"] for row in rows] == [True, False] * 6
    known = {problem_of(row["task_id"]): row for row in originals}
    for row in rows:
        original = known[problem_of(row["task_id"])]
        assert {row[key] == original[key] for key in ("instruction", "input")} == {True}
        kept = ("source", "difficulty", "has_tests", "language")
        assert [row["metadata"][key] for key in kept] == [original["metadata"][key] for key in kept]
    assert not {row["task_id"] for row in rows} & {row["task_id"] for row in originals}
    first, second = (row["metadata"]["collected"] for row in rows[:2])
    origin = plan.origin.origin
    assert rows[0]["task_id"] == f"list_0_correct_{origin}-0"
    assert rows[1]["task_id"] == f"list_0_incorrect_{origin}-2"
    assert first == {
        "origin": origin, "weights_sha256": "weights", "temperature": 1.0, "top_p": 1.0, "seed": 7, "sample": 0,
        "verdict": "pass", "tests_passed": first["num_tests"], "num_tests": first["num_tests"], "finish": "end",
    }  # fmt: skip
    assert (second["verdict"], second["tests_passed"]) == ("fail", 0)
    assert first["num_tests"] > 5
    assert (manifest.counts.correct_rows, manifest.counts.incorrect_rows) == (6, 6)
    assert manifest.counts.verdicts == {"fail": 12, "pass": 12}
    assert manifest.counts.left_out == {"duplicate": 6, "empty": 6}


def test_collected_rows_and_those_of_the_data_set_make_one_index_with_the_same_problems(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    plan = planned(storage, training, tmp_path / "rows.jsonl", CollectionSettings(4))
    collected(plan, giving(mixed(training)), judge)
    both = tmp_path / "both.jsonl"
    original = problems_file(storage).with_name("train.jsonl")
    both.write_bytes(original.read_bytes() + plan.out.read_bytes())
    index = ensure_index(both, plan.tokenizer, on_error="fail")
    assert len(index) == 6 * 4 + 6 * 2
    assert len(index.problem_names) == 6
    assert index.source_names == ("list_tasks",)
    assert (index.response_tokens_R > 0).all()


def test_the_most_rows_of_a_problem_and_class_are_the_first(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    settings = CollectionSettings(6, max_correct=0, max_incorrect=2)
    plan = planned(storage, training.only(["list_2"], None), tmp_path / "rows.jsonl", settings)
    manifest = collected(plan, giving(lambda task_id, sample: f"x = {sample}\n"), judge)
    assert [row["metadata"]["collected"]["sample"] for row in rows_of(plan.out)] == [0, 1]
    assert manifest.counts.left_out == {"over the cap": 4}


def test_more_is_drawn_of_a_problem_until_it_has_both_classes_or_its_budget_is_spent(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    correct, asked = references(training), list[str]()

    def answer(task_id: str, sample: int) -> str:
        if task_id == "list_0" and sample == 3:
            return correct[task_id]
        return f"x = {sample}\n"

    settings = CollectionSettings(2, until_both=1, max_samples=5)
    plan = planned(storage, training.only(["list_0", "list_1"], None), tmp_path / "rows.jsonl", settings)
    manifest = collected(plan, giving(answer, asked), judge)
    assert Counter(key.partition("#")[0] for key in asked) == {"list_0": 4, "list_1": 5}
    assert manifest.counts.drawn == {4: 1, 5: 1}
    assert (manifest.counts.problems_with_correct, manifest.counts.problems_with_both) == (1, 1)


def test_a_killed_collection_goes_on_without_repeating_work_and_ends_in_the_same_files(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    settings = CollectionSettings(2, until_both=2, max_samples=6)
    whole = planned(storage, training, tmp_path / "whole.jsonl", settings)
    collected(whole, giving(mixed(training)), judge, num_judges=1)
    plan = planned(storage, training, tmp_path / "killed.jsonl", settings)
    asked = list[str]()
    for length in (5, 9, 16):

        def dying(task_id: str, sample: int, most: int = length) -> str:
            if len(asked) == most:
                raise KeyboardInterrupt
            return mixed(training)(task_id, sample)

        with pytest.raises(KeyboardInterrupt):
            collected(plan, giving(dying, asked), judge)
        assert not plan.out.exists()
    collected(plan, giving(mixed(training), asked), judge, num_judges=2)
    assert len(asked) == len(set(asked)) == 6 * 6
    assert plan.out.read_bytes() == whole.out.read_bytes()
    assert read_collection_manifest(plan.out) == read_collection_manifest(whole.out)
    assert collected(plan, giving(mixed(training), asked), judge) == read_collection_manifest(whole.out)
    assert len(asked) == 6 * 6


def test_equal_programs_are_judged_once_and_share_a_verdict(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    plan = planned(storage, training.only(["list_0"], None), tmp_path / "rows.jsonl", CollectionSettings(8))
    manifest = collected(plan, giving(mixed(training)), judge)
    verdicts = rows_of(tmp_path / "rows.jsonl.answers" / "verdicts.jsonl")
    assert [each["sample"] for each in verdicts] == list(range(8))
    assert [each["seconds"] for each in verdicts[:4]] == [each["seconds"] for each in verdicts[4:]]  # of one run
    assert len({each["seconds"] for each in verdicts}) == 4
    assert manifest.counts.verdicts == {"fail": 4, "pass": 4}


def test_the_same_answers_may_be_chosen_from_again_and_more_may_be_drawn(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    asked = list[str]()
    one = training.only(["list_0"], None)
    first = planned(storage, one, tmp_path / "rows.jsonl", CollectionSettings(3))
    collected(first, giving(mixed(training), asked), judge)
    collected(planned(storage, one, first.out, CollectionSettings(3, max_correct=0)), giving(mixed(training)), judge)
    assert [row["is_correct"] for row in rows_of(first.out)] == [False]
    collected(planned(storage, one, first.out, CollectionSettings(5)), giving(mixed(training), asked), judge)
    assert asked == [f"list_0#{sample}" for sample in range(5)]
    assert [row["is_correct"] for row in rows_of(first.out)] == [True, False]


def test_a_foreign_file_and_another_policy_are_refused_and_left_alone(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    plan = planned(storage, training.only(["list_0"], None), tmp_path / "rows.jsonl", CollectionSettings(1))
    plan.out.write_text("mine\n")
    with pytest.raises(DataError, match=r"found a file without rows\.jsonl\.answers beside it"):
        collected(plan, giving(mixed(training)), judge)
    assert plan.out.read_text() == "mine\n"
    plan.out.unlink()
    collected(plan, giving(mixed(training)), judge)
    before = plan.out.read_bytes()
    other = planned(storage, read_training_problems(mbpp_train(tmp_path)), plan.out, CollectionSettings(1))
    with pytest.raises(ConfigError, match="another policy, data set, setting or version"):
        collected(other, giving(mixed(training)), judge)
    assert plan.out.read_bytes() == before


def test_rows_that_were_changed_by_hand_are_refused_and_left_alone(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path
) -> None:
    plan = planned(storage, training.only(["list_0"], None), tmp_path / "rows.jsonl", CollectionSettings(2))
    collected(plan, giving(mixed(training)), judge)
    written = plan.out.read_bytes()
    plan.out.write_bytes(changed := written + written)
    with pytest.raises(DataError, match="found other rows than the collection wrote"):
        collected(plan, giving(mixed(training)), judge)
    assert plan.out.read_bytes() == changed
    plan.out.unlink()
    collected(plan, giving(mixed(training)), judge)
    assert plan.out.read_bytes() == written


def mbpp_train(folder: Path) -> Path:
    return write_lines(folder / "mbpp.jsonl", [mbpp_record(number) for number in (2, 11, 601, 602)])


@pytest.mark.parametrize(("batch_size", "num_judges"), [(1, 1), (5, 2)])
def test_a_model_s_rows_depend_on_no_batch_and_no_number_of_judges(
    storage: Path, training: TrainingProblems, judge: Judge, tmp_path: Path, batch_size: int, num_judges: int
) -> None:
    model = load_transformer(storage / "models_v2" / "nano_mtp").eval()
    found = []
    for name, size, judges in (("a", 3, 2), ("b", batch_size, num_judges)):
        plan = planned(storage, training.only(["list_0", "list_4"], None), tmp_path / name, CollectionSettings(3))
        decoder: Decode = partial(decode, model, plan.tokenizer, batch_size=size)
        manifest = collected(plan, decoder, judge, judges)
        found.append((plan.out.read_bytes(), manifest))
        assert manifest.counts.samples == 6
    assert found[0] == found[1]
    assert found[0][0]


def test_the_command_writes_rows_and_refuses_problems_that_are_evaluated(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(command(storage, out)) == 0
    printed = capsys.readouterr().out
    assert "of 2 problems: 0 correct and" in printed
    assert "auto: the template of training rows" in printed
    manifest = read_collection_manifest(out)
    assert manifest.counts.samples == 4
    assert len(rows_of(out)) == manifest.counts.incorrect_rows
    assert main(command(storage, tmp_path / "x", "--until-both", "1", "--max-samples", "1")) == 2
    assert "--max-samples is 1, expected 2 or more" in capsys.readouterr().err
    held_out = ["--problems", str(problems_file(storage).with_name("valid_problems.jsonl"))]
    assert main(command(storage, tmp_path / "x", *held_out)) == 2
    assert "named as a held-out split" in capsys.readouterr().err
    copy = tmp_path / "train_problems.jsonl"
    copy.write_bytes(problems_file(storage).read_bytes())
    listed = f"evaluation.files={{ours: {problems_file(storage)}}}"
    assert main(command(storage, tmp_path / "x", "--problems", str(copy), listed)) == 2
    assert (
        "found 6 of 6 problems that results are measured on (list_0: its prompt is that of list_0 of"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "x").exists()
