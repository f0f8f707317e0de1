"""An audit from a run's folder to audit.json, with a nano model and generated problems, in this process."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.unit.evaluation.examples import contest_record, humaneval_record, mbpp_record, write_lines
from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, load_value_path, save_policy
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Example
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import parse_row, problem_of
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, render_row
from wmtp_ray.errors import ArtifactError, ConfigError, DataError
from wmtp_ray.evaluation.audit_critic import judged_problems, likeliest_other, values_at
from wmtp_ray.evaluation.audited_prefixes import Prefix
from wmtp_ray.evaluation.decoding import Decoded
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.judging import judge_answer
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.rollouts import JudgedProblem, continued
from wmtp_ray.flows.evaluate.audit_command import audit_command, models_of
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.true_values import value_agreement
from wmtp_ray.tracking.critic_audit import CriticAudit, read_critic_audit
from wmtp_ray.training.measure_critic import held_out_rows, judge_held_out
from wmtp_ray.training.stages import policy_stage

TASKS = ListTasks(
    seed=3, num_train_problems=20, num_valid_problems=6, num_correct=2, num_incorrect=2, systematic_frac=0
)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", TASKS)
    args = ModelArgs(dim=32, n_layers=4, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
    make_micro_model(root / "models_v2" / "nano_mtp", args, seed=0)
    tokenizer = root / "models_v2" / "nano_mtp" / "tokenizer.model"
    lines = files.train.read_bytes().splitlines()
    train_tokenizer([render_row(parse_row(line, 1, files.train)) for line in lines], tokenizer, 385)
    ensure_index(files.valid, CodeTokenizer(tokenizer), on_error="fail")
    return root


def configured(storage: Path, *words: str) -> RunConfig:
    given = ["recipe=verifiable", "preset=quickstart", f"storage_root={storage}", "evaluation.draft_horizons=1"]
    given += ["evaluation.max_new_tokens=24", "stages=[2]", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def run_of(storage: Path, name: str, *words: str) -> Path:
    """A run's folder with its policy at the end of stage 2, whose value head is far from its start."""
    config = configured(storage, f"run_name={name}", *words)
    config.folder.final.mkdir(parents=True)
    config.folder.config.write_text(dump_config(config))
    save_policy(config.folder.final, policy_of(config))
    return config.folder.path


def policy_of(config: RunConfig) -> Policy:
    policy = Policy(load_transformer(config.model.path), ValueSpec.of(config))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.value_head.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return policy


def audited(run: Path, *, seed: int | None = None, problems: int = 2) -> CriticAudit:
    audit_command(run, (), rollouts=2, problems=problems, seed=seed, console=QUIET)
    found = read_critic_audit(run)
    assert found is not None
    return found


def test_an_audit_compares_the_prefixes_of_held_out_problems_and_says_the_same_again(storage: Path) -> None:
    run = run_of(storage, "whole")
    text = audit_command(run, (), rollouts=2, problems=2, seed=None, console=QUIET)
    found = read_critic_audit(run)
    assert found is not None
    assert "of 2 of 6 held-out problems with tests, 2 of them with a minimal pair; 2 continuations each" in text
    assert (found.num_problems, found.num_available, found.num_with_edit, found.num_not_judged) == (2, 6, 2, 0)
    assert [each.at_edit for each in found.prefixes] == ([True] * 3 + [False] * 3) * 2
    assert {each.num_rollouts for each in found.prefixes} == {2}
    assert found.agreement["at the edit"] == value_agreement([each for each in found.prefixes if each.at_edit])
    assert found.agreement["all"].num_prefixes == 12
    assert audited(run) == found
    other = audited(run, seed=1)
    assert (other.settings.seed, found.settings.seed) == (1, configured(storage).seed)
    assert other.prefixes != found.prefixes


ENSEMBLE = ("critic.source=frozen", "critic.path=elsewhere", "critic.train_trunk=true", "critic.ensemble=2")


@pytest.mark.parametrize("words", [(), ENSEMBLE], ids=["one critic", "ensemble"])
def test_v_of_a_prefix_is_v_of_that_state_in_the_whole_program(
    storage: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = configured(storage, "run_name=r", *words)
    run_policy = policy_of(config)
    directory = tmp_path / "critic"
    directory.mkdir()
    save_policy(directory, run_policy)
    index, rows_N = held_out_rows(config)
    loss = policy_stage(config).build_loss(run_policy, config)
    judged = judge_held_out(loss, config, index, rows_N[:4])
    lines = config.data.valid_file.read_bytes().splitlines()
    prefixes, expected = list[Prefix](), list[float]()
    for row_id, response in zip(rows_N[:4].tolist(), judged, strict=True):
        row = parse_row(lines[row_id], row_id, config.data.valid_file)
        example = encode_row(row, CodeTokenizer(config.tokenizer.path), row_id)
        for place in (0, 3, len(response.tokens) - 1):
            prefixes.append(prefix_of(example, place))
            expected.append(float(response.values[place]))
    critic = load_value_path(directory, ValueSpec.of(config)).eval()
    assert np.ptp(expected) > 0.01
    assert values_at(critic, prefixes, 300) == pytest.approx(expected, abs=1e-5)  # in several batches


def prefix_of(example: Example, num_tokens: int) -> Prefix:
    tokens = tuple(example.tokens_T[: example.prompt_tokens + num_tokens].tolist())
    return Prefix("p", False, None, example.row_id, example.prompt_tokens, tokens)


def test_the_other_token_is_the_likeliest_but_the_rows_and_no_end(storage: Path) -> None:
    config = configured(storage, "run_name=r")
    policy, tokenizer = load_transformer(config.model.path).eval(), CodeTokenizer(config.tokenizer.path)
    other = likeliest_other(policy, tokenizer)
    tokens = (tokenizer.bos_id, *tokenizer.encode("def f(a):\n"))
    logits = policy(torch.tensor([tokens]))[0, -1, 0].tolist()
    ranked = sorted(range(tokenizer.vocab_size), key=lambda token: -logits[token])
    allowed = [token for token in ranked if token not in (tokenizer.bos_id, *tokenizer.end_ids)]
    assert other(tokens, allowed[0]) == allowed[1]
    assert other(tokens, allowed[1]) == allowed[0]


def test_the_rest_of_a_correct_program_passes_and_that_of_an_incorrect_one_fails(storage: Path) -> None:
    config = configured(storage, "run_name=r")
    tokenizer = CodeTokenizer(config.tokenizer.path)
    problems = read_problems(config.evaluation.files["list_tasks"])
    with_tests = {each.task_id: JudgedProblem(each, problems.kind) for each in problems.problems}
    lines = config.data.valid_file.read_bytes().splitlines()[:4]
    rows = [parse_row(line, 1, config.data.valid_file) for line in lines]
    assert {row.is_correct for row in rows} == {True, False}
    with Judge(num_workers=1) as judge:
        for row in rows:
            example = encode_row(row, tokenizer, 0)
            tested = with_tests[problem_of(row.task_id)]
            for place in (0, 5, len(example.tokens_T) - example.prompt_tokens - 1):
                prefix = prefix_of(example, place)
                rest = tuple(example.tokens_T[len(prefix.tokens) : -1].tolist())
                task = continued(prefix, Decoded("0", rest, "", "", "end", 1, (), ()), tested, tokenizer)
                assert (judge_answer(judge, task).status == "pass") is row.is_correct


def test_the_critic_is_the_policys_own_head_or_the_bundle_that_scored_it(storage: Path) -> None:
    own = run_of(storage, "own")
    config = configured(storage, "run_name=own")
    assert models_of(own, config).critic == own / "final" == models_of(own, config).policy
    bundle = storage / "elsewhere"
    frozen = configured(storage, "run_name=own", "critic.source=frozen", f"critic.path={bundle}")
    assert models_of(own, frozen).critic == bundle
    (own / "critic" / "final").mkdir(parents=True)
    assert models_of(own, frozen).critic == own / "critic" / "final"
    assert models_of(storage / "untrained", frozen).policy == config.model.path


UNWEIGHTED = ("recipe=baseline", "train.value_coef=0", "critic.anchor_coef=0")


def refused(storage: Path, name: str, *words: str, tests: tuple[Path, ...] = (), rollouts: int = 2) -> str:
    run = run_of(storage, name, *words)
    with pytest.raises((ConfigError, ArtifactError, DataError)) as refusal:
        audit_command(run, tests, rollouts=rollouts, problems=2, seed=None, console=QUIET)
    assert read_critic_audit(run) is None
    return str(refusal.value)


def test_what_cannot_be_audited_is_refused_with_the_remedy(storage: Path, tmp_path: Path) -> None:
    assert "without a critic" in refused(storage, "uniform", *UNWEIGHTED)
    assert "data.condition=none" in refused(storage, "told", *UNWEIGHTED, "data.condition=label")
    assert "--rollouts is 0, expected 1 or more" in refused(storage, "none", rollouts=0)
    assert "no such file" in refused(storage, "lost", tests=(tmp_path / "lost.jsonl",))
    assert "--tests FILE" in refused(storage, "absent", f"evaluation.files.list_tasks={tmp_path}/absent.jsonl")
    no_rows = refused(storage, "no_rows", "data.max_tokens=16", "train.micro_batch_tokens=16")
    assert "data.max_tokens" in no_rows
    train = storage / "datasets_local_small" / "list_tasks" / "train_problems.jsonl"
    message = refused(storage, "others", tests=(train,))
    assert "found no tests for the 6 held-out problems" in message
    assert "--tests FILE" in message
    with pytest.raises(ArtifactError, match="expected the folder of a run"):
        audit_command(tmp_path, (), rollouts=2, problems=2, seed=None, console=QUIET)


def rows_file(path: Path, *problems: str) -> Path:
    """One correct row of each problem."""
    metadata = {"source": "s", "difficulty": 0, "has_tests": True}
    rows = [
        {"instruction": "i", "input": "", "output": "x = 1", "task_id": f"{name}_correct_0", "is_correct": True}
        for name in problems
    ]
    return write_lines(path, [row | {"metadata": metadata} for row in rows])


def test_the_tests_of_every_benchmark_are_found_by_the_names_of_its_rows(storage: Path, tmp_path: Path) -> None:
    contest = contest_record("1060_A. Phone Numbers")
    files = (
        write_lines(tmp_path / "humaneval.jsonl", [humaneval_record(0)]),
        write_lines(tmp_path / "mbpp.jsonl", [mbpp_record(11)]),
        write_lines(tmp_path / "contests.jsonl", [contest]),
    )
    names = ("mbpp_11", "1060_A. Phone Numbers", "HumanEval/0", "mbpp_12")
    tokenizer = CodeTokenizer(configured(storage, "run_name=r").tokenizer.path)
    index = ensure_index(rows_file(tmp_path / "rows.jsonl", *names), tokenizer, on_error="fail")
    found = judged_problems(index, np.arange(4), [read_problems(path) for path in files])
    assert {name: (each.problem.task_id, each.kind) for name, each in found.items()} == {
        "mbpp_11": ("Mbpp/11", "mbpp"),
        "1060_A. Phone Numbers": ("1060_A. Phone Numbers", "codecontests"),
        "HumanEval/0": ("HumanEval/0", "humaneval"),
    }


@pytest.mark.parametrize("written", ["    return a + 0\n", "    return a + 1\n"], ids=["right", "wrong"])
def test_a_whole_function_answers_a_problem_that_gives_its_head(storage: Path, tmp_path: Path, written: str) -> None:
    tokenizer = CodeTokenizer(configured(storage, "run_name=r").tokenizer.path)
    (problem,) = read_problems(write_lines(tmp_path / "humaneval.jsonl", [humaneval_record(0)])).problems
    tokens = [tokenizer.bos_id, *tokenizer.encode("### Response:\n" + problem.prompt + written)]
    prompt_tokens = 1 + len(tokenizer.encode("### Response:\n"))
    prefix = Prefix("HumanEval/0", False, None, 0, prompt_tokens, tuple(tokens[: prompt_tokens + 8]))
    decoded = Decoded("0", tuple(tokens[prompt_tokens + 8 :]), "", "", "end", 1, (), ())
    with Judge(num_workers=1) as judge:
        status = judge_answer(judge, continued(prefix, decoded, JudgedProblem(problem, "humaneval"), tokenizer)).status
    assert (status == "pass") is ("0" in written)
