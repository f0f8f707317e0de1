"""One rank, two with DDP and two with FSDP2 train the same: loss after loss, and through each other's checkpoints.

Two processes over gloo start once, run every job and leave what they saw; the tests compare it with one process.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.tensor import DTensor

from tests.full_disk import files_limited_to
from wmtp_ray.artifacts.manifest import tensors_sha256
from wmtp_ray.artifacts.snapshots import SnapshotDirectory
from wmtp_ray.config.schema import LoraConfig, RunConfig
from wmtp_ray.contracts import ScoredBatch, TokenBatch
from wmtp_ray.data.collate import collate
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.lora import base_tensors
from wmtp_ray.model.policy import Policy, value_path_state
from wmtp_ray.ranks import OneRank, Ranks, current_ranks
from wmtp_ray.scoring.contract import to_micro_batch
from wmtp_ray.training.best_version import BestVersion
from wmtp_ray.training.block_limit import no_limit
from wmtp_ray.training.checkpoint import RunState, find_damage, restore, save_checkpoint
from wmtp_ray.training.drift_watch import CriticDrift
from wmtp_ray.training.loop import StageLoop
from wmtp_ray.training.optim import build_optimizer
from wmtp_ray.training.sharding import shard, whole_tensors
from wmtp_ray.training.stage_start import build_training
from wmtp_ray.training.stages import critic_stage, freeze_for_critic, policy_stage
from wmtp_ray.training.step import TrainingStep

from .plain_ports import CheckpointAt, ReportList, plain_ports

REPOSITORY = Path(__file__).parents[3]
CPU = torch.device("cpu")
STEPS, SAVED_AT = 8, 6
OTHER_STEPS = 3  # of the arms whose long run is like that of td
RATES = ("train.learning_rate=1e-2", "train.warmup_frac=0.2", "train.min_learning_rate_frac=0.1")
RATES += ("critic_stage.learning_rate=1e-2", "train.max_grad_norm=0.5")
ALIKE = 1e-5  # between layouts of ranks, which sum in another order
ARMS = {
    "td": (2, ("critic.anchor_coef=0.1",)),
    "td_every_micro_batch": (2, ("train.reduce_gradients=micro_batch",)),
    "td_checkpointed": (2, ("model.activation_checkpointing=true",)),
    "uniform": (2, ("weighting.type=uniform", "train.value_coef=0")),
    "rho1_topk": (2, ("recipe=rho1_weighted",)),
    "surprisal_head": (2, ("critic.features=surprisal", "critic.head=mlp", "critic.value_layer=0.5")),
    "attention_head": (2, ("critic.head=attention", "critic.value_layer=0.5")),
    "critic": (1, ("critic.objective=pairwise", "critic_stage.eval_every=1")),
    "another_family": (2, ("critic.anchor_coef=0.1", "model.activation_checkpointing=true")),
    "critic_trunk": (1, ("critic.train_trunk=true", "critic.source=frozen", "critic_stage.eval_every=1")),
    "ensemble": (1, ("critic.ensemble=2", "critic.head=mlp", "critic.source=frozen", "critic_stage.eval_every=1")),
    "ensemble_of_trunks": (
        1,
        ("critic.ensemble=3", "critic.train_trunk=true", "critic.source=frozen", "critic_stage.eval_every=1"),
    ),
}
WITH_DDP = ("td", "td_every_micro_batch")
MODELS = {  # of an arm whose model is not of Meta's layout: biases and norms are shared out among the ranks as well
    "another_family": {
        "attention_head_dim": 6,
        "attention_window": 5,
        "qkv_bias": True,
        "mlp_bias": True,
        "query_key_norm": "head",
        "blocks_without_rope": (1,),
    }
}


@dataclass(frozen=True)
class Job:
    """A run from a given start: each rank's batches of every step, [rank][step][micro_step]."""

    name: str
    stage: int
    config: RunConfig
    policy: Policy
    batches: list[list[list[ScoredBatch]]]
    num_steps: int
    first_step: int = 0
    load_from: Path | None = None
    save_to: Path | None = None
    fixed_rows: TokenBatch | None = None
    versions: Path | None = None


@dataclass
class Seen:
    """What a rank saw of a job."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    policy: dict[str, Tensor] = field(default_factory=dict)
    local_numel: int = 0
    hashes_around_saving: list[str] = field(default_factory=list)
    value_path: dict[str, Tensor] = field(default_factory=dict)
    held_out: tuple[Tensor, Tensor] | None = None
    drift: dict[str, float] = field(default_factory=dict)
    kept_losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Left:
    """What a rank leaves of all its jobs."""

    seen: dict[str, Seen]
    dtypes: dict[str, torch.dtype]
    full_disk: tuple[str, list[str]] | None


def train(job: Job, ranks: Ranks) -> Seen:
    """Train to the last step with the loop of every run; leave what was seen, whole tensors on rank 0."""
    seen, policy, reports = Seen(), job.policy, ReportList()
    policy.transformer.activation_checkpointing = job.config.model.activation_checkpointing
    recipe = {1: critic_stage, 2: policy_stage}[job.stage](job.config)
    training = build_training(recipe, policy, job.config, ranks, CPU)
    assert job.fixed_rows is not None
    drift = CriticDrift(training.loss, job.config, [job.fixed_rows]) if job.stage == 2 else None
    if job.load_from is not None:
        assert restore(job.load_from, policy, training.optimizer).step == job.first_step

    def save(mean_loss: float) -> None:
        assert job.save_to is not None
        state = replace(state_of(SAVED_AT), mean_loss=mean_loss)
        seen.hashes_around_saving = [local_hash(policy)]
        save_checkpoint(job.save_to, state, policy, training.optimizer, [], ranks, keep=1, keep_best=0)
        seen.hashes_around_saving.append(local_hash(policy))

    checkpoints = CheckpointAt(SAVED_AT, save) if job.save_to is not None else None
    ports = plain_ports(job.batches[ranks.rank], reports, checkpoints=checkpoints)
    steps, peak = range(job.first_step, job.num_steps), recipe.peak_learning_rate
    assert StageLoop(training, job.config, ports, ranks, steps=steps, peak_learning_rate=peak).run()
    seen.losses, seen.grad_norms = reports.metric("loss/total"), reports.metric("train/grad_norm")
    seen.drift = drift.metrics_after(job.num_steps, job.num_steps) if drift is not None else {}
    seen.drift.pop("perf/drift_s", None)
    first = BatchTensors.from_batch(job.batches[0][0][0].batch, CPU)
    seen.held_out = (training.loss.value_scores(first).values_BT, training.loss.pair_losses(first, 1))
    seen.local_numel = sum(local(tensor).numel() for tensor in policy.state_dict().values())
    seen.policy = cloned(whole_tensors(policy.state_dict(), ranks))
    seen.value_path = cloned(whole_tensors(value_path_state(policy), ranks))
    if job.versions is not None:
        seen.kept_losses = kept_losses(job, training, ranks, job.versions)
    return seen


def kept_losses(job: Job, training: TrainingStep, ranks: Ranks, directory: Path) -> list[float]:
    """The held-out loss of the version that is kept, of weights that come after it, and of the version put back."""
    assert job.fixed_rows is not None
    directory.mkdir(parents=True, exist_ok=True)
    best = BestVersion(training, [job.fixed_rows], SnapshotDirectory(directory), job.config, ranks, no_limit)

    def read(done: int) -> float:
        return best.metrics_after(done, done)["held_out/critic_loss"]

    losses = [read(1)]
    best.publish(1)
    with torch.no_grad():
        for parameter in training.policy.parameters():
            if parameter.requires_grad:
                parameter.add_(3.0)
    losses.append(read(2))
    best.publish(2)
    assert best.restore(2, 9).step == 1
    return [*losses, read(3)]


def cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_hash(policy: Policy) -> str:
    return tensors_sha256({name: local(tensor) for name, tensor in policy.state_dict().items()})


def state_of(step: int) -> RunState:
    return RunState(2, step, "ab12", scorer={}, mlflow_run_id=None, world_size=2, mean_loss=1.0)


def bfloat16_pass(job: Job, ranks: Ranks) -> dict[str, torch.dtype]:
    """Dtypes around one backward of a policy sharded for mixed precision."""
    loss = shard(policy_stage(job.config).build_loss(job.policy, job.config), ranks, CPU, "bfloat16")
    micro_batches = [to_micro_batch(each, 0, job.config.seed, CPU) for each in job.batches[ranks.rank][0]]
    values_BT = loss.value_scores(micro_batches[0].tensors).values_BT
    training = TrainingStep(
        loss,
        job.policy,
        build_optimizer(job.policy, job.config.train, 1e-3),
        policy_stage(job.config).build_scorer(job.config, job.policy.transformer.args.n_future_tokens),
        job.config,
        ranks,
    )
    gradients: dict[str, torch.dtype] = {}

    def look(*_: object) -> None:
        gradients.update({name: p.grad.dtype for name, p in job.policy.named_parameters() if p.grad is not None})

    training.optimizer.register_step_pre_hook(look)
    training.run(micro_batches, 1e-3)
    return {"values": values_BT.dtype, "gathered": whole_dtype(job.policy)} | gradients


def save_with_a_full_disk_on_rank_1(job: Job, ranks: Ranks, root: Path) -> tuple[str, list[str]]:
    """What the rank is told, and what lies in the folder once both ranks know."""
    optimizer = build_optimizer(job.policy, job.config.train, 1e-3)
    try:
        with files_limited_to(4096) if ranks.rank == 1 else nullcontext():
            save_checkpoint(root, state_of(1), job.policy, optimizer, [], ranks, keep=1, keep_best=0)
    except ArtifactError as error:
        told = str(error)
    ranks.sum(torch.zeros(1))
    return told, [path.name for path in root.iterdir()] if root.exists() else []


def whole_dtype(policy: Policy) -> torch.dtype:
    """The dtype of a block's weight while it is whole."""
    block = policy.transformer.layers[0]
    block.unshard()
    dtype = block.attention.wq.weight.dtype
    block.reshard()
    return dtype


def _rank_process(rank: int, store: str, jobs_file: str, result_file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks = current_ranks()
    jobs = torch.load(jobs_file, weights_only=False)
    seen = {job.name: train(job, ranks) for job in jobs if job.name != "bfloat16"}
    dtypes, full_disk = {}, None
    for job in (job for job in jobs if job.name == "bfloat16"):
        dtypes = bfloat16_pass(job, ranks)
        full_disk = save_with_a_full_disk_on_rank_1(job, ranks, Path(f"{result_file}.full_disk"))
    torch.save(Left(seen, dtypes, full_disk), f"{result_file}.{rank}")
    dist.destroy_process_group()


@dataclass(frozen=True)
class TwoRanks:
    """What both ranks left, and the shards they wrote in the middle of the td arm."""

    seen: list[dict[str, Seen]]
    left: list[Left]
    shards: Path


class Start:
    """The same rows and the same weights for every layout of ranks."""

    def __init__(self, nano, directory: Path) -> None:
        self.data = nano.indexed(directory)
        rows = nano.rows(60)
        classes = ([row for row in rows if row.example.is_correct is wanted] for wanted in (True, False))
        self.rows = [row for pair in zip(*classes, strict=False) for row in pair]
        self.nano = nano

    def job(self, arm: str, parallel: str, *, num_ranks: int = 2, **fields) -> Job:
        stage, words = ARMS[arm]
        config = self.nano.load(
            *words, *self.data, *RATES, f"train.parallel={parallel}", f"train.checkpoint_every={SAVED_AT}"
        )
        policy = self.nano.policy(config, **MODELS.get(arm, {}))
        if stage == 1:
            freeze_for_critic(policy, config)
        elif config.train.value_coef == config.critic.anchor_coef == 0.0:
            policy.value_head.requires_grad_(False)
        name = fields.pop("name", f"{parallel}/{arm}")
        num_steps = STEPS if arm == "td" or "load_from" in fields else OTHER_STEPS
        fixed_rows = collate([row.example for row in self.rows[:8]], step=0, micro_step=0)
        batches = self.batches(num_ranks)
        return Job(name, stage, config, policy, batches, num_steps, fixed_rows=fixed_rows, **fields)

    def batches(self, num_ranks: int) -> list[list[list[ScoredBatch]]]:
        """Each step takes 10 rows, pairs together: 2 and 4 on rank 0, 2 and 2 on rank 1, or all in one micro-batch."""
        bounds = [[(0, 2), (2, 6)], [(6, 8), (8, 10)]] if num_ranks == 2 else [[(0, 10)]]
        return [[[self._batch(step, *b) for b in rank] for step in range(STEPS)] for rank in bounds]

    def _batch(self, step: int, begin: int, end: int) -> ScoredBatch:
        places = [(10 * step + place) % (len(self.rows) // 10 * 10) for place in range(begin, end)]
        return self.nano.scored_batch([self.rows[place] for place in places], step=step)


@pytest.fixture(scope="module")
def start(nano, tmp_path_factory) -> Start:
    return Start(nano, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def whole_checkpoint(start, tmp_path_factory) -> Path:
    """What one rank saved in the middle of the td arm."""
    root = tmp_path_factory.mktemp("one_rank")
    train(start.job("td", "ddp", num_ranks=1, save_to=root), OneRank())
    return root / f"step_{SAVED_AT}"


@pytest.fixture(scope="module")
def two_ranks(start, whole_checkpoint, tmp_path_factory) -> TwoRanks:
    directory = tmp_path_factory.mktemp("two_ranks")
    roots = {parallel: directory / parallel for parallel in ("ddp", "fsdp2")}
    kept = directory / "kept"
    jobs = [start.job(arm, "fsdp2", versions=kept / arm if ARMS[arm][0] == 1 else None) for arm in ARMS if arm != "td"]
    jobs += [start.job(arm, "ddp") for arm in WITH_DDP if arm != "td"]
    jobs += [start.job("td", parallel, save_to=root) for parallel, root in roots.items()]
    middle = {"first_step": SAVED_AT}
    for parallel in ("ddp", "fsdp2"):
        for source in ("ddp", "fsdp2"):
            saved = roots[source] / f"step_{SAVED_AT}"
            jobs.append(start.job("td", parallel, name=f"{source} to {parallel}", load_from=saved, **middle))
        name = f"one rank to {parallel}"
        jobs.append(start.job("td", parallel, name=name, load_from=whole_checkpoint, **middle))
    jobs.append(start.job("td", "fsdp2", name="bfloat16"))
    torch.save(jobs, directory / "jobs")
    left = run_in_two_processes(directory)
    return TwoRanks([each.seen for each in left], left, roots["fsdp2"] / f"step_{SAVED_AT}")


def run_in_two_processes(directory: Path) -> list[Left]:
    path_before = list(sys.path)
    sys.path.insert(0, str(REPOSITORY))  # the child processes import this module by its name
    try:
        mp.spawn(_rank_process, (str(directory / "store"), str(directory / "jobs"), str(directory / "left")), nprocs=2)
    finally:
        sys.path[:] = path_before
    return [torch.load(directory / f"left.{rank}", weights_only=False) for rank in (0, 1)]


@pytest.mark.timeout(180)
class TestTwoRanks:
    @pytest.mark.parametrize("name", [*(f"fsdp2/{arm}" for arm in ARMS), *(f"ddp/{arm}" for arm in WITH_DDP)])
    def test_two_ranks_follow_the_losses_and_gradient_norms_of_one(self, start, two_ranks, name):
        one = train(start.job(name.partition("/")[2], "ddp", num_ranks=1), OneRank())
        assert len({round(loss, 4) for loss in one.losses}) >= OTHER_STEPS, "the losses move"
        for seen in (rank[name] for rank in two_ranks.seen):
            assert seen.losses == pytest.approx(one.losses, abs=ALIKE)
            assert seen.grad_norms == pytest.approx(one.grad_norms, rel=1e-4)

    @pytest.mark.parametrize("arm", ["critic", "critic_trunk", "ensemble", "ensemble_of_trunks"])
    def test_a_sharded_critic_reads_its_held_out_loss_and_gets_its_best_version_back(
        self, start, two_ranks, arm, tmp_path
    ):
        one = train(start.job(arm, "ddp", num_ranks=1, versions=tmp_path), OneRank()).kept_losses
        assert one[0] == one[2] < one[1]
        for rank in two_ranks.seen:
            found = rank[f"fsdp2/{arm}"].kept_losses
            assert found == two_ranks.seen[0][f"fsdp2/{arm}"].kept_losses
            assert found == pytest.approx(one, rel=1e-3)

    def test_the_clip_acts_in_the_runs_compared(self, two_ranks):
        assert max(two_ranks.seen[0]["fsdp2/td"].grad_norms) > 0.5

    def test_both_ranks_report_the_same_numbers(self, two_ranks):
        first, second = two_ranks.seen
        for name, seen in first.items():
            assert (seen.losses, seen.grad_norms) == (second[name].losses, second[name].grad_norms), name

    def test_a_rank_holds_half_of_the_policy(self, two_ranks):
        halves = [rank["fsdp2/td"].local_numel for rank in two_ranks.seen]
        wholes = [rank["ddp/td"].local_numel for rank in two_ranks.seen]
        assert sum(halves) == wholes[0] == wholes[1]
        assert max(halves) < 0.52 * wholes[0]

    def test_gathered_tensors_are_those_of_the_replicas(self, two_ranks):
        (sharded, elsewhere), replica = (rank["fsdp2/td"] for rank in two_ranks.seen), two_ranks.seen[0]["ddp/td"]
        assert (elsewhere.policy, elsewhere.value_path) == ({}, {})
        for found, expected in ((sharded.policy, replica.policy), (sharded.value_path, replica.value_path)):
            assert list(found) == list(expected)
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-4, msg=name)

    def test_passes_without_gradient_see_the_whole_policy(self, two_ranks):
        replica = two_ranks.seen[0]["ddp/td"].held_out
        for rank in two_ranks.seen:
            for found, expected in zip(rank["fsdp2/td"].held_out, replica, strict=True):
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)

    def test_sharded_and_replicated_value_paths_drift_alike(self, start, two_ranks):
        one = train(start.job("td", "ddp", num_ranks=1), OneRank()).drift
        assert one["critic/drift_kl"] > 1e-3
        for parallel in ("ddp", "fsdp2"):
            first, second = (rank[f"{parallel}/td"].drift for rank in two_ranks.seen)
            assert first == second == pytest.approx(one, rel=1e-2)

    def test_mixed_precision_keeps_gradients_and_values_in_float32(self, two_ranks):
        dtypes = dict(two_ranks.left[0].dtypes)
        assert dtypes.pop("gathered") == torch.bfloat16
        assert set(dtypes.values()) == {torch.float32}
        assert "value_head.output.bias" in dtypes


@pytest.mark.timeout(180)
class TestCheckpoints:
    def test_saving_changes_no_weight(self, two_ranks):
        for rank in two_ranks.seen:
            for name in ("fsdp2/td", "ddp/td"):
                before, after = rank[name].hashes_around_saving
                assert before == after

    @pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
    def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(self, two_ranks, parallel):
        whole, resumed = (two_ranks.seen[0][name] for name in (f"{parallel}/td", f"{parallel} to {parallel}"))
        assert resumed.losses == whole.losses[SAVED_AT:]
        assert tensors_sha256(resumed.policy) == tensors_sha256(whole.policy)
        assert resumed.drift == whole.drift

    @pytest.mark.parametrize("name", ["ddp to fsdp2", "fsdp2 to ddp", "one rank to fsdp2", "one rank to ddp"])
    def test_another_layout_goes_on_with_the_same_losses(self, two_ranks, name):
        seen, whole = two_ranks.seen[0][name], two_ranks.seen[0]["fsdp2/td"]
        assert seen.losses == pytest.approx(whole.losses[SAVED_AT:], abs=ALIKE)

    def test_one_rank_goes_on_from_shards(self, start, two_ranks):
        job = start.job("td", "fsdp2", num_ranks=1, load_from=two_ranks.shards, first_step=SAVED_AT)
        assert train(job, OneRank()).losses == pytest.approx(two_ranks.seen[0]["fsdp2/td"].losses[SAVED_AT:], abs=ALIKE)

    def test_every_rank_wrote_a_share_and_the_manifest_answers_for_it(self, two_ranks):
        shards = two_ranks.shards / "shards"
        sizes = {path.name: path.stat().st_size for path in shards.iterdir()}
        assert sizes.keys() == {".metadata", "__0_0.distcp", "__1_0.distcp"}
        assert sizes["__1_0.distcp"] > 0.8 * sizes["__0_0.distcp"]
        assert find_damage(two_ranks.shards) is None
        for name in sizes:
            whole = (shards / name).read_bytes()
            (shards / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            assert name in str(find_damage(two_ranks.shards))
            (shards / name).write_bytes(whole)
        assert [path.name for path in two_ranks.shards.parent.iterdir()] == [two_ranks.shards.name]

    def test_a_full_disk_of_one_rank_is_told_to_both_and_leaves_nothing(self, two_ranks):
        for left in two_ranks.left:
            told, remaining = left.full_disk
            assert "step 1 could not be written" in told
            assert "rank 1:" in told
            assert "free disk space" in told
            assert remaining == []

    def test_another_value_path_is_refused(self, start, two_ranks):
        job = start.job("surprisal_head", "ddp", num_ranks=1, load_from=two_ranks.shards, first_step=SAVED_AT)
        with pytest.raises(ArtifactError, match=r"linear.*mlp.*critic\.head"):
            train(job, OneRank())


LORA = LoraConfig.model_construct(rank=2, alpha=4, dropout=0.0, targets=("wq", "wv", "w1", "w2"))


def with_adapters(job: Job, base_sha256: str = "ab12") -> Job:
    job.policy.add_adapters(LORA, base_sha256=base_sha256, seed=3)
    return job


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_adapters_follow_one_rank_and_resume_from_shards(start, tmp_path):
    """The adapters' B starts at zero, so the first step moves B alone and the later ones both."""
    pytest.importorskip("peft")
    jobs = [with_adapters(start.job("td", "ddp")), with_adapters(start.job("td", "fsdp2", save_to=tmp_path / "saved"))]
    saved = {"load_from": tmp_path / "saved" / f"step_{SAVED_AT}", "first_step": SAVED_AT}
    jobs.append(with_adapters(start.job("td", "fsdp2", name="resumed", **saved)))
    torch.save(jobs, tmp_path / "jobs")
    first, second = (left.seen for left in run_in_two_processes(tmp_path))
    one = train(with_adapters(start.job("td", "ddp", num_ranks=1)), OneRank())
    for name in ("ddp/td", "fsdp2/td"):
        assert first[name].losses == pytest.approx(one.losses, abs=ALIKE)
        assert first[name].losses == second[name].losses
    assert first["resumed"].losses == first["fsdp2/td"].losses[SAVED_AT:]
    assert tensors_sha256(first["resumed"].policy) == tensors_sha256(first["fsdp2/td"].policy)
    untouched = start.job("td", "ddp").policy.transformer.state_dict()
    trained = {name.removeprefix("transformer."): tensor for name, tensor in first["fsdp2/td"].policy.items()}
    assert tensors_sha256({n: base_tensors(trained)[n] for n in untouched}) == tensors_sha256(untouched)
    with pytest.raises(ArtifactError, match=r"SHA-256 ab12.*another base.*model\.path"):
        train(with_adapters(start.job("td", "ddp", num_ranks=1, **saved), base_sha256="cd34"), OneRank())
    with pytest.raises(ArtifactError, match=r"adapters \(rank 2.*all weights.*model\.lora"):
        train(start.job("td", "ddp", num_ranks=1, **saved), OneRank())
