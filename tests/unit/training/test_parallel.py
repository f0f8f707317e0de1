"""Ranks: one alone, simulated ones, and two real processes over gloo with DDP.

The two processes start once; every test of `TestTwoProcesses` reads what they left.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.model.policy import Policy
from wmtp_ray.ranks import GroupRanks, OneRank, Ranks, current_ranks
from wmtp_ray.scoring.contract import MicroBatch
from wmtp_ray.training.parallel import choose_device, reduce_gradients_when, replicate
from wmtp_ray.training.stages import critic_stage, freeze_for_critic, policy_stage
from wmtp_ray.training.step import TrainingStep

REPOSITORY = Path(__file__).parents[3]
CPU = torch.device("cpu")
DDP_ARMS = {
    "uniform": (2, ("weighting.type=uniform", "train.value_coef=0")),
    "td": (2, ("critic.anchor_coef=0.1",)),
    "td_batch": (2, ("weighting.advantage_norm=batch", "loss.normalizer=weights")),
    "matched_random": (2, ("weighting.type=matched_random", "weighting.beta=0.3")),
    "rho1_topk": (2, ("recipe=rho1_weighted",)),
    "checkpointed": (2, ("model.activation_checkpointing=true",)),
    "critic": (1, ("critic.objective=pairwise",)),
    "critic_trunk": (1, ("critic.train_trunk=true", "critic.source=frozen")),
    "ensemble": (1, ("critic.ensemble=3", "critic.source=frozen")),
    "ensemble_of_trunks": (1, ("critic.ensemble=3", "critic.train_trunk=true", "critic.source=frozen")),
}


@dataclass(frozen=True)
class Job:
    """A step that both processes make from the same start, each on its own micro-batches."""

    name: str
    stage: int
    config: RunConfig
    policy: Policy
    micro_batches: list[list[MicroBatch]]


@dataclass(frozen=True)
class Left:
    """What a process leaves: per job its metrics, weights and reductions, and what its collectives returned."""

    metrics: dict[str, dict[str, float]]
    weights: dict[str, dict[str, Tensor]]
    num_reductions: dict[str, int]
    gradients_before_and_after_reducing: tuple[float, float]
    total: Tensor
    gathered: list[Tensor]
    all_empty: list[Tensor]
    is_group: bool


def _rank_process(rank: int, store: str, jobs_file: str, result_file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks = current_ranks()
    metrics, weights, num_reductions = {}, {}, {}
    for job in torch.load(jobs_file, weights_only=False):
        reductions: list[None] = []
        metrics[job.name] = _make_step(job, ranks, reductions)
        weights[job.name] = job.policy.state_dict()
        num_reductions[job.name] = len(reductions)
    left = Left(
        metrics,
        weights,
        num_reductions,
        _reduce_late(ranks),
        total=ranks.sum(torch.tensor([1.0 + rank, 10.0], dtype=torch.float64)),
        gathered=ranks.gather(torch.arange(3 * rank, dtype=torch.int64)),
        all_empty=ranks.gather(torch.zeros(0)),
        is_group=isinstance(ranks, GroupRanks),
    )
    torch.save(left, f"{result_file}.{rank}")
    dist.destroy_process_group()


def _reduce_late(ranks: Ranks) -> tuple[float, float]:
    """Two backward passes whose gradient is 1 on rank 0 and 2 on rank 1; only the second reduces."""
    module = replicate(nn.Linear(1, 1, bias=False), ranks, CPU)
    gradients = []
    for wanted in (False, True):
        with reduce_gradients_when(module, wanted):
            module(torch.tensor([[1.0 + ranks.rank]])).sum().backward()
        gradients.append(float(next(module.parameters()).grad))
    return gradients[0], gradients[1]


def _make_step(job: Job, ranks: Ranks, reductions: list[None] | None = None) -> dict[str, float]:
    """Make the job's step; every reduction of a bucket of gradients adds an entry to `reductions`."""
    job.policy.transformer.activation_checkpointing = job.config.model.activation_checkpointing
    recipe = {1: critic_stage, 2: policy_stage}[job.stage](job.config)
    module = replicate(recipe.build_loss(job.policy, job.config), ranks, CPU)
    if isinstance(module, DistributedDataParallel):

        def count(group, bucket):
            reductions.append(None)
            return allreduce_hook(group, bucket)

        module.register_comm_hook(None, count)
    optimizer = torch.optim.SGD([p for p in job.policy.parameters() if p.requires_grad], lr=1.0)
    scorer = recipe.build_scorer(job.config, job.policy.transformer.args.n_future_tokens)
    training = TrainingStep(module, job.policy, optimizer, scorer, job.config, ranks)
    return training.run(job.micro_batches[ranks.rank], 1.0)


def _job(nano, name: str, splits, data: tuple[str, ...]) -> Job:
    stage, words = DDP_ARMS[name]
    config = nano.load(*words, *data, "train.max_grad_norm=0.5")
    policy = nano.policy(config)
    if stage == 1:
        freeze_for_critic(policy, config)
    elif config.train.value_coef == config.critic.anchor_coef == 0.0:
        policy.value_head.requires_grad_(False)
    return Job(name, stage, config, policy, [[nano.micro_batch(rows) for rows in split] for split in splits])


def _ordered_rows(nano):
    """Pairs of a correct and an incorrect row, side by side, as stage 1 needs them."""
    rows = nano.rows(24)
    classes = ([row for row in rows if row.example.is_correct is wanted] for wanted in (True, False))
    return [row for pair in zip(*classes, strict=False) for row in pair][:10]


@pytest.fixture(scope="module")
def data(nano, tmp_path_factory) -> tuple[str, ...]:
    return nano.indexed(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def two_processes(nano, data, tmp_path_factory) -> list[Left]:
    directory = tmp_path_factory.mktemp("two_processes")
    rows = _ordered_rows(nano)
    jobs = [_job(nano, name, [[rows[:2], rows[2:6]], [rows[6:8], rows[8:]]], data) for name in DDP_ARMS]
    torch.save(jobs, directory / "jobs")
    path_before = list(sys.path)
    sys.path.insert(0, str(REPOSITORY))  # the child processes import this module by its name
    try:
        mp.spawn(_rank_process, (str(directory / "store"), str(directory / "jobs"), str(directory / "left")), nprocs=2)
    finally:
        sys.path[:] = path_before
    return [torch.load(directory / f"left.{rank}", weights_only=False) for rank in (0, 1)]


@pytest.mark.timeout(120)
class TestTwoProcesses:
    @pytest.mark.parametrize("name", DDP_ARMS)
    def test_two_ranks_make_the_step_of_one(self, nano, data, two_processes, name):
        job = _job(nano, name, [[_ordered_rows(nano)]], data)
        before = {key: tensor.clone() for key, tensor in job.policy.state_dict().items()}
        metrics = _make_step(job, OneRank())
        learned = {key for key, p in job.policy.named_parameters() if p.requires_grad}
        for left in two_processes:
            assert left.metrics[name] == pytest.approx(metrics, rel=1e-6, abs=1e-7)
            for key, tensor in job.policy.state_dict().items():
                step, found = tensor - before[key], left.weights[name][key] - before[key]
                assert (step.norm() > 0) == (key in learned), key
                # The update is the difference of two weights near 1, which costs a digit.
                assert (found - step).norm() <= 1e-5 * step.norm() + 1e-7, key

    def test_both_ranks_hold_the_same_weights_and_report_the_same_metrics(self, two_processes):
        first, second = two_processes
        assert first.metrics == second.metrics
        for name in DDP_ARMS:
            for key, tensor in first.weights[name].items():
                assert torch.equal(tensor, second.weights[name][key]), key

    def test_gradients_are_reduced_once_a_step(self, two_processes):
        """Each rank has two micro-batches, and the nano model's gradients fit one bucket."""
        for left in two_processes:
            assert left.num_reductions == dict.fromkeys(DDP_ARMS, 1)

    def test_gradients_wait_for_the_pass_that_reduces(self, two_processes):
        """Local gradients 1 and 2; after the second pass the mean of 1 + 1 and 2 + 2."""
        assert [left.gradients_before_and_after_reducing for left in two_processes] == [(1.0, 3.0), (2.0, 3.0)]

    def test_collectives_of_a_group(self, two_processes):
        for left in two_processes:
            assert left.is_group
            assert left.total.dtype == torch.float64
            assert left.total.tolist() == [3.0, 20.0]
            assert [part.tolist() for part in left.gathered] == [[], [0, 1, 2]]
            assert [part.tolist() for part in left.all_empty] == [[], []]


class TestOneRank:
    def test_a_rank_alone_hears_itself(self):
        ranks, tensor_N = current_ranks(), torch.tensor([1.0, 2.0])
        assert isinstance(ranks, OneRank)
        assert (ranks.rank, ranks.world_size) == (0, 1)
        assert ranks.sum(tensor_N) is tensor_N
        assert ranks.gather(tensor_N) == [tensor_N]

    def test_a_rank_alone_needs_no_wrapper(self):
        module = nn.Linear(1, 1)
        assert replicate(module, OneRank(), CPU) is module
        with reduce_gradients_when(module, False):
            module(torch.ones(1, 1)).sum().backward()
        assert module.weight.grad.item() == 1.0


class TestDevice:
    def test_auto_takes_what_the_machine_has(self):
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        assert choose_device("auto", 0).type == best
        assert choose_device("cpu", 3) == CPU

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
    def test_an_absent_device_is_refused_with_a_remedy(self):
        with pytest.raises(ConfigError, match=r"train\.device=cuda, but this machine has .*'cpu'.*train\.device=auto"):
            choose_device("cuda", 0)

    def test_shards_on_mps_are_refused_before_the_start(self, nano):
        with pytest.raises(ConfigError, match=r"parallel=fsdp2 with device=mps.*parallel=ddp"):
            nano.load("train.parallel=fsdp2", "train.device=mps")
