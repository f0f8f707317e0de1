"""Every mistake ends in exit code 2 and one message, before torch or ray is imported and before anything is written.

All commands run in ONE fresh process (`commands`), so that what it imported tells what any refusal imports. Each test
looks at one command's outcome.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.index import build_index, count_tokens, index_path_of, write_index
from wmtp_ray.data.rows import decode_row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, render_row
from wmtp_ray.flows.doctor import doctor
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.plan.run_plan import save as save_plan

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2025, 1, 2, 3, 4, 5)
VOCAB_SIZE = 300
PROBLEM = {"task_id": "p/0", "prompt": "one", "entry_point": "f", "canonical_solution": "def f(): return 1"}
PROBLEM |= {"test": "def check(candidate):\n    assert candidate() == 1\n"}
PARAMS = {"dim": 16, "n_layers": 4, "n_heads": 2, "vocab_size": VOCAB_SIZE, "n_future_tokens": 2}
BASE = ["storage_root={root}", "model.path={root}/model", "tokenizer.path={root}/tokenizer.model"]
BASE += ["data.train_file={root}/train.jsonl", "data.max_tokens=256", "train.micro_batch_tokens=512"]
BASE += ["train.batch_rows=4", "critic_stage.batch_rows=4", "cluster.num_cpus=8"]
RHO1 = ["recipe=rho1_weighted", "reference.path={root}/model"]
CONTRAST = ["weighting.type=contrast", "train.value_coef=0", "reference.path={root}/model"]
SECOND = "reference.incorrect_path={bad}"
FILE = "data.train_file={bad}"
PROBLEMS = ["evaluation.files.mine={root}/problems.jsonl", "evaluation.isolation=rlimits"]
UNIFORM = [f"{FILE}/uniform.jsonl", "data.max_tokens={n}", "train.micro_batch_tokens={n}"]  # every row has n tokens

# words after `recipe=verifiable` and BASE -> what the message must say: what was found, what was expected, what to do
REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    "no recipe": (["recipe="], ["recipe=", "expected recipe=NAME"]),
    "unknown recipe": (
        ["recipe=verifable"],
        ["recipe=verifable", "expected one of", "Did you mean recipe=verifiable?"],
    ),
    "unknown preset": (["preset=cpuu"], ["preset=cpuu", "expected one of", "Did you mean preset=cpu?"]),
    "unknown flag": (["--dryrun"], ["unknown flag --dryrun", "did you mean --dry-run?"]),
    "typo in a key": (["weighting.bta=1"], ["weighting.bta: there is no such key", "did you mean weighting.beta?"]),
    "out of range": (["train.value_coef=-1"], ["train.value_coef: found -1", "expected a number of at least 0"]),
    "clips crossed": (["weighting.clip_min=6"], ["clip_min=6.0", "not below clip_max=5.0", "give a lower clip_min"]),
    "micro-batch below a row": (
        ["train.micro_batch_tokens=128"],
        ["train.micro_batch_tokens=128", "data.max_tokens=256", "raise micro_batch_tokens"],
    ),
    "missing file": ([f"{FILE}/absent.jsonl"], ["data.train_file: ", "absent.jsonl does not exist", "set data.train"]),
    "missing model": (["model.path={bad}/absent"], ["model.path: ", "absent does not exist", "point model.path"]),
    "missing index folder": (["data.index_file={bad}/absent/i.parquet"], ["cannot be written", "data.index_file"]),
    "a directory as data": ([f"{FILE}/torn_weights"], ["torn_weights: cannot be read", "expected a JSONL"]),
    "batch above data": (
        ["train.batch_rows=5000"],
        ["train.batch_rows=5000 but only", "a step needs 5000", "lower train.batch_rows"],
    ),
    "critic of other members": (
        ["critic.source=frozen", "critic.ensemble=2", "critic.path={bad}/one_critic"],
        [
            "one_critic holds a value head",
            "wants (head linear",
            "2 members)",
            "Set critic.ensemble=1, or train a critic",
        ],
    ),
    "critic with another head": (
        ["stages=[2]", "critic.head=mlp", "critic.path={bad}/one_critic"],
        ["one_critic holds a value head (head linear", "wants (head mlp", "Set critic.head"],
    ),
    "more members than problems": (
        ["critic.source=frozen", "critic.ensemble=2", "data.max_tokens=256", "data.valid_problems_frac=0.9"],
        ["critic.ensemble=2", "would learn from", "give more problems", "set critic.ensemble=1"],
    ),
    "critic batch above data": (
        ["critic_stage.batch_rows=5000"],
        ["critic_stage.batch_rows=5000 but only", "lower critic_stage.batch_rows"],
    ),
    "no row short enough": (
        ["stages=[2]", "data.max_tokens=8"],
        ["over 8 tokens (data.max_tokens)", "raise data.max_tokens"],
    ),
    "truncated JSONL": ([f"{FILE}/truncated.jsonl"], ["truncated.jsonl:60: found invalid or truncated JSON", "fix"]),
    "wrong types": (
        [f"{FILE}/types.jsonl"],
        [
            "found 3 malformed lines",
            'types.jsonl:2: found a string in "is_correct", expected true or false',
            'types.jsonl:5: found true in "metadata.difficulty", expected an integer',
            'types.jsonl:9: found no key "output", expected a string',
            "data.on_error=skip",
        ],
    ),
    "invalid UTF-8": ([f"{FILE}/utf8.jsonl"], ["utf8.jsonl:1: found invalid UTF-8 at byte", "expected a JSON object"]),
    "empty file": ([f"{FILE}/empty.jsonl"], ["empty.jsonl: found an empty file", "expected at least one row"]),
    "nothing but errors": ([f"{FILE}/garbage.jsonl", "data.on_error=skip"], ["no valid row", "expected at least one"]),
    "stale index": ([f"{FILE}/stale.jsonl"], ["the index is stale", "expected the", "run `wmtp data index"]),
    "torn index": ([f"{FILE}/torn_index.jsonl"], ["found a torn or foreign file", "run `wmtp data index"]),
    "broken valid file": (["data.valid_file={bad}/utf8.jsonl"], ["utf8.jsonl:1: found invalid UTF-8", "fix"]),
    "no tokenizer": (["tokenizer.path={bad}/empty.jsonl"], ["no SentencePiece model", "fetch the file again"]),
    "tokenizer above the model": (
        ["tokenizer.path={bad}/larger.model"],
        ["has 310 tokens", "only 300", "set tokenizer.path"],
    ),
    "wrong horizons": (["loss.horizon_coefs=[1,1,1]"], ["has 3 entries", "predicts 2 horizons", "give 2, or null"]),
    "reference's tokenizer": (
        [*RHO1, "reference.tokenizer_path={bad}/other.model"],
        ["The reference's tokenizer", "is another than the policy's", "give a reference"],
    ),
    "reference's vocabulary": (
        [*RHO1, "reference.path={bad}/other_vocabulary"],
        ["has 301 tokens", "has 300", "expected one vocabulary", "set reference.path"],
    ),
    "broken reference": (
        [*RHO1, "reference.path={bad}/not_json"],
        ["not_json/params.json is not JSON", "published with the weights"],
    ),
    "second reference's tokenizer": (
        [*CONTRAST, f"{SECOND}/torn_weights", "reference.incorrect_tokenizer_path={bad}/other.model"],
        ["The reference's tokenizer", "other.model", "give a reference", "reference.incorrect_tokenizer_path"],
    ),
    "second reference's vocabulary": (
        [*CONTRAST, "reference.incorrect_path={bad}/other_vocabulary"],
        ["has 301 tokens", "has 300", "set reference.incorrect_path"],
    ),
    "no second reference": (
        CONTRAST,
        ["weighting.type=contrast compares", "reference.incorrect_path=None", "give reference.incorrect_path=DIR"],
    ),
    "missing second reference": (
        [*CONTRAST, "reference.incorrect_path={bad}/absent"],
        ["reference.incorrect_path: ", "absent does not exist", "point reference.incorrect_path"],
    ),
    "no row of the other class": (
        ["stages=[2]", "weighting.type=oracle", f"{FILE}/one_sided.jsonl"],
        ["weighting.type=oracle compares each row", "none has one in", "one_sided.jsonl", "weighting.compared_file"],
    ),
    "missing compared file": (
        ["weighting.type=oracle", "weighting.compared_file={bad}/absent.jsonl"],
        ["weighting.compared_file: ", "absent.jsonl does not exist", "or null to compare with the rows of"],
    ),
    "broken compared file": (
        ["weighting.type=diff", "weighting.compared_file={bad}/utf8.jsonl"],
        ["utf8.jsonl:1: found invalid UTF-8", "fix"],
    ),
    "no params.json": (["model.path={bad}/no_params"], ["no_params/params.json does not exist", "point model.path"]),
    "params.json no JSON": (
        ["model.path={bad}/not_json"],
        ["not_json/params.json is not JSON", "published with the weights"],
    ),
    "params.json a list": (
        ["model.path={bad}/a_list"],
        ["a_list/params.json holds list", "expected an object", "published with the weights"],
    ),
    "params.json of scaled positions": (
        ["model.path={bad}/scaled"],
        ["scaled/params.json: found use_scaled_rope", "choose a model without them"],
    ),
    "params.json foreign": (
        ["model.path={bad}/foreign"],
        ["found dim=None, n_layers=None", "expected whole numbers above 0", "wmtp import"],
    ),
    "params.json without sizes": (["model.path={bad}/unsized"], ["found vocab_size=-1", "expected whole", "published"]),
    "no trunk": (
        ["model.path={bad}/no_trunk"],
        ["4 prediction heads leave no trunk of the 4 layers", "below n_layers"],
    ),
    "torn weights": (["model.path={bad}/torn_weights"], ["no whole safetensors file", "copy or convert"]),
    "uneven packing": (
        [*UNIFORM, "train.batch_rows=5", "train.num_workers=2"],
        ["5 rows of up to {n} tokens cannot be split evenly over 2 ranks", "raise train.micro_batch_tokens"],
    ),
    "pair above the micro-batch": (
        [*UNIFORM, "critic.objective=pairwise"],
        ["a group of 2 rows that must stay together", "train.micro_batch_tokens={n}", "raise train.micro_batch_tokens"],
    ),
    "critic batch below ranks": (
        ["critic_stage.batch_rows=2", "train.num_workers=3"],
        ["a step of 2 rows cannot feed 3 ranks", "raise batch_rows"],
    ),
    "run exists": (["run_name=first"], ["The run first exists", "add --resume", "another run_name"]),
    "resume of nothing": (["run_name=never", "--resume"], ["no run to resume in", "give the run_name"]),
    "dry run of an existing run": (["run_name=first", "--dry-run"], ["The run first exists", "add --resume"]),
    "dry run of a resume of nothing": (["run_name=never", "--resume", "--dry-run"], ["no run to resume in"]),
    "dry run of a resume with other data": (
        ["run_name=moved", "--resume", "--dry-run", f"{FILE}/moved.jsonl"],
        ["was started with the plan", "the content of data.train_file has changed"],
    ),
    "more CPUs than there are": (
        ["cluster.num_cpus=2"],
        ["The run asks for 2.1 CPUs, this machine has 2", "Lower cluster.cpus_per_worker", "raise cluster.num_cpus"],
    ),
    "more CPUs for the evaluation": (
        [*PROBLEMS, "cluster.cpus_per_judge=9"],
        ["The evaluation asks for", "this machine has 8", "Lower evaluation.num_decoders"],
    ),
    "more GPUs than there are": (
        ["cluster.gpus_per_worker=99"],
        ["The run asks for 99 GPUs, this machine has", "Lower cluster.gpus_per_worker", "or submit a job"],
    ),
    "resume without a name": (["--resume"], ["expected run_name=NAME", "first"]),
    "resume with other values": (
        ["run_name=first", "--resume", "weighting.beta=0.5", "cluster.num_cpus=3"],
        ["weighting.beta: found 0.5, started with 0.9", "give the same values, or start a new run_name"],
    ),
    "resume of a torn config": (["run_name=torn", "--resume"], ["torn", "config.yaml", "restore it"]),
    # The machine may change (so it gets past the configuration), the rows may not:
    "resume with other data": (
        ["run_name=moved", "--resume", f"{FILE}/moved.jsonl", "cluster.num_cpus=3", "critic.pool_size=2"],
        ["was started with the plan", "the content of data.train_file has changed", "start a new run_name"],
    ),
    "K above the samples": (["evaluation.k=[1,5]"], ["k=[1, 5] with num_samples=1", "raise num_samples or lower k"]),
    "greedy samples": (
        ["evaluation.num_samples=5"],
        ["num_samples=5 with temperature=0", "all samples of a problem would be the same", "give a temperature"],
    ),
    "problems without a file": (
        ["evaluation.datasets=[mine]"],
        ["datasets names mine", "files has humaneval, mbpp, codecontests", "evaluation.files.mine=FILE"],
    ),
    "problems that are not there": (
        ["evaluation.datasets=[humaneval]"],
        ["evaluation.datasets names humaneval", "problems.jsonl does not exist", "setup_datasets.py", "leave it out"],
    ),
    "rows for problems": (
        ["evaluation.files.mine={root}/train.jsonl"],
        ["train.jsonl:1: found the keys", "expected problems with tests"],
    ),
    "a format of other problems": (
        [*PROBLEMS, "evaluation.formats.instruction=completion"],
        ["completion does not fit", "problems.jsonl", "choose one of instruct, chat"],
    ),
    "more drafts than heads": (
        [*PROBLEMS, "evaluation.draft_horizons=2"],
        ["evaluation.draft_horizons=2", "predicts 2 horizons", "give at most so many"],
    ),
    "too weak a sandbox": (
        [*PROBLEMS, "evaluation.isolation=rlimits", "evaluation.isolation_required=landlock"],
        ["cannot be judged at isolation level 'landlock'", "rlimits: below the required level", "or accept less"],
    ),
    "nowhere to write": (["storage_root={bad}/empty.jsonl"], ["cannot be written", "set storage_root"]),
}

ACCEPTED = {
    "dry run": ["--dry-run"],
    "dry run of a resumed run": ["--dry-run", "run_name=first", "--resume"],
    "dry run that skips": [f"{FILE}/types.jsonl", "data.on_error=skip", "--dry-run"],
    "dry run with an index elsewhere": [f"{FILE}/apart/rows.jsonl", "data.index_file={bad}/indexes", "--dry-run"],
    "dry run with problems": [
        *PROBLEMS,
        "evaluation.num_samples=3",
        "evaluation.k=[1,2]",
        "evaluation.temperature=0.5",
        "--dry-run",
    ],
    "dry run that compares rows": ["weighting.type=oracle", "--dry-run"],
    "dry run of stage 3 alone": [*PROBLEMS, f"{FILE}/absent.jsonl", "stages=[3]", "--dry-run"],
    "help": ["--help"],
}

DRIVER = """
import contextlib, io, json, sys, traceback
from datetime import datetime
from wmtp_ray.cli import main

outcomes = []
for argv in json.load(sys.stdin):
    out, err, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["launch", *argv], now=datetime(2025, 1, 2, 3, 4, 5))
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
    heavy = sorted({"torch", "ray", "mlflow", "pandas"} & set(sys.modules))
    outcomes.append({"code": code, "out": out.getvalue(), "err": err.getvalue(), "heavy": heavy})
json.dump(outcomes, sys.stdout)
"""


@dataclass(frozen=True)
class Site:
    """A storage with all that a run needs, and a folder of things that are wrong."""

    root: Path
    row_tokens: int

    def words(self, words: Sequence[str]) -> list[str]:
        return [word.format(root=self.root, bad=self.root / "bad", n=self.row_tokens) for word in words]

    def argv(self, words: Sequence[str]) -> list[str]:
        return ["recipe=verifiable", *self.words([*BASE, *words])]

    def config(self, *words: str) -> RunConfig:
        return load_config(parse_arguments(self.argv(words)), now=NOW)


@dataclass(frozen=True)
class Outcome:
    """What a command came to; `heavy` lists heavy modules that were imported by then."""

    code: int | None
    out: str
    err: str
    heavy: list[str]


def row(number: int, **changes: object) -> dict[str, object]:
    label = "correct" if number % 2 else "incorrect"
    metadata = {"source": "made_up", "difficulty": 1 + number % 11, "has_tests": True}
    record = {"instruction": f"Print the number {number}.", "input": "", "output": f"print({number})" * 3}
    record |= {"task_id": f"problem {number // 4}_{label}_{number}", "is_correct": label == "correct"}
    return record | {"metadata": metadata} | changes


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def write_model(directory: Path, params: object) -> None:
    directory.mkdir()
    text = params if isinstance(params, str) else json.dumps(params)
    (directory / "params.json").write_text(text, encoding="utf-8")
    save_file({"norm.weight": np.ones(16, np.float32)}, directory / "model.safetensors")


def write_bad_models(bad: Path) -> None:
    write_model(bad / "other_vocabulary", PARAMS | {"vocab_size": VOCAB_SIZE + 1})
    write_model(bad / "not_json", "{'dim': 16")
    write_model(bad / "a_list", [PARAMS])
    write_model(bad / "scaled", PARAMS | {"use_scaled_rope": True})
    write_model(bad / "foreign", {"hidden_size": 16, "num_hidden_layers": 4, "vocab_size": VOCAB_SIZE})
    write_model(bad / "unsized", PARAMS | {"vocab_size": -1})
    write_model(bad / "no_trunk", PARAMS | {"n_future_tokens": 4})
    write_model(bad / "no_params", PARAMS)
    (bad / "no_params" / "params.json").unlink()
    write_model(bad / "one_critic", PARAMS)
    spec = {"head": "linear", "value_layer": 1.0, "features": "none", "output": "value", "num_bins": 0}
    (bad / "one_critic" / "value_head.json").write_text(json.dumps(spec), encoding="utf-8")
    write_model(bad / "torn_weights", PARAMS)
    weights = bad / "torn_weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


def write_bad_files(bad: Path, rows: list[dict[str, object]]) -> None:
    good = b"".join(json.dumps(each).encode() + b"\n" for each in rows)
    (bad / "truncated.jsonl").write_bytes(good[:-20])
    (bad / "utf8.jsonl").write_bytes(b'{"instruction": "\xff"}\n' + good)
    (bad / "empty.jsonl").touch()
    (bad / "garbage.jsonl").write_text("not JSON\n" * 3)
    wrong = list(rows)
    wrong[1] = row(1, is_correct="yes")
    wrong[4] = row(4, metadata={"source": "made_up", "difficulty": True, "has_tests": True})
    wrong[8] = {key: value for key, value in row(8).items() if key != "output"}
    write_rows(bad / "types.jsonl", wrong)
    stale = write_rows(bad / "stale.jsonl", rows)
    write_index(build_index(stale, on_error="fail"), index_path_of(stale))
    write_rows(stale, rows[:-1])
    torn = write_rows(bad / "torn_index.jsonl", rows)
    write_index(build_index(torn, on_error="fail"), index_path_of(torn))
    index_path_of(torn).write_bytes(index_path_of(torn).read_bytes()[:-9])
    same_text = {"instruction": "Print it.", "output": "print(1)" * 8}
    write_rows(bad / "uniform.jsonl", [row(number, **same_text) for number in range(60)])
    alone = (row(number, task_id=f"alone {number}_{'in' * (1 - number % 2)}correct_0") for number in range(60))
    write_rows(bad / "one_sided.jsonl", list(alone))
    (bad / "apart").mkdir()
    (bad / "indexes").mkdir()
    write_rows(bad / "apart" / "rows.jsonl", rows)


def start_runs(site: Site) -> None:
    """Leave the folders of three runs: one as it should be, one with a torn file, one whose data changed since."""
    for config in (site.config("run_name=first"), site.config("run_name=torn")):
        config.run_dir.mkdir(parents=True)
        (config.run_dir / "config.yaml").write_text(dump_config(config))
    (site.root / "runs" / "torn" / "config.yaml").write_text("[")
    moved = write_rows(site.root / "bad" / "moved.jsonl", [row(number) for number in range(60)])
    config = site.config("run_name=moved", f"data.train_file={moved}")
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text(dump_config(config))
    for plan in prepare(config).plans.values():
        save_plan(plan, config.run_dir)
    write_rows(moved, [row(number) for number in range(50)])
    index = count_tokens(build_index(moved, on_error="fail").index, CodeTokenizer(config.tokenizer.path))
    write_index(build_index(moved, on_error="fail"), index_path_of(moved))
    assert len(index) == 50


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site")
    bad = root / "bad"
    bad.mkdir()
    rows = [row(number) for number in range(60)]
    write_rows(root / "train.jsonl", rows)
    write_rows(root / "problems.jsonl", [PROBLEM])
    texts = [render_row(decode_row(json.dumps(each).encode())) for each in rows]
    train_tokenizer(texts, root / "tokenizer.model", VOCAB_SIZE)
    train_tokenizer(texts, bad / "larger.model", VOCAB_SIZE + 10)
    train_tokenizer([*texts[:30], "another text"], bad / "other.model", VOCAB_SIZE)
    write_model(root / "model", PARAMS)
    write_bad_models(bad)
    write_bad_files(bad, rows)
    first = (bad / "uniform.jsonl").read_bytes().splitlines()[0]
    example = encode_row(decode_row(first), CodeTokenizer(root / "tokenizer.model"), 0)
    site = Site(root, len(example.tokens_T))
    start_runs(site)
    prepare(site.config())  # builds the index
    return site


@dataclass(frozen=True)
class Commands:
    """The outcome of every command, and the files of the site before and after."""

    outcomes: dict[str, Outcome]
    runs_before: set[str]
    runs_after: set[str]


@pytest.fixture(scope="module")
def commands(site: Site) -> Commands:
    cases = {name: site.argv(words) for name, words in ACCEPTED.items()}
    cases |= {name: site.argv(words) for name, (words, _) in REFUSALS.items()}
    before = {path.name for path in (site.root / "runs").iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(list(cases.values())), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    outcomes = {name: Outcome(**outcome) for name, outcome in zip(cases, json.loads(done.stdout), strict=True)}
    return Commands(outcomes, before, {path.name for path in (site.root / "runs").iterdir()})


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_refused_with_one_message_that_says_what_to_do(site, commands, name):
    outcome = commands.outcomes[name]
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("error: ") == 1
    assert "Traceback" not in outcome.err
    for part in site.words(REFUSALS[name][1]):
        assert part in outcome.err


@pytest.mark.parametrize("name", [*REFUSALS, *ACCEPTED])
def test_neither_a_refusal_nor_a_dry_run_imports_torch_ray_or_mlflow(commands, name):
    assert set(commands.outcomes[name].heavy) <= {"pandas"}


def test_where_the_index_exists_not_even_pandas_is_imported(commands):
    assert next(iter(commands.outcomes)) == "dry run", "commands share a process: this must be the first"
    assert commands.outcomes["dry run"].heavy == []


def test_neither_a_refusal_nor_a_dry_run_makes_a_run_directory(commands):
    assert commands.runs_before == {"first", "torn", "moved"} == commands.runs_after


def test_a_dry_run_prints_the_resolved_configuration_and_the_plan(site, commands):
    outcome = commands.outcomes["dry run"]
    assert (outcome.code, outcome.err) == (0, "")
    configuration, _, plan = outcome.out.partition("\n\n")
    assert RunConfig.model_validate(yaml.safe_load(configuration)) == site.config()
    assert "Plan of stage 1" in plan
    assert "Plan of stage 2" in plan
    assert "Plan of stage 3\n  Stage 3 evaluates nothing: none of its files exists" in plan


def test_a_dry_run_says_what_stage_3_will_evaluate_and_behind_which_walls(commands):
    outcome = commands.outcomes["dry run with problems"]
    assert outcome.code == 0, outcome.err
    assert "  mine: 1 problems, " in outcome.out
    assert "    format instruct (" in outcome.out
    assert "Pass@1, Pass@2 of 3 answers, temperature 0.5" in outcome.out
    assert "isolation level rlimits" in outcome.out


def test_evaluation_alone_needs_no_rows(commands):
    outcome = commands.outcomes["dry run of stage 3 alone"]
    assert outcome.code == 0, outcome.err
    assert "Plan of stage 2" not in outcome.out


def test_a_dry_run_may_name_a_run_that_it_would_resume(commands):
    assert commands.outcomes["dry run of a resumed run"].code == 0


def test_skipped_lines_are_counted_and_shown(site, commands):
    outcome = commands.outcomes["dry run that skips"]
    assert outcome.code == 0
    assert f"{site.root}/bad/types.jsonl: 3 of 60 lines are malformed and left out" in outcome.out
    assert 'types.jsonl:2: found a string in "is_correct"' in outcome.out
    assert "57 rows" in outcome.out


def test_an_index_elsewhere_leaves_the_data_directory_as_it_was(site, commands):
    assert commands.outcomes["dry run with an index elsewhere"].code == 0
    assert [path.name for path in (site.root / "bad" / "apart").iterdir()] == ["rows.jsonl"]
    assert [path.name for path in (site.root / "bad" / "indexes").iterdir()] == ["rows.jsonl.index.parquet"]


def test_help_needs_nothing_else(commands):
    outcome = commands.outcomes["help"]
    assert outcome.code == 0
    assert outcome.out.startswith("usage: python -m wmtp_ray.launch")


@pytest.mark.parametrize("module", [["wmtp_ray.launch"], ["wmtp_ray.cli", "launch"]])
def test_the_command_itself_exits_with_2_and_prints_the_message_only(site, tmp_path, module):
    words = site.argv(["weighting.bta=1", "train.max_steps=0"])
    done = subprocess.run([sys.executable, "-m", *module, *words], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the configuration has 2 problems:\n")
    assert len(done.stderr.splitlines()) == 3


FAR = "f" * 60  # of a temporary folder whose sockets would have longer paths than the system allows
OBSTACLES: dict[str, tuple[dict[str, str], list[str]]] = {
    "a long TMPDIR": ({"TMPDIR": f"{{root}}/{FAR}"}, ["TMPDIR=", "too long", "expected at most", "RAY_TMPDIR=/tmp"]),
    "a long RAY_TMPDIR": ({"RAY_TMPDIR": f"{{root}}/{FAR}"}, ["RAY_TMPDIR=", "too long", "RAY_TMPDIR=/tmp"]),
    "a relative TMPDIR": ({"RAY_TMPDIR": "here"}, ["RAY_TMPDIR=here", "no absolute path"]),
    "a TMPDIR that is a file": ({"RAY_TMPDIR": "/dev/null"}, ["/dev/null/ray cannot be written", "RAY_TMPDIR=/tmp"]),
    "a home that cannot be written": ({"HOME": "/dev/null"}, ["/dev/null/.ray/auth_token", "set HOME", "_AUTH_TOKEN"]),
    "a cluster that is not there": ({"RAY_ADDRESS": "127.0.0.1:9"}, ["Nothing answers at RAY_ADDRESS=127.0.0.1:9"]),
    "a cluster of another kind": ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, ["expected HOST:PORT"]),
}
ASKED = """
import json, os, sys
from wmtp_ray import cli

obstacles, words = json.load(sys.stdin)
codes = []
for obstacle in obstacles:
    before = dict(os.environ)
    os.environ.update(obstacle)
    for argv in (["launch", *words], ["launch", *words, "--dry-run"], ["doctor", *words]):
        codes.append(cli.main(argv))
        print("=" * 9, flush=True)
        print("=" * 9, file=sys.stderr, flush=True)
    os.environ.clear()
    os.environ.update(before)
print(json.dumps([codes, sorted({"torch", "ray", "mlflow"} & set(sys.modules))]))
"""


def test_launch_dry_run_and_doctor_refuse_the_same_machines(site: Site, commands: Commands) -> None:
    ours = {name: text for name, text in os.environ.items() if name not in ("TMPDIR", "RAY_TMPDIR", "RAY_AUTH_TOKEN")}
    obstacles = [{key: text.format(root=site.root) for key, text in theirs.items()} for theirs, _ in OBSTACLES.values()]
    asked = json.dumps([obstacles, site.argv(["run_name=hindered"])])
    done = subprocess.run(
        [sys.executable, "-c", ASKED], input=asked, capture_output=True, text=True, cwd=ROOT, env=ours
    )
    *out, last = done.stdout.split("=" * 9 + "\n")
    errors = done.stderr.split("=" * 9 + "\n")
    assert json.loads(last) == [[2, 2, 2] * len(OBSTACLES), []], done.stderr
    for number, (name, (_, parts)) in enumerate(OBSTACLES.items()):
        launched, planned, _ = errors[3 * number : 3 * number + 3]
        looked = out[3 * number + 2]
        assert all(part in said for said in (launched, planned, looked) for part in parts), f"{name}: {done.stderr}"
        assert out[3 * number] == "", f"{name}: launch refuses before it says anything else"
        assert "Plan of stage 2" in out[3 * number + 1], f"{name}: a plan for another machine is worth reading"
        assert planned.startswith("error: a run cannot start here: ")
        assert "would stop a run" in looked
    assert "Traceback" not in done.stderr
    assert not (site.root / "runs" / "hindered").exists()


SHOWN_TO_THE_DOCTOR = (
    "run exists",
    "resume of nothing",
    "batch above data",
    "wrong types",
    "broken valid file",
    "missing index folder",
    "params.json a list",
    "problems that are not there",
    "too weak a sandbox",
    "more CPUs for the evaluation",
    "more GPUs than there are",
    "nowhere to write",
)


def test_doctor_refuses_what_launch_refuses(site: Site, commands: Commands) -> None:
    asked = {name: site.argv(REFUSALS[name][0]) for name in SHOWN_TO_THE_DOCTOR}
    assert [name for name, words in asked.items() if doctor(words).ok] == []
    assert doctor(site.argv([])).ok, doctor(site.argv([])).render()
