"""Nano runs: a model of a few thousand weights, generated rows with their scores, and optimizer steps over them.

Rows carry what a critic and a reference would say about them, so that a split into micro-batches or ranks cannot change
it. No Ray, no files. Shape suffixes: T positions of one row, H horizons.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.config.layers import CONFIG_DIR
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Example, RowEdits, RowIndex, ScoredBatch, Scores
from wmtp_ray.data.collate import collate
from wmtp_ray.data.index_file import BuiltIndex, file_fingerprint, index_path_of, write_index
from wmtp_ray.model.policy import Policy
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.ranks import OneRank, Ranks
from wmtp_ray.scoring.contract import MicroBatch, to_micro_batch
from wmtp_ray.training.parallel import replicate
from wmtp_ray.training.stages import critic_stage, freeze_for_critic, policy_stage
from wmtp_ray.training.step import TrainingStep

T = TypeVar("T")
CPU = torch.device("cpu")
LEARNING_RATE = 1e-3

_COLUMNS = {  # of an index, those that say nothing here
    "offset_R": np.int64,
    "num_bytes_R": np.int32,
    "difficulty_R": np.int16,
    "language_R": np.int8,
    "cf_rating_R": np.int16,
    "source_R": np.int16,
    "prompt_tokens_R": np.int32,
    "response_tokens_R": np.int32,
}

CONTRAST = (
    "weighting.type=contrast", "train.value_coef=0", "reference.path=plus", "reference.incorrect_path=minus"
)  # fmt: skip

ENSEMBLE = (
    "critic.source=frozen", "critic.path=elsewhere", "critic.ensemble=2", "weighting.max_disagreement=0.1"
)  # fmt: skip

ARMS = {
    "uniform": ("weighting.type=uniform",),
    "td": ("weighting.type=td",),
    "td_gae": ("weighting.type=td", "weighting.td_lambda=0.9", "weighting.gamma=0.97", "weighting.beta=0.2"),
    "td_batch": ("weighting.type=td", "weighting.advantage_norm=batch"),
    "td_ema": ("weighting.type=td", "weighting.advantage_norm=ema"),
    "td_horizon": ("weighting.type=td", "weighting.terminal=horizon", "weighting.beta=0.3"),
    "td_unweighed_terminal": ("weighting.type=td", "weighting.weigh_terminal=false"),
    "td_agreed": ("weighting.type=td", *ENSEMBLE, "weighting.beta=0.2"),
    "td_agreed_horizon": ("weighting.type=td", "weighting.terminal=horizon", *ENSEMBLE),
    "sequence_reward_agreed": ("weighting.type=sequence_reward", *ENSEMBLE),
    "drop": ("weighting.type=drop",),
    "drop_unweighed_terminal": ("weighting.type=drop", "weighting.drop_below=0.3", "weighting.weigh_terminal=false"),
    "signed": ("weighting.type=signed",),
    "signed_gae": ("weighting.type=signed", "weighting.td_lambda=0.9", "weighting.beta=0.2"),
    "signed_where_sure": ("weighting.type=signed", "weighting.push_below=0.3"),
    "signed_unweighed_terminal": ("weighting.type=signed", "weighting.weigh_terminal=false"),
    "contrast": CONTRAST,
    "diff": ("weighting.type=diff", "weighting.diff_weight=3"),
    "oracle": ("weighting.type=oracle", "weighting.beta=0.2"),
    "oracle_gae_batch": ("weighting.type=oracle", "weighting.td_lambda=0.9", "weighting.advantage_norm=batch"),
    "oracle_drop": ("weighting.type=oracle_drop",),
    "dft": ("weighting.type=dft",),
    "sequence_reward": ("weighting.type=sequence_reward",),
    "shuffled": ("weighting.type=shuffled", "weighting.beta=0.3"),
    "matched_random": ("weighting.type=matched_random", "weighting.beta=0.3"),
    "surprisal": ("weighting.type=surprisal", "weighting.advantage_norm=batch"),
    "rho1_topk": ("recipe=rho1_weighted", "rho1.mode=topk"),
    "rho1_weighted": ("recipe=rho1_weighted", "rho1.mode=weighted"),
}


@dataclass(frozen=True)
class Row:
    """An example and all that anyone says about it."""

    example: Example
    values_T: npt.NDArray[np.float32]
    reference_losses_T: npt.NDArray[np.float32]
    policy_losses_TH: npt.NDArray[np.float32]

    @property
    def incorrect_losses_T(self) -> npt.NDArray[np.float32]:
        """A second reference's: now above, now below those of the first."""
        return self.reference_losses_T[::-1] * np.float32(1.1)

    @property
    def disagreements_T(self) -> npt.NDArray[np.float32]:
        """An ensemble's, from 0 to 0.25, each row's its own."""
        return np.abs(np.modf(self.values_T * 7)[0] / 4).astype(np.float32)

    def __len__(self) -> int:
        return len(self.example.tokens_T)

    @property
    def reward(self) -> float:
        return float(self.example.is_correct)

    @property
    def targets(self) -> range:
        """Positions of the supervised tokens."""
        return range(self.example.prompt_tokens, len(self))

    def pairs(self, num_horizons: int) -> list[tuple[int, int]]:
        """Supervised (t, k): t + k is a target, t is in the row."""
        return [(j - k, k) for j in self.targets for k in range(1, num_horizons + 1) if j - k >= 0]


@dataclass(frozen=True)
class Outcome:
    """What a step reported, the gradients the optimizer saw, and the policy after it."""

    metrics: dict[str, float]
    gradients: dict[str, Tensor]
    policy: Policy


class _Waiting(Exception):
    """A simulated rank needs what another has not said yet."""


class SimulatedRank:
    """One of several ranks in one process: it replays what all ranks said in earlier rounds (see `on_ranks`)."""

    def __init__(self, rank: int, world_size: int, calls: list[dict[int, Tensor]]) -> None:
        self.rank = rank
        self.world_size = world_size
        self._calls = calls
        self._next = 0

    def sum(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._parts(tensor)).sum(dim=0)

    def gather(self, tensor_N: Tensor) -> list[Tensor]:
        return self._parts(tensor_N)

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        if self._next == len(self._calls):
            self._calls.append({})
        parts = self._calls[self._next]
        self._next += 1
        parts[self.rank] = tensor.detach().clone()
        if len(parts) < self.world_size:
            raise _Waiting
        return [parts[rank] for rank in range(self.world_size)]


class Nano:
    """Builders; everything is generated from seeds."""

    args = ModelArgs(dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=24, n_future_tokens=3, multiple_of=8)
    num_horizons = 3

    @cache  # noqa: B019 - one session-wide instance, frozen results
    def load(self, *words: str) -> RunConfig:
        """The shipped configuration of the verifiable recipe with `key=value` words over it."""
        return load_config(
            parse_arguments(["recipe=verifiable", *words]), config_dir=CONFIG_DIR, now=datetime(2025, 1, 2)
        )

    def policy(self, config: RunConfig, seed: int = 0, spec: ValueSpec | None = None, **changes: Any) -> Policy:
        """A model whose weights, value head included, are far from their start values; `changes` are of `args`."""
        policy = Policy(Transformer(replace(self.args, **changes)), spec or ValueSpec.of(config))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if not name.endswith("norm.weight"):
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        return policy

    def rows(self, num_rows: int, seed: int = 0, *, prompt: tuple[int, int] = (1, 5)) -> list[Row]:
        """Rows of 1 to 4 prompt tokens and 1 to 7 response tokens; the first two answer differently."""
        random = np.random.default_rng(seed)
        return [self._row(number, random, prompt) for number in range(num_rows)]

    def _row(self, number: int, random: np.random.Generator, prompt: tuple[int, int]) -> Row:
        prompt_tokens, response_tokens = int(random.integers(*prompt)), int(random.integers(1, 8))
        length = prompt_tokens + response_tokens
        tokens_T = random.integers(0, self.args.vocab_size, length).astype(np.int32)
        correct = bool(random.random() < 0.5) if number > 1 else number == 0
        edits = self._edits(number, prompt_tokens, length)
        return Row(
            Example(100 + 7 * number, tokens_T, prompt_tokens, correct, edits),
            values_T=random.normal(0.5, 0.4, length).astype(np.float32),
            reference_losses_T=random.gamma(2.0, 1.0, length).astype(np.float32),
            policy_losses_TH=random.gamma(2.0, 1.0, (length, self.num_horizons)).astype(np.float32),
        )

    def _edits(self, number: int, prompt_tokens: int, length: int) -> RowEdits:
        """Every fourth row has no other to differ from; the others differ at some targets from some place on."""
        random = np.random.default_rng([number, prompt_tokens, length])
        first = -1 if number % 4 == 3 else int(random.integers(prompt_tokens, length))
        differs_T = (random.random(length) < 0.5) & (np.arange(length) >= first) & (first >= 0)
        return RowEdits(differs_T, first, float(random.choice([0.25, 0.5, 0.75])))

    def indexed(self, directory: Path, num_rows: int = 60) -> tuple[str, ...]:
        """Words of a data file whose index knows the rows' ids: four rows a problem, as they are numbered."""
        file, ids = directory / "rows.jsonl", 100 + 7 * num_rows
        file.write_text("{}\n")
        numbers = np.maximum(np.arange(ids) - 100, 0) // 7
        zeros = {name: np.zeros(ids, dtype) for name, dtype in _COLUMNS.items()}
        index = RowIndex(
            path=str(file),
            **zeros,
            is_correct_R=np.zeros(ids, np.bool_),
            problem_R=(numbers // 4).astype(np.int32),
            problem_names=tuple(f"problem {number}" for number in range(num_rows // 4 + 1)),
            source_names=("generated",),
            file_fingerprint=file_fingerprint(file),
            tokenizer_hash="",
        )
        write_index(BuiltIndex(index, ids, 0, ()), index_path_of(file))
        return (f"data.train_file={file}",)

    def scored_batch(self, rows: Sequence[Row], *, step: int = 0, by_ensemble: bool = False) -> ScoredBatch:
        """The rows as one micro-batch, with values, of an ensemble with its disagreement, and reference losses."""
        batch = collate([row.example for row in rows], step=step, micro_step=0)
        scores = Scores(
            version=0,
            values_BT=np.concatenate([row.values_T for row in rows])[None],
            losses_BT=np.concatenate([row.reference_losses_T for row in rows])[None],
            incorrect_losses_BT=np.concatenate([row.incorrect_losses_T for row in rows])[None],
            disagreements_BT=np.concatenate([row.disagreements_T for row in rows])[None] if by_ensemble else None,
        )
        return ScoredBatch(batch, scores, 0, 0.0)

    def micro_batch(
        self,
        rows: Sequence[Row],
        *,
        step: int = 0,
        seed: int = 42,
        with_policy_losses: bool = False,
        by_ensemble: bool = False,
    ) -> MicroBatch:
        """The scored batch as the training step sees it; policy losses only where asked for."""
        micro = to_micro_batch(self.scored_batch(rows, step=step, by_ensemble=by_ensemble), step, seed, CPU)
        if not with_policy_losses:
            return micro
        losses_BTH = torch.zeros(*micro.tensors.tokens_BT.shape, self.num_horizons)
        start = 0
        for row in rows:
            for t, k in row.pairs(self.num_horizons):
                losses_BTH[0, start + t, k - 1] = float(row.policy_losses_TH[t, k - 1])
            start += len(row)
        return MicroBatch(**{**micro.__dict__, "policy_losses_BTH": losses_BTH})

    def training(
        self,
        config: RunConfig,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        ranks: Ranks | None = None,
        *,
        stage: int = 2,
    ) -> TrainingStep:
        """A stage of `config` over a policy and any optimizer; simulated ranks average gradients themselves."""
        ranks = ranks or OneRank()
        recipe = {1: critic_stage, 2: policy_stage}[stage](config)
        loss = recipe.build_loss(policy, config)
        module = loss if isinstance(ranks, SimulatedRank) else replicate(loss, ranks, CPU)
        scorer = recipe.build_scorer(config, self.num_horizons)
        return TrainingStep(module, policy, optimizer, scorer, config, ranks)

    def step(
        self, config: RunConfig, split: Sequence[Sequence[Row]], ranks: Ranks | None = None, *, stage: int = 2
    ) -> Outcome:
        """One step from the same start every time; `split` holds this rank's micro-batches."""
        spec = ValueSpec.of(config)
        policy = self.policy(config, spec=spec if stage == 1 else spec.member)
        if stage == 1:
            freeze_for_critic(policy, config)
        recorder = GradientRecorder(policy)
        training = self.training(config, policy, recorder, ranks, stage=stage)
        micro_batches = [self.micro_batch(rows, by_ensemble=config.critic.ensemble > 1) for rows in split]
        metrics = training.run(micro_batches, LEARNING_RATE)
        return Outcome(metrics, recorder.gradients, policy)

    def step_on_ranks(
        self, config: RunConfig, splits: Sequence[Sequence[Sequence[Row]]], *, stage: int = 2
    ) -> list[Outcome]:
        """The same step on simulated ranks; gradients are averaged over them, as DDP does.

        The reported gradient norm is a rank's own, because the average comes after the step.
        """
        outcomes = self.on_ranks(len(splits), lambda ranks: self.step(config, splits[ranks.rank], ranks, stage=stage))
        mean = {
            name: torch.stack([outcome.gradients[name] for outcome in outcomes]).mean(dim=0)
            for name in outcomes[0].gradients
        }
        return [Outcome(outcome.metrics, mean, outcome.policy) for outcome in outcomes]

    def on_ranks(self, num_ranks: int, body: Callable[[Ranks], T]) -> list[T]:
        """Run `body` on simulated ranks, without threads: again and again, one collective further each round.

        `body` must start afresh each time it is called.
        """
        calls: list[dict[int, Tensor]] = []
        while True:
            results = []
            for rank in range(num_ranks):
                try:
                    results.append(body(SimulatedRank(rank, num_ranks, calls)))
                except _Waiting:
                    continue
            if len(results) == num_ranks:
                return results


class GradientRecorder(torch.optim.SGD):
    """Plain gradient descent that keeps the gradients of its last step by parameter name."""

    def __init__(self, policy: Policy) -> None:
        self._named = dict(policy.named_parameters())
        self.gradients: dict[str, Tensor] = {}
        super().__init__(self._named.values(), lr=1.0)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self.gradients = {name: p.grad.clone() for name, p in self._named.items() if p.grad is not None}
        super().step(closure)


@pytest.fixture(scope="session")
def nano() -> Nano:
    return Nano()


@pytest.fixture(params=ARMS.values(), ids=ARMS.keys())
def arm(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Every arm of the comparison, as configuration words."""
    words: tuple[str, ...] = request.param
    return words
