"""`wmtp launch recipe=online` before anything starts: a user's mistakes, and what a dry run says. Starts no Ray."""

from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.evaluation.collecting.nano_world import make_nano_world, problems_file
from wmtp_ray.cli import main
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.flows.doctor import doctor
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.preflight.run_directory import claim_run_directory
from wmtp_ray.rounds.rounds_record import write_rounds
from wmtp_ray.rounds.run_rounds import check_inputs
from wmtp_ray.run_folder import RoundsFolder, RunFolder, runs_of


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano_world(tmp_path_factory.mktemp("storage"))


def command(storage: Path, *words: str) -> list[str]:
    given = [
        "recipe=online",
        "preset=quickstart",
        f"storage_root={storage}",
        f"rounds.problems={problems_file(storage)}",
    ]
    return ["launch", *given, "evaluation.draft_horizons=1", "run_name=mine", *words]


def test_a_dry_run_says_what_the_rounds_do_and_leaves_nothing(storage, capsys):
    assert main(command(storage, "rounds=4", "rounds.until_both=2", "rounds.max_samples=32", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "4 rounds: 8 to 32 answers to each of 6 problems of" in said
    assert "then stages [0, 1, 2, 3]; rounds.keep=all, rounds.share_collected=0.5" in said
    assert not runs_of(storage).exists()


def test_a_dry_run_without_collecting_plans_a_round(storage, capsys):
    words = ["rounds=2", "rounds.share_collected=0", "train.batch_rows=4", "critic_stage.batch_rows=4", "--dry-run"]
    assert main(command(storage, *words)) == 0
    assert "2 rounds of stages [0, 1, 2, 3] on" in capsys.readouterr().out
    assert main(command(storage, *words, "train.batch_rows=400")) == 2
    assert "train.batch_rows=400 but only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rounds.problems={lists}/none.jsonl"], "none.jsonl does not exist; set rounds.problems=FILE"),
        (["rounds.problems={lists}/valid_problems.jsonl"], "named as a held-out split"),
        (["rounds.problems={copy}"], "problems that results are measured on"),
        (["stages=[0,1]"], "put stage 2 into stages"),
        (["rounds=0"], "expected a whole number of at least 1"),
        (["loss.horizon_coefs=[1,1,1]"], "give 2, or null for ones"),
        (["--resume"], "There is no run to resume"),
        (["evaluation.num_judges=4000"], "evaluation.num_judges"),
    ],
)
def test_a_mistake_is_refused_before_a_folder_is_claimed(storage, tmp_path, capsys, words, said):
    lists = problems_file(storage).parent
    copy = tmp_path / "renamed.jsonl"
    copy.write_bytes((lists / "valid_problems.jsonl").read_bytes())
    assert main(command(storage, *(word.format(lists=lists, copy=copy) for word in words))) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert not runs_of(storage).exists()


def test_a_folder_that_exists_is_not_written_into(storage, tmp_path, capsys):
    taken = RunFolder(runs_of(tmp_path) / "mine")
    taken.path.mkdir(parents=True)
    taken.config.write_text("recipe: baseline\n")
    assert main(command(storage, f"storage_root={tmp_path}", f"model.path={storage}/models_v2/nano_mtp")) == 2
    assert "add --resume to continue it, or choose another run_name" in capsys.readouterr().err
    assert [path.name for path in taken.path.iterdir()] == [taken.config.name]


def test_rounds_are_no_single_run_and_no_trial_of_a_sweep(storage):
    config = load_config(parse_arguments(command(storage)[1:]), now=datetime(2026, 1, 1))
    with pytest.raises(Exception, match="only `wmtp launch` runs rounds"):
        prepare(config)


def test_a_run_in_rounds_is_no_policy_and_the_run_of_its_last_round_is_named(storage, tmp_path, capsys):
    config = load_config(parse_arguments([*command(storage)[1:], f"storage_root={tmp_path}"]), now=datetime(2026, 1, 1))
    claim_run_directory(config)
    out, problems = tmp_path / "rows.jsonl", problems_file(storage)
    collect = ["collect", "--problems", str(problems), "--out", str(out), "--num-samples", "1", "--temperature", "1"]
    evaluate = ["evaluate", "--dataset", str(problems.with_name("valid_problems.jsonl"))]
    for words in (collect, evaluate):
        assert main([*words, "--checkpoint", str(config.run_dir), f"storage_root={storage}"]) == 2
        assert f"give {config.run_dir}/round_2" in capsys.readouterr().err


def test_doctor_says_what_the_rounds_would_do(storage):
    tokenizer = CodeTokenizer(storage / "models_v2" / "nano_mtp" / "tokenizer.model")
    for name in ("train.jsonl", "valid.jsonl"):
        ensure_index(problems_file(storage).with_name(name), tokenizer, on_error="fail")
    (found,) = [each for each in doctor(command(storage)[1:]).findings if each.subject == "rounds"]
    assert found.level == "ok"
    assert "3 rounds: 8 answers to each of 6 problems" in found.found


def test_a_resumed_run_whose_rows_have_changed_is_refused_before_ray_starts(storage, tmp_path, capsys):
    words = [*command(storage, f"storage_root={tmp_path}", "--dry-run")[1:], f"model.path={storage}/models_v2/nano_mtp"]
    lists = problems_file(storage).parent
    train = tmp_path / "train.jsonl"
    train.write_bytes((lists / "train.jsonl").read_bytes())
    words += [f"data.train_file={train}", f"data.valid_file={lists}/valid.jsonl"]
    words += [f"tokenizer.path={storage}/models_v2/nano_mtp/tokenizer.model"]
    config = load_config(parse_arguments(words), now=datetime(2026, 1, 1))
    claim_run_directory(config)
    write_rounds(RoundsFolder(config.run_dir), check_inputs(config))
    assert main(["launch", *words, "--resume"]) == 0
    train.write_bytes(train.read_bytes()[: train.stat().st_size // 2])
    assert main(["launch", *words, "--resume"]) == 2
    assert f"the content of data.train_file={train} has changed" in capsys.readouterr().err
