"""Which value head sees bugs in real programs: heads on the frozen states of a real model, which are computed once.

    python bench/real_critics.py run --model DIR --rows train.jsonl --valid valid.jsonl --out real.jsonl [--seeds 0 1]
    python bench/real_critics.py table real.jsonl

DIR is a model directory (`wmtp import`), the files are rows of both labels; the first --train-rows and --valid-rows
are read, so rows of a problem should stand together. One pass of the model writes what heads read to FILE.work: the
states at 2/3 of the trunk's depth and at its end, and each token's surprisal. Then every rung is stage 1 of a run
(its plan, its loss, its head) over these. One JSON line a rung and seed; what is there already is not done again.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from real_states import MIDDLE, Depth, States

from wmtp_ray.config.load import Arguments, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Int64, RowIndex, ScoredBatch, TokenBatch
from wmtp_ray.data.collate import collate, documents_of
from wmtp_ray.data.held_out_rows import held_out_rows
from wmtp_ray.data.tokenizer import CodeTokenizer, read_indexed
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.intervals import statistic_over_problems
from wmtp_ray.model.policy import PolicyStates
from wmtp_ray.model.value_model import ValueHead
from wmtp_ray.model.value_outputs import values_of
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.objective import health_measures as measures
from wmtp_ray.objective import td
from wmtp_ray.objective.critic_health import JudgedResponse, critic_health
from wmtp_ray.plan.run_plan import RunPlan, rank_batches
from wmtp_ray.run_folder import CRITIC_STAGE
from wmtp_ray.scoring.contract import to_micro_batch
from wmtp_ray.training.losses import value_terms
from wmtp_ray.training.measure_critic import batches_of_rows

NOW = datetime(2026, 1, 1)
STEPS, BATCH_ROWS, LEARNING_RATE, WEIGHT_DECAY = 200, 64, 1e-3, 0.01


@dataclass(frozen=True)
class Rung:
    """One value head: what it changes, and how many of it, on halves of the problems, make V."""

    what: str
    words: tuple[str, ...]
    members: int = 1


AS_SHIPPED = ("critic.value_error=squared", "critic.pairs=length", "critic.value_layer=1.0")
AT_MIDDLE = ("critic.value_error=squared", "critic.pairs=length", f"critic.value_layer={MIDDLE}")
WITH_BCE = ("critic.pairs=length", f"critic.value_layer={MIDDLE}")
WITH_EDITS = (f"critic.value_layer={MIDDLE}",)
WITH_SURPRISAL = (*WITH_EDITS, "critic.features=surprisal")
RUNGS: dict[str, Rung] = {
    "linear": Rung("linear head on the trunk's end, squared error", (*AS_SHIPPED, "critic.head=linear")),
    "mlp": Rung("mlp head", AS_SHIPPED),
    "middle": Rung("+ on the state at 2/3 of the depth", AT_MIDDLE),
    "bce": Rung("+ bce", WITH_BCE),
    "edit_pairs": Rung("+ pairs by token edits", WITH_EDITS),
    "with_surprisal": Rung("+ surprisal", WITH_SURPRISAL),
    "attention": Rung("+ attention head", (*WITH_SURPRISAL, "critic.head=attention")),
    "ensemble": Rung("the same, 4 on halves of the problems", (*WITH_SURPRISAL, "critic.head=attention"), members=4),
}


Bounds = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class RungResult:
    """One line. `min_v_auc`: AUC of the smallest V of a response; `..._minus_likelihood`: (difference, low, high).

    The differences are to the model's own log-likelihood: its smallest token, and its mean in pairs; 95 % over
    problems.
    """

    arm: str
    seed: int
    rows: int
    held_out_rows: int
    steps: int
    cpu_s: float
    min_v_auc: float
    min_v_auc_minus_likelihood: Bounds
    pair_accuracy_minus_likelihood: Bounds
    health: dict[str, float]


HEALTH = (
    "auc_100",
    "pair_accuracy",
    "minimal_pair_accuracy_min",
    "minimal_first_difference_drops",
    "minimal_drop_at_edit_auc",
    "minimal_largest_drop_in_edit",
    "minimal_largest_drop_in_edit_chance",
    "baseline_log_likelihood_pair_accuracy",
    "explained_variance",
)


@dataclass(frozen=True)
class Bench:
    """The files of a bench, and what its rungs share."""

    model: Path
    rows: Path
    valid: Path
    work: Path

    def config(self, name: str, seed: int, *words: str) -> RunConfig:
        """Stage 1 of a run on the rows, with the critic of preset.own-critic.yaml but for its trunk."""
        folder = ModelFolder(self.model)
        shared = (
            f"storage_root={self.work}",
            f"model.path={self.model}",
            f"tokenizer.path={folder.tokenizer.json if folder.tokenizer.json.exists() else folder.tokenizer.model}",
            f"data.train_file={self.rows}",
            f"data.valid_file={self.valid}",
            "data.max_tokens=1024",
            "train.micro_batch_tokens=4096",
            "critic.train_trunk=false",
            "critic.health_rows=100000",
            "critic.drift_every=0",
            f"critic_stage.batch_rows={BATCH_ROWS}",
            f"critic_stage.max_steps={STEPS}",
            "critic_stage.epochs=1000",
            "critic_stage.eval_every=0",
            f"seed={seed}",
            f"critic_stage.sampling.seed={seed}",
            "stages=[0,1]",
        )
        arguments = Arguments("verifiable", "quickstart,own-critic", f"{name}-s{seed}", overrides=(*shared, *words))
        return load_config(arguments, now=NOW)


class Member:
    """One value head and what it has learnt on its half of the problems."""

    def __init__(self, config: RunConfig, dim: int, seed: int) -> None:
        self.spec = ValueSpec.of(config)
        self.head = ValueHead(dim, self.spec)
        self.head.init_weights(torch.Generator().manual_seed(seed))
        self.depth: Depth = "end" if config.critic.value_layer == 1.0 else "middle"

    def states(self, batch: TokenBatch, states: States) -> PolicyStates:
        """Read the head on a batch, as a policy's value path would."""
        states_BTD, surprisal_BT1 = states.read(batch.row_ids_M, self.depth)
        features = surprisal_BT1 if self.spec.num_features else None
        outputs_BTO = self.head(states_BTD, features, batch.document_lengths_M.tolist())
        return PolicyStates(states_BTD, values_of(outputs_BTO, self.spec), outputs_BTO)


def train_member(
    config: RunConfig, plan: RunPlan, index: RowIndex, states: States, member: Member, learns_P: np.ndarray
) -> None:
    """Run the steps of stage 1 over rows of the problems that the member learns, at a constant rate."""
    optimizer = torch.optim.AdamW(member.head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for step, batches in _steps(config, plan, index):
        kept = [batch for batch in (_of_problems(each, index, learns_P) for each in batches) if batch is not None]
        micros = [to_micro_batch(ScoredBatch(each, None, 0, 0.0), step, config.seed, CPU) for each in kept]
        masks = [td.value_state_mask(each.tensors.supervised_mask_BT, each.tensors.document_ids_BT) for each in micros]
        num_states = sum(int(mask.sum()) for mask in masks)
        optimizer.zero_grad()
        for batch, micro in zip(kept, micros, strict=True):
            gamma = config.weighting.gamma
            value_terms(member.states(batch, states), micro, config.critic, gamma, num_states).loss.backward()
        optimizer.step()


CPU = torch.device("cpu")


def _steps(config: RunConfig, plan: RunPlan, index: RowIndex) -> Iterator[tuple[int, list[TokenBatch]]]:
    tokenizer = CodeTokenizer(config.tokenizer.path)
    budget = config.train.micro_batch_tokens
    planned = rank_batches(plan, index, rank=0, num_ranks=1, start_step=0, micro_batch_tokens=budget)
    for step, group in groupby(planned, key=lambda each: each.step):
        yield (
            step,
            [
                collate(read_indexed(index, each.row_ids_N, tokenizer), step=step, micro_step=each.micro_step)
                for each in group
            ],
        )


def _of_problems(batch: TokenBatch, index: RowIndex, learns_P: np.ndarray) -> TokenBatch | None:
    """The documents of a batch that belong to the given problems; None where there is none."""
    keep_M = learns_P[index.problem_R[batch.row_ids_M]]
    if keep_M.all():
        return batch
    if not keep_M.any():
        return None
    keep_T = np.repeat(keep_M, batch.document_lengths_M)
    lengths_M = batch.document_lengths_M[keep_M]
    return TokenBatch(
        batch.step,
        batch.micro_step,
        batch.tokens_BT[:, keep_T],
        np.repeat(np.arange(len(lengths_M), dtype=np.int32), lengths_M)[None],
        batch.positions_BT[:, keep_T],
        batch.supervised_mask_BT[:, keep_T],
        lengths_M,
        batch.rewards_M[keep_M],
        batch.row_ids_M[keep_M],
    )


@torch.no_grad()
def judged(
    config: RunConfig, index: RowIndex, rows: Int64, states: States, members: Sequence[Member]
) -> list[JudgedResponse]:
    """What the mean of the members says of held-out rows."""
    found = []
    for batch in batches_of_rows(index, rows, config):
        values_T = torch.stack([each.states(batch, states).values_BT[0] for each in members]).mean(dim=0).numpy()
        for document, row in zip(documents_of(batch), batch.row_ids_M, strict=True):
            prompt_tokens = int((~batch.supervised_mask_BT[0, document]).sum())
            last_prompt = document.start + prompt_tokens - 1
            found.append(
                JudgedResponse(
                    problem=index.problem_names[index.problem_R[row]],
                    is_correct=bool(index.is_correct_R[row]),
                    values=values_T[last_prompt : document.stop],
                    tokens=batch.tokens_BT[0, last_prompt + 1 : document.stop],
                    log_likelihoods=states.likelihoods(int(row))[prompt_tokens:].numpy(),
                )
            )
    return found


def measured(bench: Bench, name: str, seed: int) -> RungResult:
    """Train one rung and judge it on held-out problems."""
    rung = RUNGS[name]
    config = bench.config(name, seed, *rung.words)
    prepared = prepare(config)
    plan, index = prepared.plans[CRITIC_STAGE], prepared.index
    assert index is not None, "stage 1 has rows"
    valid_index, valid_rows = held_out_rows(config)
    states = States(config, index, np.unique(plan.row_ids_P), bench.work / "train.states.pt")
    valid_states = States(config, valid_index, valid_rows, bench.work / "valid.states.pt")
    started = time.process_time()
    members = []
    for number, learns_P in enumerate(_halves(len(index.problem_names), rung.members, seed)):
        member = Member(config, states.norm.weight.shape[0], seed * 100 + number)
        train_member(config, plan, index, states, member, learns_P)
        members.append(member)
    cpu_s = time.process_time() - started
    responses = judged(config, valid_index, valid_rows, valid_states, members)
    metrics = critic_health(responses, value_clip=config.critic.value_clip).metrics()
    smallest = _auc([float(each.states.min()) for each in responses], responses)
    assert smallest is not None, "held-out rows are of both classes"
    return RungResult(
        name,
        seed,
        len(index),
        len(responses),
        plan.num_steps,
        round(cpu_s, 1),
        min_v_auc=round(smallest, 4),
        min_v_auc_minus_likelihood=_beside_likelihood(responses, _smallest_auc),
        pair_accuracy_minus_likelihood=_beside_likelihood(responses, _pair_accuracy),
        health={key: round(metrics[f"critic/{key}"], 4) for key in HEALTH if f"critic/{key}" in metrics},
    )


def _halves(num_problems: int, members: int, seed: int) -> Iterator[np.ndarray]:
    """Which problems each member learns: all for a single one, else complementary halves, drawn anew for each two."""
    if members == 1:
        yield np.ones(num_problems, dtype=np.bool_)
        return
    for member in range(members):
        half_P = np.random.default_rng([seed, member // 2]).permutation(num_problems) < num_problems // 2
        yield half_P if member % 2 == 0 else ~half_P


Measure = Callable[[Sequence[JudgedResponse]], tuple[float | None, float | None]]


def _smallest_auc(responses: Sequence[JudgedResponse]) -> tuple[float | None, float | None]:
    """AUC of the smallest V, and of the least likely token."""
    values = [float(each.states.min()) for each in responses]
    return _auc(values, responses), _auc([float(_likelihoods(each).min()) for each in responses], responses)


def _pair_accuracy(responses: Sequence[JudgedResponse]) -> tuple[float | None, float | None]:
    """Correct above incorrect within problems: by the mean V, and by the mean log-likelihood."""
    correct_R = np.array([each.is_correct for each in responses])
    problems_R = [each.problem for each in responses]
    values_R = np.array([each.states.mean() for each in responses])
    likelihoods_R = np.array([_likelihoods(each).mean() for each in responses])
    values, likelihoods = (measures.pair_accuracy(each, correct_R, problems_R) for each in (values_R, likelihoods_R))
    return values, likelihoods


def _auc(scores: Sequence[float], responses: Sequence[JudgedResponse]) -> float | None:
    return measures.auc(np.array(scores), np.array([each.is_correct for each in responses]))


def _likelihoods(response: JudgedResponse) -> np.ndarray:
    assert response.log_likelihoods is not None
    return response.log_likelihoods


def _beside_likelihood(responses: Sequence[JudgedResponse], measure: Measure) -> Bounds:
    """The measure of V minus that of the log-likelihood, 95 % over problems."""
    by_problem = [list(group) for _, group in groupby(responses_by_problem(responses), key=lambda each: each.problem)]

    def difference(problems_N: Int64) -> float | None:
        # A problem drawn twice counts as two problems.
        drawn = [replace(each, problem=n) for n, k in enumerate(problems_N) for each in by_problem[k]]
        mine, theirs = measure(drawn)
        return None if mine is None or theirs is None else mine - theirs

    found = statistic_over_problems(difference, len(by_problem))
    assert found is not None, "held-out rows are of both classes"
    return round(found.value, 4), found.low, found.high


def responses_by_problem(responses: Sequence[JudgedResponse]) -> list[JudgedResponse]:
    return sorted(responses, key=lambda each: str(each.problem))


def first_rows(file: Path, number: int, out: Path) -> Path:
    """Write the first rows of a file."""
    with file.open("rb") as lines:
        out.write_bytes(b"".join(islice(lines, number)))
    return out


def run(asked: argparse.Namespace) -> None:
    """Append a line for everything that is asked for and not there yet."""
    work = asked.out.with_name(f"{asked.out.name}.work").absolute()
    work.mkdir(parents=True, exist_ok=True)
    rows = first_rows(asked.rows, asked.train_rows, work / "train.jsonl")
    valid = first_rows(asked.valid, asked.valid_rows, work / "valid.jsonl")
    bench = Bench(asked.model.absolute(), rows, valid, work)
    lines = asked.out.read_bytes().splitlines() if asked.out.exists() else []
    done = {(line["arm"], line["seed"]) for line in map(orjson.loads, lines)}
    for seed in asked.seeds:
        for name in asked.arms:
            if (name, seed) in done:
                continue
            result = measured(bench, name, seed)
            with asked.out.open("ab") as file:
                file.write(orjson.dumps(asdict(result)) + b"\n")
            print(f"seed {seed} {name:12} min V {result.min_v_auc:.3f}  {result.health}", flush=True)


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The ladder in Markdown: means over seeds, the differences of the first seed."""
    shown = ("auc_100", "pair_accuracy", *HEALTH[2:6])
    names = ["head", "seeds", "CPU-s", "min V AUC", *shown, "min V AUC - likelihood", "pairs - likelihood"]
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, group in groupby(
        sorted(lines, key=lambda line: list(RUNGS).index(line["arm"])), lambda line: line["arm"]
    ):
        found = list(group)
        numbers = [np.mean([line["health"][key] for line in found]) for key in shown]
        cells = [f"{number:.3f}" for number in (np.mean([line["min_v_auc"] for line in found]), *numbers)]
        differences = [
            "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found[0][key])
            for key in ("min_v_auc_minus_likelihood", "pair_accuracy_minus_likelihood")
        ]
        seconds = f"{np.mean([line['cpu_s'] for line in found]):.0f}"
        what = f"`{name}`: {RUNGS[name].what}"
        rows.append(f"| {' | '.join([what, str(len(found)), seconds, *cells, *differences])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("--model", type=Path, required=True, help="model directory")
    verb.add_argument("--rows", type=Path, required=True, help="JSONL of rows to train on")
    verb.add_argument("--valid", type=Path, required=True, help="JSONL of rows of other problems")
    verb.add_argument("--train-rows", type=int, default=1000)
    verb.add_argument("--valid-rows", type=int, default=400)
    verb.add_argument("--arms", nargs="+", choices=tuple(RUNGS), default=tuple(RUNGS))
    verb.add_argument("--seeds", type=int, nargs="+", default=[0])
    verb.add_argument("--out", type=Path, required=True, help="JSON lines, appended to")
    verbs.add_parser("table").add_argument("file", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.verb == "table":
        print(table([orjson.loads(line) for line in asked.file.read_bytes().splitlines()]))
    else:
        run(asked)


if __name__ == "__main__":
    main()
