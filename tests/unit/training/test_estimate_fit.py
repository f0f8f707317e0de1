"""Fitting: what meets on a device, what is refused, and that the advice would work."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.training.rank_work import CPU_WORK
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import GpuType, RunConfig
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.model.spec import TARGETS, ModelSpec
from wmtp_ray.training.estimate.evaluator_memory import EvaluatorWork
from wmtp_ray.training.estimate.fit import Device, Load, ScorerWork, remedies
from wmtp_ray.training.estimate.flops import Tokens, scorer_flops
from wmtp_ray.training.estimate.hardware import CARDS, GIB, machine_memory_bytes
from wmtp_ray.training.estimate.memory import Lora
from wmtp_ray.training.estimate.render_estimate import render_estimate
from wmtp_ray.training.estimate.run_estimate import RunEstimate, StageWork, estimate_run, require_fit, stage_flops

PARAMS = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_future_tokens": 4, "vocab_size": 32000, "multiple_of": 256}
SIZE = ModelSpec(**PARAMS)
WORK = replace(CPU_WORK, micro_batch_tokens=16384, num_micro_batches=2, dtype="bfloat16", device="cuda")


def load_on(usable_gib: float, **changes: object) -> Load:
    device = Device("a GPU", usable_gib * GIB, ranks=1, scorers=0, is_machine=False)
    return Load(SIZE, replace(WORK, **changes), None, device, shortest_micro_batch=2048)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (load_on(150), ("model.activation_checkpointing=true",)),
        (load_on(100, num_ranks=4, activation_checkpointing=True), ("train.parallel=fsdp2",)),
        (
            load_on(78, num_ranks=3, activation_checkpointing=True),
            ("train.parallel=fsdp2", "train.reduce_gradients=micro_batch"),
        ),
        (
            load_on(40, num_ranks=8),
            (
                "model.activation_checkpointing=true",
                "train.parallel=fsdp2",
                "train.reduce_gradients=micro_batch",
            ),
        ),
    ],
)
def test_the_first_setting_that_changes_no_result_is_named(load: Load, expected: tuple[str, ...]) -> None:
    assert not load.fits
    [remedy] = remedies(load)
    assert remedy.words == expected
    assert remedy.total_bytes <= load.device.usable_bytes


def test_one_gpu_is_offered_adapters_or_more_gpus() -> None:
    adapters, more = remedies(load_on(78))
    assert any("model.lora=" in word for word in adapters.words)
    assert any("train.num_workers=" in word for word in more.words)
    assert not any("model.lora=" in word for word in more.words)


def test_smaller_micro_batches_are_offered_where_adapters_are_on_already() -> None:
    [remedy] = remedies(load_on(45, lora=Lora(16, TARGETS), activation_checkpointing=True))
    assert remedy.words[0].startswith("train.micro_batch_tokens=")


def test_nothing_helps_where_the_shortest_micro_batch_is_too_much() -> None:
    assert remedies(replace(load_on(1), device=Device("this machine", GIB, 1, 0, is_machine=True))) == []


def test_everything_on_the_device_counts() -> None:
    alone = load_on(500)
    scorer = ScorerWork(SIZE, WORK.value, autocast=True)
    shared = replace(alone, scorer=scorer, device=replace(alone.device, ranks=2, scorers=1))
    assert shared.scoring() is not None
    assert shared.total_bytes == 2 * alone.total_bytes + shared.scoring().total


def test_a_second_reference_adds_its_weights_and_its_work_and_no_second_working_memory() -> None:
    small = replace(SIZE, n_layers=SIZE.n_layers - 1)
    tokens = Tokens(100, 0, 50)
    one, other = (ScorerWork(size, None, autocast=True) for size in (SIZE, small))
    both = ScorerWork(SIZE, None, autocast=True, others=(small,))
    parts = [each.memory(1000).parts for each in (one, other, both)]
    assert parts[2]["parameters"] == parts[0]["parameters"] + parts[1]["parameters"]
    assert both.memory(1000).total == one.memory(1000).total + parts[1]["parameters"]
    assert both.flops(tokens) == scorer_flops(SIZE, tokens, None) + scorer_flops(small, tokens, None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    return tmp_path


def configured(model: Path, *words: str) -> RunConfig:
    return load_config(parse_arguments(["recipe=verifiable", f"model.path={model}", *words]), now=datetime(2025, 1, 2))


def test_the_real_model_is_refused_on_one_card_with_numbers_and_a_way_out(model: Path) -> None:
    estimate = estimate_run(configured(model, "preset=a100-1", "model.lora=null", "train.parallel=ddp"), {}, None)
    with pytest.raises(ConfigError) as refused:
        require_fit(estimate)
    for part in ("A100-80GB", "78.0 GiB are usable", "parameters 25.1", "model.lora=", "train.num_workers="):
        assert part in str(refused.value)
    assert "IT DOES NOT FIT" in render_estimate(estimate)


def test_the_real_model_fits_three_sharded_ranks(model: Path) -> None:
    words = ("preset=a100-4", "train.parallel=fsdp2", "train.reduce_gradients=micro_batch")
    estimate = estimate_run(configured(model, *words), {}, None)
    require_fit(estimate)
    assert "DOES NOT FIT" not in render_estimate(estimate)


def test_a_run_of_the_critic_alone_is_told_no_memory_of_a_stage_that_it_has_not(model: Path) -> None:
    both = estimate_run(configured(model, "preset=a100-1"), {}, None)
    flops = stage_flops(configured(model), SIZE, 1, Tokens(8, 20, 6))
    critic = replace(both, stages=(StageWork(1, 4, Tokens(8, 20, 6), flops, 0.0, None),))
    assert render_estimate(critic).startswith("Memory of stage 1, at most that of a stage 2, estimated for ")
    assert render_estimate(both).startswith("Memory of stage 2, estimated for ")


def test_policy_and_critic_share_a_card_where_their_shares_fit_it(model: Path) -> None:
    shared = estimate_run(configured(model, "preset=a100-1"), {}, None).load.device
    apart = estimate_run(configured(model, "preset=a100-4"), {}, None).load.device
    assert (shared.ranks, shared.scorers) == (1, 1)
    assert (apart.ranks, apart.scorers) == (1, 0)


def test_a_cluster_or_a_card_that_nobody_knows_refuses_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = configured(model, "preset=a100-1", "cluster.gpu_type=null")
    estimate = estimate_run(unknown, {}, None)
    require_fit(estimate)
    assert estimate.load.device.usable_bytes is None
    require_fit(estimate_run(unknown, {}, None, card=replace(CARDS["H200-141GB"], memory_bytes=1e15)))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    elsewhere = estimate_run(configured(model, "preset=cpu"), {}, None)
    require_fit(elsewhere)
    assert elsewhere.load.device.usable_bytes is None


def test_every_gpu_type_of_the_schema_is_in_the_table() -> None:
    assert set(GpuType.__args__) == set(CARDS)


def test_a_machine_has_memory() -> None:
    assert machine_memory_bytes() > GIB / 4


def test_a_stage_is_counted_as_it_is_configured(model: Path) -> None:
    tokens, plain = Tokens(100, 0, 50), configured(model, "preset=cpu", "weighting.type=uniform")
    looking = configured(model, "preset=cpu", "weighting.type=surprisal", "model.activation_checkpointing=true")
    assert stage_flops(plain, SIZE, 2, tokens).model == stage_flops(looking, SIZE, 2, tokens).model
    assert stage_flops(plain, SIZE, 2, tokens).executed == stage_flops(plain, SIZE, 2, tokens).model
    assert stage_flops(looking, SIZE, 2, tokens).looking > 0
    assert stage_flops(looking, SIZE, 2, tokens).recompute == stage_flops(plain, SIZE, 2, tokens).blocks
    frozen_trunk = stage_flops(plain, SIZE, 1, tokens)
    assert frozen_trunk.model == frozen_trunk.forward + 2 * frozen_trunk.value_head


def test_a_frozen_critic_that_is_no_model_is_refused_by_its_params(model: Path, tmp_path: Path) -> None:
    critic = tmp_path / "critic"
    critic.mkdir()
    (critic / "params.json").write_text('{"dim": 64}')
    words = ["stages=[2]", "critic.source=frozen", f"critic.path={critic}", "train.value_coef=0.0"]
    with pytest.raises(ArtifactError, match=r"critic/params\.json describes no model: found n_layers=None"):
        estimate_run(configured(model, *words), {}, None)


TINY = EvaluatorWork(
    ModelSpec(dim=64, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=100, n_future_tokens=2, multiple_of=32),
    num_rows=3,
    longest_tokens=10,
    draft_horizons=1,
    learned_parameters=1000,
)


def test_an_evaluator_holds_the_model_and_the_cache_of_its_answers() -> None:
    parts = TINY.tensors().parts
    assert parts["parameters"] == 4 * TINY.size.parameters
    # Keys and values of 2 heads of 16 channels, 3 trunk blocks, horizon 1, the head that drafts; 3 rows of 10 tokens.
    assert parts["cache"] == 4 * 2 * 32 * (3 + 1 + 1) * 3 * 10
    assert TINY.copy_bytes == 4 * 1000
    half = replace(TINY, is_half=True).tensors().parts
    assert 2 * half["cache"] == parts["cache"]


def test_a_machine_holds_the_evaluator_and_the_copy_that_is_handed_over() -> None:
    machine = Device("this machine", None, ranks=1, scorers=0, is_machine=True)
    without = Load(SIZE, WORK, None, machine, shortest_micro_batch=2048)
    with_it = replace(without, evaluator=TINY)
    assert with_it.total_bytes - without.total_bytes == TINY.process().total + TINY.copy_bytes
    assert "evaluating the policy meanwhile" in render_estimate(RunEstimate(with_it, (), None))
    assert "meanwhile" not in render_estimate(RunEstimate(without, (), None))


def test_a_card_holds_the_evaluator_where_it_may_be_on_the_same() -> None:
    without = load_on(150)
    assert replace(without, evaluator=TINY).total_bytes == without.total_bytes, "it is on CPUs"
    beside = replace(TINY, on_gpu=True)
    assert replace(without, evaluator=beside).total_bytes == without.total_bytes + beside.tensors().total


def test_where_the_evaluator_alone_is_too_much_that_is_said() -> None:
    without = load_on(1000)
    large = replace(TINY, size=SIZE, on_gpu=True)
    tight = replace(without.device, usable_bytes=without.total_bytes + 1)
    with pytest.raises(ConfigError, match=r"to evaluate the policy meanwhile.*Without evaluation\.every_steps it fits"):
        require_fit(RunEstimate(replace(without, evaluator=large, device=tight), (), None))
