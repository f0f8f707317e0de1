"""Weights for other trainers: what the files hold is what stage 2 would train with, for every arm."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from vendor.meta_llama import ModelArgs
from wmtp_ray.artifacts import weights_files
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import load_policy, save_policy
from wmtp_ray.artifacts.micro import make_micro_model
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.artifacts.weights_files import WeightsManifest
from wmtp_ray.config.arms import ARMS
from wmtp_ray.config.load import dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import ScoredBatch, Scores, TokenBatch
from wmtp_ray.data.collate import collate, documents_of
from wmtp_ray.data.index import ensure_index
from wmtp_ray.data.list_tasks import ListTasks, write_list_tasks
from wmtp_ray.data.rows import parse_row
from wmtp_ray.data.tokenizer import CodeTokenizer, render_row
from wmtp_ray.data.trained_rows import TrainedRows
from wmtp_ray.errors import ArtifactError, ConfigError, DataError, WmtpError
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.plan.run_plan import load_plan, plan_training, save
from wmtp_ray.ranks import OneRank
from wmtp_ray.run_folder import RunFolder
from wmtp_ray.scoring.contract import to_micro_batch
from wmtp_ray.scoring.scorers import build_scorer
from wmtp_ray.tracking.training_record import write_start
from wmtp_ray.training.checkpoint import RunState, save_checkpoint
from wmtp_ray.training.export_weights import Wanted, export_weights
from wmtp_ray.training.losses import StageLoss
from wmtp_ray.training.measure_critic import HealthFindings
from wmtp_ray.training.references import References
from wmtp_ray.training.stages import StageResult, policy_stage, write_stage_result
from wmtp_ray.training.weighing_models import PlannedRun

ARGS = ModelArgs(dim=32, n_layers=4, n_heads=2, vocab_size=385, n_future_tokens=2, multiple_of=16)
TASKS = ListTasks(
    seed=3, num_train_problems=20, num_valid_problems=6, num_correct=2, num_incorrect=2, systematic_frac=0
)
WORDS = ("train.max_steps=4", "train.batch_rows=6", "train.micro_batch_tokens=512", "data.max_tokens=256")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("storage")
    files = write_list_tasks(root / "datasets_local_small" / "list_tasks", TASKS)
    lines = files.train.read_bytes().splitlines()
    texts = [render_row(parse_row(line, number, files.train)) for number, line in enumerate(lines, start=1)]
    for number, name in enumerate(("nano_mtp", "nano_reference", "other_reference")):
        make_micro_model(root / "models_v2" / name, ARGS, seed=number)
    tokenizer = root / "models_v2" / "nano_mtp" / "tokenizer.model"
    train_tokenizer(texts, tokenizer, 385)
    ensure_index(files.train, CodeTokenizer(tokenizer), on_error="fail")
    return root


RunOf = Callable[..., RunConfig]


@pytest.fixture
def run_of(storage: Path, tmp_path: Path) -> RunOf:
    """Plan a run and leave its folder: configuration, plan and, unless it shall lack one, a critic of noise."""

    def planned(*words: str, has_critic: bool = True, recipe: str = "verifiable") -> RunConfig:
        given = [f"recipe={recipe}", "preset=quickstart", "run_name=r", *WORDS, *words]
        config = load_config(parse_arguments([*given, f"storage_root={storage}"]), now=datetime(2026, 1, 1))
        config = config.model_copy(update={"storage_root": tmp_path})
        config.run_dir.mkdir(parents=True)
        config.folder.config.write_text(dump_config(config))
        rows = TrainedRows.of_stage(config, 2)
        save(plan_training(rows.index, config.data, config.train, config.seed), config.run_dir)
        if has_critic:
            save_policy(config.folder.critic.final, noisy_policy(config, seed=5))
        return config

    return planned


def noisy_policy(config: RunConfig, seed: int) -> Policy:
    """The model with a value head that says something."""
    policy = load_policy(config.model.path, spec=ValueSpec.of(config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.value_head.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


@dataclass(frozen=True)
class Exported:
    manifest: WeightsManifest
    rows: list[dict]
    lines: list[dict]

    def of_step(self, step: int) -> list[dict]:
        return [row for row in self.rows if row["step"] == step]


def exported(config: RunConfig, out: Path, wanted: Wanted | None = None) -> Exported:
    manifest = export_weights(PlannedRun.of_folder(config.run_dir), out, wanted or Wanted())
    assert {path.name for path in out.iterdir()} == {"weights.parquet", "weights.jsonl", "manifest.json"}
    lines = [json.loads(line) for line in (out / "weights.jsonl").read_text().splitlines()]
    return Exported(manifest, pq.read_table(out / "weights.parquet").to_pylist(), lines)


def trained(row: dict) -> list[float]:
    """The weights of the labels that are targets."""
    return [weight for weight, label in zip(row["weights"], row["labels"], strict=True) if label >= 0]


def batch_of(config: RunConfig, step: int) -> TokenBatch:
    """A step as one batch, in plan order."""
    row_ids = load_plan(config.run_dir, 2).step_row_ids(step)
    examples = TrainedRows.of_stage(config, 2).read(row_ids, CodeTokenizer(config.tokenizer.path))
    return collate(examples, step=step, micro_step=0)


# ---------------------------------------------------------------------------------------------- what is written


def test_the_rows_are_those_of_the_plan_each_use_in_its_place(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("train.max_steps=20", "train.epochs=3")
    found, plan = exported(config, tmp_path / "out"), load_plan(config.run_dir, 2)
    assert [row["row_id"] for row in found.rows] == plan.row_ids_P.tolist()
    assert [row["step"] for row in found.rows] == np.repeat(np.arange(20), 6).tolist()
    uses: dict[int, int] = {}
    for row in found.rows:
        assert row["use"] == uses.get(row["row_id"], 0)
        uses[row["row_id"]] = row["use"] + 1
    assert max(uses.values()) > 1, "no row is used twice"
    assert (found.manifest.rows, found.manifest.num_steps, found.manifest.whole_steps) == (120, 20, 20)
    index = TrainedRows.of_stage(config, 2).index
    for row in found.rows:
        assert row["problem"] == index.problem_names[index.problem_R[row["row_id"]]]
        assert row["is_correct"] == bool(index.is_correct_R[row["row_id"]])
    batch = batch_of(config, 7)
    for row, document in zip(found.of_step(7), documents_of(batch), strict=True):
        tokens = batch.tokens_BT[0, document].tolist()
        is_target = batch.supervised_mask_BT[0, document].tolist()
        assert row["input_ids"] == tokens[:-1]
        assert row["labels"] == [token if yes else -100 for token, yes in zip(tokens, is_target, strict=True)][1:]


def test_the_json_lines_say_what_the_parquet_says(run_of: RunOf, tmp_path: Path) -> None:
    found = exported(run_of("weighting.type=td"), tmp_path / "out")
    assert len(found.lines) == len(found.rows)
    for line, row in zip(found.lines, found.rows, strict=True):
        assert list(line) == ["model_input", "loss_fn_inputs", "row_id", "step", "denominator", "horizon_weights"]
        assert list(line["loss_fn_inputs"]) == ["target_tokens", "weights"]
        assert line["model_input"] == row["input_ids"]
        targets = line["loss_fn_inputs"]["target_tokens"]
        assert targets[:-1] == row["input_ids"][1:], "the targets stand one ahead of the input"
        assert all(label in (target, -100) for target, label in zip(targets, row["labels"], strict=True))
        assert np.float32(line["loss_fn_inputs"]["weights"]).tolist() == row["weights"]
        assert (line["row_id"], line["step"], line["denominator"]) == (
            row["row_id"],
            row["step"],
            row["denominators"][0],
        )
        assert line["horizon_weights"] == {}, "td weighs a token alike at every horizon"


@pytest.mark.parametrize("name", ARMS)
def test_the_weights_of_every_arm_are_those_that_stage_2_weighs_with(
    run_of: RunOf, storage: Path, tmp_path: Path, name: str
) -> None:
    references = [f"reference.{key}={storage}/models_v2/{path}" for key, path in REFERENCES.items()]
    words = references if ARMS[name].source == "reference" else []
    sharp = ("weighting.beta=2", "weighting.clip_max=100", "train.value_coef=0")
    config = run_of(f"weighting.type={name}", *sharp, *words)
    found = exported(config, tmp_path / "out")
    loss = policy_stage(config).build_loss(with_head_of(config), config)
    expected_BTH, denominators = own_weights(config, loss, step=1)
    differs = found.manifest.differs_by_horizon
    assert ("weights_h2" in found.rows[0]) == differs == config.weighting.differs_by_horizon
    for row, document in zip(found.of_step(1), documents_of(batch_of(config, 1)), strict=True):
        pairs_TH = expected_BTH[0, document]
        assert row["weights"] == pytest.approx(pairs_TH[:-1, 0].tolist(), abs=1e-5)
        if differs:
            assert row["weights_h2"] == pytest.approx([0.0, *pairs_TH[:-2, 1].tolist()], abs=1e-5)
        assert row["denominators"] == pytest.approx(denominators, rel=1e-5)
    assert (len({weight for row in found.rows for weight in trained(row)}) > 1) == (name != "uniform")


REFERENCES = {"path": "nano_reference", "incorrect_path": "other_reference"}


def with_head_of(config: RunConfig) -> Policy:
    policy = load_policy(config.model.path, spec=ValueSpec.of(config))
    policy.value_head.load_state_dict(load_policy(config.folder.critic.final).value_head.state_dict())
    return policy.eval()


def own_weights(config: RunConfig, loss: StageLoss, *, step: int) -> tuple[torch.Tensor, list[float]]:
    """Score and weigh a step, whole, as a run does: batch, scores, micro-batch, scorer."""
    batch, cpu = batch_of(config, step), torch.device("cpu")
    tensors = BatchTensors.from_batch(batch, "cpu")
    scores = Scores(0)
    if config.references:
        scores = References([each.path for each in config.references], cpu, "float32").scores(batch)
    scores = replace(scores, values_BT=loss.value_scores(tensors).values_BT.numpy())
    micro = to_micro_batch(ScoredBatch(batch, scores, 0, 0.0), step, config.seed, cpu)
    micro = replace(micro, policy_losses_BTH=loss.pair_losses(tensors, 2))
    weights = build_scorer(config, 2).weigh([micro], OneRank())
    return weights.pair_weights_BTH[0], weights.denominators_H.tolist()


def test_the_denominators_follow_the_normaliser(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("loss.normalizer=weights", "weighting.beta=0.3")
    found = exported(config, tmp_path / "out")
    for step in range(4):
        (denominators,) = {tuple(row["denominators"]) for row in found.of_step(step)}
        assert denominators[0] == pytest.approx(sum(sum(row["weights"]) for row in found.of_step(step)), rel=1e-5)
    assert found.manifest.normalizer == "weights"


def test_the_manifest_says_what_the_weights_come_from(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of()
    out = tmp_path / "out"
    manifest = exported(config, out).manifest
    assert json.loads((out / "manifest.json").read_text())["weighting"] == manifest.weighting == "td"
    assert manifest.config_sha256 == file_sha256(config.folder.config)
    assert manifest.plan_sha256 == load_plan(config.run_dir, 2).digest
    assert manifest.tokenizer_sha256 == CodeTokenizer(config.tokenizer.path).sha256
    critic = manifest.critic
    assert critic is not None
    assert (critic.version, critic.source, critic.bundle) == (0, "policy", str(config.folder.critic.final))
    assert critic.model.sha256 == file_sha256(config.model.path / "model.safetensors")
    assert critic.model.value_head_sha256 == file_sha256(config.folder.critic.final / "value_head.safetensors")
    assert (manifest.policy, manifest.references) == (None, ())
    for name, written in manifest.files.items():
        assert (written.num_bytes, written.sha256) == ((out / name).stat().st_size, file_sha256(out / name))
    assert manifest.targets == load_plan(config.run_dir, 2).counts.supervised_tokens


def test_rows_are_written_group_by_group(run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_of()
    whole = exported(config, tmp_path / "whole")
    monkeypatch.setattr(weights_files, "_TOKENS_PER_GROUP", 300)
    parted = exported(config, tmp_path / "parted")
    assert pq.ParquetFile(tmp_path / "parted" / "weights.parquet").num_row_groups > 3
    assert (parted.rows, parted.lines) == (whole.rows, whole.lines)


# --------------------------------------------------------------------------------------- which rows, which models


def test_steps_and_a_limit_cut_rows_out_and_change_none(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("weighting.advantage_norm=ema", "train.max_steps=12", "weighting.type=shuffled")
    whole = exported(config, tmp_path / "whole")
    part = exported(config, tmp_path / "part", Wanted(first_step=8, stop_step=11, max_rows=8))
    assert part.rows == [row for row in whole.rows if row["step"] in (8, 9)][:8]
    told = part.manifest
    assert (told.first_step, told.num_steps, told.whole_steps, told.rows) == (8, 2, 1, 8)


@pytest.mark.parametrize(
    "wanted", [Wanted(stop_step=5), Wanted(first_step=4), Wanted(first_step=2, stop_step=2), Wanted(max_rows=0)]
)
def test_steps_that_the_plan_lacks_are_refused(run_of: RunOf, tmp_path: Path, wanted: Wanted) -> None:
    with pytest.raises(ConfigError, match=r"expected steps within 0:4"):
        exported(run_of(), tmp_path / "out", wanted)
    assert not (tmp_path / "out").exists()


def test_the_finish_weighs_every_token_alike(run_of: RunOf, tmp_path: Path) -> None:
    found = exported(run_of("train.finish_correct_frac=0.5"), tmp_path / "out")
    for row in found.rows:
        assert (set(trained(row)) == {1.0}) == (row["step"] >= 2)


def test_a_critic_of_its_own_scores_by_its_own_trunk(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("critic.source=frozen")
    critic = noisy_policy(config, seed=5)
    with torch.no_grad():
        critic.transformer.layers[0].attention.wq.weight.mul_(3.0)
    save_policy(config.folder.critic.final, critic)
    write_stage_result(config.folder.critic.path, StageResult(1, 3, "ab12", HealthFindings({"x": 1.0})))
    found = exported(config, tmp_path / "out")
    loss = policy_stage(config).build_loss(critic.eval(), config)
    expected_BTH, _ = own_weights(config, loss, step=0)
    for row, document in zip(found.of_step(0), documents_of(batch_of(config, 0)), strict=True):
        assert row["weights"] == pytest.approx(expected_BTH[0, document][:-1, 0].tolist(), abs=1e-5)
    used = found.manifest.critic
    assert used is not None
    assert (used.model.path, used.run_versions) == (str(config.folder.critic.final), (0, 0))
    assert found.manifest.notes == ()


def test_a_checkpoints_critic_weighs_where_its_steps_are_asked_for(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("critic.publish_every=1", "critic.lookahead_steps=1")
    later = noisy_policy(config, seed=8)
    state = RunState(2, 3, "ab12", scorer={}, mlflow_run_id=None, world_size=1, mean_loss=1.0)
    optimizer = torch.optim.AdamW(later.parameters())
    save_checkpoint(config.folder.checkpoints, state, later, optimizer, [], OneRank(), keep=2, keep_best=0)
    start = exported(config, tmp_path / "start")
    found = exported(config, tmp_path / "out", Wanted(policy_steps=3))
    assert found.rows != start.rows
    loss = policy_stage(config).build_loss(later.eval(), config)
    expected_BTH, _ = own_weights(config, loss, step=3)
    for row, document in zip(found.of_step(3), documents_of(batch_of(config, 3)), strict=True):
        assert row["weights"] == pytest.approx(expected_BTH[0, document][:-1, 0].tolist(), abs=1e-5)
    used = found.manifest.critic
    assert used is not None
    assert (used.version, used.run_versions) == (3, (0, 2))
    assert any("versions 0 to 2" in note for note in found.manifest.notes)
    with pytest.raises(ArtifactError, match=r"no checkpoint of step 2; there are those of the steps \[3\]"):
        exported(config, tmp_path / "other", Wanted(policy_steps=2))


# ---------------------------------------------------------------------------------------------- the gate, refusals


@pytest.mark.parametrize(("gate", "weighting"), [("uniform", "uniform"), ("warn", "td")])
def test_what_the_gate_decides_counts(run_of: RunOf, tmp_path: Path, gate: str, weighting: str) -> None:
    config = run_of(f"critic.gate={gate}")
    unhealthy = HealthFindings({}, ["it says nothing"])
    write_stage_result(config.folder.critic.path, StageResult(1, 3, "ab12", unhealthy))
    manifest = exported(config, tmp_path / "out").manifest
    assert (manifest.weighting, manifest.asked_weighting) == (weighting, "td")
    assert any("it says nothing" in note for note in manifest.notes)
    assert (manifest.critic is None) == (weighting == "uniform")


def test_a_critic_that_the_gate_stops_is_refused(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of("critic.gate=stop")
    write_stage_result(config.folder.critic.path, StageResult(1, 3, "ab12", HealthFindings({}, ["it says nothing"])))
    with pytest.raises(ArtifactError, match=r"it says nothing.*critic\.gate=warn"):
        exported(config, tmp_path / "out")


def test_stage_2_that_began_with_another_weighting_keeps_it(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of()
    uniform = config.weighting.model_copy(update={"type": "uniform"})
    write_start(config.model_copy(update={"weighting": uniform}))
    assert exported(config, tmp_path / "out").manifest.weighting == "uniform"


def test_a_run_folder_that_was_moved_weighs_with_the_critic_in_it(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of()
    before = exported(config, tmp_path / "before")
    moved = tmp_path / "elsewhere" / "copy"
    moved.parent.mkdir()
    config.run_dir.rename(moved)
    manifest = export_weights(PlannedRun.of_folder(moved), tmp_path / "after", Wanted())
    assert manifest.critic is not None
    assert manifest.critic.bundle == str(RunFolder(moved).critic.final)
    assert pq.read_table(tmp_path / "after" / "weights.parquet").to_pylist() == before.rows


REFUSED = {
    "no critic yet": ((), Wanted(), "holds no critic yet", ArtifactError),
    "no models that move": (("weighting.type=uniform",), Wanted(policy_steps=2), "does not change", ConfigError),
}


@pytest.mark.parametrize(("words", "wanted", "message", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_the_folder_cannot_give_is_refused(
    run_of: RunOf, tmp_path: Path, words: tuple[str, ...], wanted: Wanted, message: str, kind: type[WmtpError]
) -> None:
    config = run_of(*words, has_critic=False)
    with pytest.raises(kind, match=message):
        exported(config, tmp_path / "out", wanted)
    assert not (tmp_path / "out").exists()


def test_uniform_weights_need_no_model(run_of: RunOf, tmp_path: Path) -> None:
    """The model's shape says how many horizons there are; its weights are not opened."""
    config = run_of("weighting.type=uniform", "train.value_coef=0", has_critic=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "params.json").write_bytes((config.model.path / "params.json").read_bytes())
    model = config.model.model_copy(update={"path": bare})
    config.folder.config.write_text(dump_config(config.model_copy(update={"model": model})))
    rows = exported(config, tmp_path / "out").rows
    assert {weight for row in rows for weight in trained(row)} == {1.0}


def test_nothing_is_written_over(run_of: RunOf, tmp_path: Path) -> None:
    config = run_of()
    exported(config, tmp_path / "out")
    with pytest.raises(ArtifactError, match="not an empty folder"):
        exported(config, tmp_path / "out")


def test_a_failure_in_the_middle_leaves_nothing(run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_of()
    read = TrainedRows.read
    times: list[int] = []

    def failing(self, row_ids_N, tokenizer):
        times.append(1)
        if len(times) > 2:
            raise DataError("a row is gone")
        return read(self, row_ids_N, tokenizer)

    monkeypatch.setattr(TrainedRows, "read", failing)
    with pytest.raises(DataError, match="a row is gone"):
        exported(config, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_data_file_that_has_changed_is_refused(run_of: RunOf, storage: Path, tmp_path: Path) -> None:
    config = run_of()
    changed = tmp_path / "train.jsonl"
    changed.write_bytes(config.data.train_file.read_bytes()[::-1].replace(b"\n", b"", 1)[::-1])
    index = config.data.train_file.with_name(f"{config.data.train_file.name}.index.parquet")
    changed.with_name("train.jsonl.index.parquet").write_bytes(index.read_bytes())
    data = config.data.model_copy(update={"train_file": changed})
    config.folder.config.write_text(dump_config(config.model_copy(update={"data": data})))
    with pytest.raises(DataError, match=r"train\.jsonl"):
        exported(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rows_as_chats_go_out_as_chats(storage: Path, run_of: RunOf, tmp_path: Path) -> None:
    tokenizer = tmp_path / "chats" / "tokenizer.model"
    tokenizer.parent.mkdir()
    tokenizer.write_bytes((storage / "models_v2" / "nano_mtp" / "tokenizer.model").read_bytes())
    turns = "{% for m in messages %}{{ bos_token }}{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    (tokenizer.parent / "chat_template.jinja").write_text(turns + "{{ bos_token }}assistant\n")
    (tokenizer.parent / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    train = storage / "datasets_local_small" / "list_tasks" / "train.jsonl"
    chats, out = CodeTokenizer(tokenizer, "chat"), tmp_path / "chats.index.parquet"
    ensure_index(train, chats, on_error="fail", index_path=out)
    words = (f"tokenizer.path={tokenizer}", "data.template=chat", f"data.index_file={out}")
    config = run_of(*words, has_critic=False, recipe="baseline")
    assert load_plan(config.run_dir, 2).tokenizer_hash == chats.counts_hash
    for row in exported(config, tmp_path / "out").rows:
        assert row["input_ids"].count(chats.bos_id) == 2
        labels = [label for label in row["labels"] if label >= 0]
        assert labels[-1] == chats.eos_id
        assert chats.decode(labels) in train.read_text().encode().decode("unicode_escape")
