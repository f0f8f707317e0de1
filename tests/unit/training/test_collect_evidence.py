"""What the end of stage 2 says about single tokens: beside a naive reading of the same programs."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts.meta_checkpoint import load_transformer, write_policy
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.collate import documents_of
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import Row, parse_row
from wmtp_ray.data.tokenizer import CodeTokenizer, encode_row, render_row
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import reference_losses
from wmtp_ray.tracking.token_evidence import TokenEvidence, TokenTrace, read_token_evidence, write_token_evidence
from wmtp_ray.training.collect_evidence import END, collect_token_evidence, held_out_loss, response_texts
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.measure_critic import batches_of_rows, held_out_rows, judge_held_out
from wmtp_ray.training.stages import policy_stage

TASKS = ListTasks(
    seed=3, num_train_problems=20, num_valid_problems=6, num_correct=2, num_incorrect=2, systematic_frac=0
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", TASKS)
    texts = [render_row(row) for row in rows_of(files.train)]
    args = ModelArgs(dim=32, n_layers=4, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
    for name, seed in (("nano_mtp", 0), ("nano_reference", 9)):
        make_micro_model(root / "models_v2" / name, args, seed=seed)
    train_tokenizer(texts, root / "models_v2" / "nano_mtp" / "tokenizer.model", 385)
    ensure_index(files.valid, CodeTokenizer(root / "models_v2" / "nano_mtp" / "tokenizer.model"), on_error="fail")
    return root


def rows_of(path: Path) -> list[Row]:
    return [parse_row(line, number, path) for number, line in enumerate(path.read_bytes().splitlines(), start=1)]


def configured(storage: Path, *words: str, recipe: str = "verifiable") -> RunConfig:
    given = [f"recipe={recipe}", "preset=quickstart", f"storage_root={storage}", "run_name=r", "stages=[2]", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def loss_of(config: RunConfig) -> StageLoss:
    recipe = policy_stage(config)
    policy = recipe.build_policy(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.startswith("value_head"):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return recipe.build_loss(policy, config)


def traces_of(config: RunConfig, loss: StageLoss, own_critic: Path | None = None) -> list[TokenTrace]:
    index, rows_N = held_out_rows(config)
    pairs = collect_token_evidence(loss, config, index, rows_N, own_critic)
    return [trace for pair in pairs for trace in (pair.correct, pair.incorrect)]


def test_a_trace_says_what_the_policy_and_its_critic_say_of_the_program_alone(storage: Path) -> None:
    config = configured(storage)
    loss = loss_of(config)
    index, rows_N = held_out_rows(config)
    pairs = collect_token_evidence(loss, config, index, rows_N, None)
    assert 0 < len(pairs) <= 6
    source, tokenizer = rows_of(config.data.valid_file), CodeTokenizer(config.tokenizer.path)
    for pair in pairs:
        for trace, is_correct in ((pair.correct, True), (pair.incorrect, False)):
            row = source[trace.row_id]
            assert row.is_correct is is_correct
            assert row.task_id.startswith(f"{pair.problem}_")
            assert "".join(trace.tokens) == row.output + END
            tensors = alone(trace.row_id, config)
            first = encode_row(row, tokenizer, 0).prompt_tokens
            values_T = loss.value_scores(tensors).values_BT[0].numpy()
            losses_T = loss.pair_losses(tensors, 1)[0, :, 0].numpy()
            assert trace.prompt_value == pytest.approx(values_T[first - 1], rel=1e-3)
            assert trace.values == pytest.approx(values_T[first:], rel=1e-3)
            assert trace.losses == pytest.approx(losses_T[first - 1 : -1], rel=1e-3)
            states = [trace.prompt_value, *trace.values]
            errors = [after - before for before, after in pairwise(states)]
            errors[-1] = float(is_correct) - states[-2]
            assert trace.td_errors == pytest.approx(errors, abs=2e-3)
            expected = [np.clip(np.exp(error / config.weighting.beta), 0.1, 5.0) for error in errors]
            assert trace.weights["td"] == pytest.approx(expected, rel=2e-2)
            assert set(trace.weights["uniform"]) == {1.0}
            assert sorted(trace.weights["shuffled"]) == pytest.approx(sorted(trace.weights["td"]))
            p = np.exp(-np.array(trace.losses))
            signed = [-w * q if e < 0 and not is_correct else w for w, e, q in zip(expected, errors, p, strict=True)]
            assert [abs(w) for w in trace.weights["signed"]] == pytest.approx(np.abs(signed), rel=2e-2)
            assert (min(trace.weights["signed"]) < 0) == (not is_correct)
            assert "rho1" not in trace.weights


def alone(row_id: int, config: RunConfig) -> BatchTensors:
    index, _ = held_out_rows(config)
    (batch,) = batches_of_rows(index, np.array([row_id]), config)
    return BatchTensors.from_batch(batch, "cpu")


def test_the_edit_is_where_the_two_programs_of_a_pair_differ(storage: Path) -> None:
    config = configured(storage)
    index, rows_N = held_out_rows(config)
    pairs = collect_token_evidence(loss_of(config), config, index, rows_N, None)
    assert [pair.is_minimal for pair in pairs] == sorted((pair.is_minimal for pair in pairs), reverse=True)
    for pair in pairs:
        right, wrong = pair.correct, pair.incorrect
        assert right.tokens[: right.edit[0]] == wrong.tokens[: wrong.edit[0]]
        assert right.tokens[right.edit[1] :] == wrong.tokens[wrong.edit[1] :]
        assert right.tokens[slice(*right.edit)] != wrong.tokens[slice(*wrong.edit)]


def test_the_programs_of_a_pair_are_compared_with_each_other(storage: Path) -> None:
    """A minimal pair: the oracle knows the first token that differs, `oracle_drop` the wrong program's edit."""
    config = configured(storage, "weighting.beta=0.5", "train.micro_batch_tokens=256", "data.max_tokens=256")
    index, rows_N = held_out_rows(config)
    pairs = collect_token_evidence(loss_of(config), config, index, rows_N, None)
    assert any(pair.is_minimal for pair in pairs)
    for pair in pairs:
        for trace, jump, other in ((pair.correct, 0.5, pair.incorrect), (pair.incorrect, -0.5, pair.correct)):
            first = next(i for i, (a, b) in enumerate(zip(trace.tokens, other.tokens, strict=False)) if a != b)
            assert first == trace.edit[0]
            expected = [float(np.exp(jump / 0.5)) if i == first else 1.0 for i in range(len(trace.tokens))]
            assert trace.weights["oracle"] == pytest.approx(expected, rel=1e-3)
        heavy = {i for i, weight in enumerate(pair.correct.weights["diff"]) if weight == 2.0}
        dropped = {i for i, weight in enumerate(pair.incorrect.weights["oracle_drop"]) if weight == 0.0}
        assert heavy <= set(range(*pair.correct.edit))
        assert dropped <= set(range(pair.incorrect.edit[0], max(pair.incorrect.edit[1], pair.incorrect.edit[0] + 1)))
        assert pair.incorrect.edit[0] in dropped
        assert set(pair.correct.weights["oracle_drop"]) == set(pair.incorrect.weights["diff"]) == {1.0}


def test_a_run_without_a_critic_has_no_values_and_no_weights_that_need_them(storage: Path) -> None:
    config = configured(storage, recipe="baseline")
    for trace in traces_of(config, loss_of(config)):
        assert (trace.prompt_value, trace.values, trace.td_errors) == (None, None, None)
        assert set(trace.weights) == {"uniform", "dft", "diff", "oracle", "oracle_drop", "surprisal"}


def test_without_held_out_pairs_there_is_nothing_to_trace(storage: Path) -> None:
    config = configured(storage)
    index, rows_N = held_out_rows(config)
    loss = loss_of(config)
    assert collect_token_evidence(loss, config, index, rows_N[:0], None) == ()
    correct_N = rows_N[index.is_correct_R[rows_N]]
    assert collect_token_evidence(loss, config, index, correct_N, None) == ()
    assert judge_held_out(loss, config, index, rows_N[:0]) == []


def test_rho1_ranks_the_programs_together_and_keeps_its_ratio(storage: Path) -> None:
    reference = f"reference.path={storage / 'models_v2' / 'nano_reference'}"
    config = configured(storage, reference, "rho1.keep_ratio=0.5", recipe="rho1_weighted")
    weights = [weight for trace in traces_of(config, loss_of(config)) for weight in trace.weights["rho1"]]
    assert set(weights) == {0.0, 1.0}
    assert sum(weights) == -(-len(weights) // 2)


def test_a_contrast_has_two_references_and_shows_their_ratio(storage: Path) -> None:
    plus, minus = (storage / "models_v2" / name for name in ("nano_reference", "nano_mtp"))
    words = (f"reference.path={plus}", f"reference.incorrect_path={minus}", "weighting.type=contrast")
    config = configured(storage, *words, "weighting.beta=2", "train.value_coef=0")
    plain = configured(storage, words[0], recipe="rho1_weighted")
    for trace in traces_of(config, loss_of(config)):
        tensors = alone(trace.row_id, config)
        ratio_T = reference_losses(load_transformer(minus), tensors) - reference_losses(load_transformer(plus), tensors)
        first = len(ratio_T[0]) - trace.num_tokens
        expected = torch.exp(ratio_T[0, first : first + len(trace.losses)].detach() / 2).clamp(0.1, 5.0)
        assert trace.weights["contrast"] == pytest.approx(expected.tolist(), rel=1e-2)
        assert "rho1" in trace.weights
    assert all("contrast" not in trace.weights for trace in traces_of(plain, loss_of(plain)))


def test_a_critic_of_its_own_gives_the_values(storage: Path, tmp_path: Path) -> None:
    config = configured(storage, "critic.source=frozen", f"critic.path={tmp_path / 'final'}")
    policy = loss_of(configured(storage)).policy
    write_policy(tmp_path / "final", policy.transformer.args, policy.spec, policy.state_dict())
    own = traces_of(configured(storage), loss_of(configured(storage)))
    frozen = traces_of(
        config, policy_stage(config).build_loss(policy_stage(config).build_policy(config), config), tmp_path / "final"
    )
    assert [trace.values for trace in frozen] == [trace.values for trace in own]


def test_a_policy_that_was_told_labels_is_asked_for_correct_programs_of_held_out_problems(storage: Path) -> None:
    config = configured(storage, "data.condition=label", recipe="baseline")
    loss = loss_of(config)
    index, rows_N = held_out_rows(config)
    tokenizer = CodeTokenizer(config.tokenizer.path)
    for batch in batches_of_rows(index, rows_N, config, "correct"):
        assert batch.tokens_BT.shape[1] <= config.train.micro_batch_tokens
        prompts = [
            tokenizer.decode(batch.tokens_BT[0, each][~batch.supervised_mask_BT[0, each]].tolist())
            for each in documents_of(batch)
        ]
        assert all("### Label: correct" in prompt for prompt in prompts)
        assert {bool(reward) for reward in batch.rewards_M} == {True, False}
    asked = held_out_loss(judge_held_out(loss, config, index, rows_N, "correct"))
    unasked = held_out_loss(judge_held_out(loss, config, index, rows_N))
    assert asked is not None
    assert unasked is not None
    assert asked.correct != unasked.correct
    source = rows_of(config.data.valid_file)
    for trace in traces_of(config, loss):
        assert "".join(trace.tokens) == source[trace.row_id].output + END


def test_the_held_out_loss_is_a_mean_over_tokens_of_either_kind(storage: Path) -> None:
    config = configured(storage, recipe="baseline")
    loss = loss_of(config)
    index, rows_N = held_out_rows(config)
    found = held_out_loss(judge_held_out(loss, config, index, rows_N))
    assert found is not None
    per_token: dict[bool, list[float]] = {True: [], False: []}
    for row_id in rows_N.tolist():
        tensors = alone(row_id, config)
        losses_T = loss.pair_losses(tensors, 1)[0, :, 0]
        supervised_T = torch.roll(tensors.supervised_mask_BT[0], -1)
        supervised_T[-1] = False
        per_token[bool(index.is_correct_R[row_id])] += losses_T[supervised_T].tolist()
    assert (found.correct, found.incorrect) == pytest.approx((np.mean(per_token[True]), np.mean(per_token[False])))
    assert (found.num_rows, found.num_problems) == (len(rows_N), 6)
    assert held_out_loss([]) is None


@pytest.mark.parametrize("output", ["", "x = 1\n", "s = '</script>'", "é = '数\t𝕏'", "    indented"])
def test_the_texts_of_the_tokens_join_to_the_response(storage: Path, output: str) -> None:
    tokenizer = CodeTokenizer(storage / "models_v2" / "nano_mtp" / "tokenizer.model")
    row = replace_output(output)
    texts = response_texts(row, tokenizer)
    example = encode_row(row, tokenizer, 0)
    assert len(texts) == len(example.tokens_T) - example.prompt_tokens
    assert without_replacements(texts) == output


def replace_output(output: str) -> Row:
    return Row("Do it.", "", output, "p_correct_0", True, "", 0, False, 0, 0, "")


def without_replacements(texts: Sequence[str]) -> str:
    assert texts[-1] == END
    return "".join(texts[:-1])


def test_the_file_gives_back_what_was_written(storage: Path, tmp_path: Path) -> None:
    config = configured(storage)
    loss = loss_of(config)
    index, rows_N = held_out_rows(config)
    pairs = collect_token_evidence(loss, config, index, rows_N, None)
    evidence = TokenEvidence("td", 0.1, 5.0, held_out_loss(judge_held_out(loss, config, index, rows_N)), pairs)
    path = write_token_evidence(tmp_path, evidence)
    assert read_token_evidence(tmp_path) == evidence
    assert path.stat().st_size < 40_000 * len(pairs)
    write_token_evidence(tmp_path, replace(evidence, held_out=None, pairs=()))
    assert read_token_evidence(tmp_path) == replace(evidence, held_out=None, pairs=())
    assert read_token_evidence(tmp_path / "nowhere") is None
