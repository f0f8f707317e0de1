"""The plan of a stage: every row of every step, before anything starts. A pure function of index, config and seeds.

Nothing here depends on the number of ranks, on the micro-batch budget, on time or on PYTHONHASHSEED: the first two
choose only how `rank_batches` splits a step. So a run can resume anywhere, on another number of ranks, with the same
steps. Reads no training file and starts no process. Suffixes: P planned rows, S steps, N rows of a micro-batch.

The held-out problems depend on the run's `seed` alone, so both stages keep the same ones; what a stage draws depends
on its own `sampling.seed`.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np

from wmtp_ray.config.critic import CriticStageConfig
from wmtp_ray.config.sampling import DifficultySource
from wmtp_ray.config.schema import DataConfig, TrainConfig
from wmtp_ray.contracts import Bool, Int64, RowIndex
from wmtp_ray.durable_files import atomic_file
from wmtp_ray.errors import ArtifactError, PlanError
from wmtp_ray.plan.candidates import candidate_rows, held_out_problems
from wmtp_ray.plan.finish import PlannedFinish
from wmtp_ray.plan.nearest_pairs import Distances
from wmtp_ray.plan.packing import deal_sequences, split_step
from wmtp_ray.plan.phases import PlannedPhase
from wmtp_ray.plan.stage1 import draw_critic_stage, require_classes_to_pair, require_pairs
from wmtp_ray.plan.stage2 import draw_train_stage
from wmtp_ray.plan.stage_steps import StageSteps, steps_of_rows
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE, RunFolder
from wmtp_ray.saved_records import convert_record, read_record, write_record

PLAN_VERSION = 3  # raise it when the same index, configuration and seeds would give another plan
_REMEDY = "start a new run under another run_name"
_ARRAYS = ("row_ids_P", "step_starts_S", "sequence_starts_Q")


@dataclass(frozen=True)
class PlanCounts:
    """Where the rows of the index went: index_rows = sum(left_out) + sum(outside_bins) + available_rows.

    A row left out counts at the first reason that holds; `outside_bins` is by difficulty, 0 = unknown. Of the available
    rows `rows_per_epoch` are drawn; `incomplete_rows` would have made the last, incomplete step. Tokens are those of
    all planned rows, once per occurrence. Pairs are stage 1's, in one epoch (0 in stage 2).
    """

    index_rows: int
    left_out: dict[str, int]
    outside_bins: dict[int, int]
    available_rows: int
    rows_per_epoch: int
    incomplete_rows: int
    problems: int
    held_out_problems: int
    tokens: int
    supervised_tokens: int
    pairs: int
    length_matched_pairs: int


@dataclass(frozen=True, eq=False)
class RunPlan:
    """All steps of a stage: step s holds the rows `row_ids_P[step_starts_S[s]:step_starts_S[s + 1]]` of the index.

    `step_starts_S` has num_steps + 1 entries. `rows_together` consecutive rows always share a micro-batch (2 where the
    loss compares the rows of a pair). Where a step is `batch_sequences` packed sequences, sequence q holds the rows
    `row_ids_P[sequence_starts_Q[q]:sequence_starts_Q[q + 1]]` and is a micro-batch of at most `sequence_tokens` tokens;
    else a step is `batch_rows` rows and `sequence_starts_Q` is empty. `difficulty_source` says what the plan's
    difficulties count in. `seed` chose the held-out problems, `sampling_seed` the rows. The steps of the `finish` weigh
    every token alike; None where the arm weighs every step. `horizon_starts` is the first step of each horizon, empty
    where all are trained from the first step.
    """

    stage: int
    row_ids_P: Int64
    step_starts_S: Int64
    sequence_starts_Q: Int64
    phases: tuple[PlannedPhase, ...]
    counts: PlanCounts
    warnings: tuple[str, ...]
    batch_rows: int | None
    batch_sequences: int | None
    sequence_tokens: int | None
    rows_together: int
    epochs: float
    difficulty_source: DifficultySource
    dataset_fingerprint: str
    tokenizer_hash: str
    seed: int
    sampling_seed: int
    finish: PlannedFinish | None = None
    horizon_starts: tuple[int, ...] = ()

    @property
    def num_steps(self) -> int:
        return len(self.step_starts_S) - 1

    @property
    def num_rows(self) -> int:
        return len(self.row_ids_P)

    def step_row_ids(self, step: int) -> Int64:
        """Return the rows of one step, in plan order."""
        return self.row_ids_P[self.step_starts_S[step] : self.step_starts_S[step + 1]]

    def step_sequences(self, step: int) -> list[Int64]:
        """Return the packed sequences of one step, each as ascending places into the step's rows."""
        assert self.batch_sequences is not None, "the steps of this plan are rows, not sequences"
        first = step * self.batch_sequences
        starts = self.sequence_starts_Q[first : first + self.batch_sequences + 1] - self.step_starts_S[step]
        return [np.arange(start, end) for start, end in pairwise(starts)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the arrays and every other field, PLAN_VERSION included."""
        digest = hashlib.sha256(json.dumps(_facts(self), sort_keys=True).encode())
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name), dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class PlannedBatch:
    """One micro-batch of one rank: which rows of the index, in plan order."""

    step: int
    micro_step: int
    row_ids_N: Int64


def held_out_mask(index: RowIndex, data: DataConfig, seed: int) -> Bool:
    """Choose the run's held-out problems, [P] over `index.problem_names`; none when `data.valid_file` gives its own."""
    return held_out_problems(index, 0.0 if data.valid_file is not None else data.valid_problems_frac, seed)


def plan_training(index: RowIndex, data: DataConfig, train: TrainConfig, seed: int) -> RunPlan:
    """Plan stage 2: the curriculum. `seed` is the run's.

    Raises PlanError when not even one step fills, DataError when rows have no token counts.
    """
    held_out_P = held_out_mask(index, data, seed)
    candidates = candidate_rows(
        index,
        held_out_P=held_out_P,
        max_tokens=data.max_tokens,
        correct_only=data.policy_rows == "correct_only",
        languages=data.languages,
        problem_classes=train.sampling.problem_classes,
    )
    stage = draw_train_stage(index, candidates, data, train)
    return _run_plan(
        index,
        stage.steps,
        stage=TRAIN_STAGE,
        held_out_P=held_out_P,
        batch_rows=train.batch_rows if train.batch_sequences is None else None,
        batch_sequences=train.batch_sequences,
        sequence_tokens=None if train.batch_sequences is None else train.micro_batch_tokens,
        rows_together=1,
        epochs=train.epochs,
        difficulty_source=data.difficulty_source,
        seed=seed,
        sampling_seed=train.sampling.seed,
        finish=stage.finish,
    )


def plan_critic_stage(
    index: RowIndex,
    data: DataConfig,
    critic_stage: CriticStageConfig,
    seed: int,
    *,
    needs_pairs: bool = False,
    distances: Distances | None = None,
) -> RunPlan:
    """Plan stage 1: correct and incorrect rows within problems. `seed` is the run's; raises as `plan_training`.

    `needs_pairs` says that the loss compares the two rows of a pair (critic.objective=pairwise): an odd batch_rows, or
    sampling that makes other than pairs, then raises PlanError, and no pair is split over micro-batches. Without it an
    odd batch_rows is fine; some pairs then span two steps. `distances` tells how far rows are apart, where pairs are
    the nearest rows (critic.pairs=edit); only rows of problems that are drawn from are asked for.
    """
    if needs_pairs:
        require_pairs(critic_stage)
    if distances is not None:
        require_classes_to_pair(critic_stage)
    held_out_P = held_out_mask(index, data, seed)
    candidates = candidate_rows(
        index, held_out_P=held_out_P, max_tokens=data.max_tokens, correct_only=False, languages=data.languages
    )
    return _run_plan(
        index,
        steps_of_rows(
            draw_critic_stage(index, candidates, critic_stage, data.difficulty_source, distances),
            critic_stage.batch_rows,
        ),
        stage=CRITIC_STAGE,
        held_out_P=held_out_P,
        batch_rows=critic_stage.batch_rows,
        rows_together=2 if needs_pairs else 1,
        epochs=critic_stage.epochs,
        difficulty_source=data.difficulty_source,
        seed=seed,
        sampling_seed=critic_stage.sampling.seed,
    )


def _run_plan(
    index: RowIndex,
    steps: StageSteps,
    *,
    stage: int,
    held_out_P: Bool,
    rows_together: int,
    epochs: float,
    difficulty_source: DifficultySource,
    seed: int,
    sampling_seed: int,
    batch_rows: int | None,
    batch_sequences: int | None = None,
    sequence_tokens: int | None = None,
    finish: PlannedFinish | None = None,
) -> RunPlan:
    """Give `batch_rows` for steps of rows, `batch_sequences` and `sequence_tokens` for steps of sequences."""
    rows = steps.rows
    counts = PlanCounts(
        index_rows=len(index),
        left_out=rows.left_out,
        outside_bins=rows.outside_bins,
        available_rows=rows.available_rows,
        rows_per_epoch=rows.rows_per_epoch,
        incomplete_rows=rows.incomplete_rows,
        problems=len(np.unique(index.problem_R[rows.row_ids_P])),
        held_out_problems=int(held_out_P.sum()),
        tokens=int(index.num_tokens_R[rows.row_ids_P].sum(dtype=np.int64)),
        supervised_tokens=int(index.response_tokens_R[rows.row_ids_P].sum(dtype=np.int64)),
        pairs=rows.pairs,
        length_matched_pairs=rows.length_matched_pairs,
    )
    return RunPlan(
        stage=stage,
        row_ids_P=rows.row_ids_P,
        step_starts_S=steps.step_starts_S,
        sequence_starts_Q=steps.sequence_starts_Q,
        phases=rows.phases,
        counts=counts,
        warnings=rows.warnings,
        batch_rows=batch_rows,
        batch_sequences=batch_sequences,
        sequence_tokens=sequence_tokens,
        rows_together=rows_together,
        epochs=epochs,
        difficulty_source=difficulty_source,
        dataset_fingerprint=index.file_fingerprint,
        tokenizer_hash=index.tokenizer_hash,
        seed=seed,
        sampling_seed=sampling_seed,
        finish=finish,
    )


def rank_batches(
    plan: RunPlan, index: RowIndex, *, rank: int, num_ranks: int, start_step: int, micro_batch_tokens: int
) -> Iterator[PlannedBatch]:
    """Yield one rank's micro-batches of the steps from `start_step` on, split step by step as they are asked for.

    Raises PlanError at once when the index is not the plan's; while iterating when a step cannot be split (see
    `check_packing`, which finds that out before a run).
    """
    assert 0 <= rank < num_ranks
    _require_same_data(plan, index)
    return _rank_batches(plan, index, rank, num_ranks, start_step, micro_batch_tokens)


def _rank_batches(
    plan: RunPlan, index: RowIndex, rank: int, num_ranks: int, start_step: int, micro_batch_tokens: int
) -> Iterator[PlannedBatch]:
    for step in range(start_step, plan.num_steps):
        row_ids = plan.step_row_ids(step)
        for micro_step, positions in enumerate(_split(plan, index, step, num_ranks, micro_batch_tokens)[rank]):
            yield PlannedBatch(step, micro_step, row_ids[positions])


def _split(plan: RunPlan, index: RowIndex, step: int, num_ranks: int, micro_batch_tokens: int) -> list[list[Int64]]:
    if plan.batch_sequences is not None:
        return deal_sequences(plan.step_sequences(step), num_ranks)
    num_tokens_N = index.num_tokens_R[plan.step_row_ids(step)]
    return split_step(num_tokens_N, num_ranks, micro_batch_tokens, rows_together=plan.rows_together)


def check_packing(plan: RunPlan, index: RowIndex, *, num_ranks: int, micro_batch_tokens: int) -> int:
    """Split every step as a run would; returns the largest number of micro-batches of a step on a rank.

    Raises PlanError when a step cannot be split. Costs about 0.2 ms for a step of 64 rows.
    """
    _require_same_data(plan, index)
    splits = (_split(plan, index, step, num_ranks, micro_batch_tokens) for step in range(plan.num_steps))
    return max(len(ranks[0]) for ranks in splits)


def _require_same_data(plan: RunPlan, index: RowIndex) -> None:
    planned = (plan.dataset_fingerprint, plan.tokenizer_hash)
    found = (index.file_fingerprint, index.tokenizer_hash)
    if planned != found:
        raise PlanError(
            f"the plan was made for dataset and tokenizer {planned} but the index of {index.path} is of {found}; "
            "use the file, tokenizer and data.template of the plan (data.index_file for each), or start a new run"
        )


def save(plan: RunPlan, directory: Path) -> None:
    """Write plan.json and plan.npz (stage 1: stage1_plan.*) into an existing directory, each atomically."""
    folder = RunFolder(directory)
    with atomic_file(folder.plan_arrays(plan.stage)) as arrays, arrays.open("wb") as file:
        np.savez(file, **{name: getattr(plan, name) for name in _ARRAYS})
    write_record(folder.plan(plan.stage), {**_facts(plan), "digest": plan.digest})


def load_plan(directory: Path, stage: int) -> RunPlan:
    """Read what `save` wrote. Raises ArtifactError when it is missing, torn, altered or of another PLAN_VERSION."""
    path = RunFolder(directory).plan(stage)
    if not path.is_file():
        raise ArtifactError(f"no plan at {path}; plan the run before loading its plan")
    facts = read_record(path, dict[str, Any], _REMEDY)
    if facts.pop("plan_version", None) != PLAN_VERSION:
        raise ArtifactError(f"{path} is not of plan version {PLAN_VERSION}, which this code makes; start a new run")
    convert_record(facts, _PLAN_FILE, path, _REMEDY)
    digest = facts.pop("digest")
    try:
        with np.load(RunFolder(directory).plan_arrays(stage), allow_pickle=False) as arrays:
            plan = _plan_of_facts(facts, {name: arrays[name] for name in _ARRAYS})
    except FileNotFoundError as error:
        raise ArtifactError(f"no plan at {error.filename}; plan the run before loading its plan") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"the plan {path} is torn ({error}); {_REMEDY}") from error
    if plan.digest != digest:
        raise ArtifactError(
            f"the plan {path} has the digest {plan.digest[:12]} but says {digest[:12]}: it or its .npz was altered; "
            f"restore both files, or {_REMEDY}"
        )
    return plan


def _facts(plan: RunPlan) -> dict[str, Any]:
    """Everything but the arrays, as JSON values."""
    facts = {name: getattr(plan, name) for name in _fact_names()}
    facts |= _later_facts(facts.pop("finish"), facts.pop("horizon_starts"))
    facts["phases"] = [asdict(phase) for phase in plan.phases]
    facts["counts"] = asdict(plan.counts)
    facts["counts"]["outside_bins"] = {str(key): rows for key, rows in plan.counts.outside_bins.items()}
    facts["warnings"] = list(plan.warnings)
    return {"plan_version": PLAN_VERSION, **facts}


def _later_facts(finish: PlannedFinish | None, horizon_starts: tuple[int, ...]) -> dict[str, Any]:
    """A plan without a finish says nothing of one: it is the plan that it was before there were any. So of horizons."""
    later = {"finish": finish and asdict(finish), "horizon_starts": list(horizon_starts)}
    return {name: fact for name, fact in later.items() if fact}


def _fact_names() -> list[str]:
    return [field.name for field in fields(RunPlan) if field.name not in _ARRAYS]


# The types that plan.json is held against. The plan is made of the values as they were written: its digest speaks of
# these, and 1 is not 1.0 to it.
_PLAN_FILE = msgspec.defstruct(
    "PlanFile",
    [
        ("digest", str),
        *((name, get_type_hints(RunPlan)[name]) for name in _fact_names() if name not in ("finish", "horizon_starts")),
        ("finish", PlannedFinish | None, None),
        ("horizon_starts", tuple[int, ...], ()),
    ],
)


def _plan_of_facts(facts: dict[str, Any], arrays: dict[str, Int64]) -> RunPlan:
    counts = facts["counts"]
    counts["outside_bins"] = {int(key): rows for key, rows in counts["outside_bins"].items()}
    return RunPlan(
        **{
            **facts,
            **arrays,
            "phases": tuple(PlannedPhase(**phase) for phase in facts["phases"]),
            "counts": PlanCounts(**counts),
            "warnings": tuple(facts["warnings"]),
            "finish": PlannedFinish(**facts["finish"]) if "finish" in facts else None,
            "horizon_starts": tuple(facts.get("horizon_starts", ())),
        }
    )
