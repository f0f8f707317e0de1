"""The audit of a critic: V of prefixes beside how often the policy's continuations of them pass. One process, no Ray.

`audited_prefixes.py` draws the prefixes, `rollouts.py` continues and judges them, `objective/true_values.py` compares.

Shape suffixes: B sequences (1), T positions, V vocabulary, N rows of an index.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from vendor.meta_llama.model import Transformer
from wmtp_ray.artifacts.meta_checkpoint import load_value_path
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import Example, Int64, RowIndex
from wmtp_ray.data.collate import collate, examples_of
from wmtp_ray.data.held_out_rows import held_out_rows
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import DataError
from wmtp_ray.evaluation.audited_prefixes import AuditedProblem, OtherToken, Prefix, audited_problems, prefixes_of
from wmtp_ray.evaluation.decoding_policy import load_decoding_policy
from wmtp_ray.evaluation.evaluation_progress import EvaluationProgress
from wmtp_ray.evaluation.problems import ProblemSet
from wmtp_ray.evaluation.rollouts import JudgedProblem, Outcome, roll_out
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import Critic
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.true_values import AuditedPrefix, value_agreement
from wmtp_ray.tracking.critic_audit import STRATA, AuditSettings, CriticAudit
from wmtp_ray.training.measure_critic import batches_of_rows

_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class AuditedModels:
    """The model directories of the policy that continues and of the critic that is audited."""

    policy: Path
    critic: Path


def audit_critic(
    config: RunConfig, models: AuditedModels, problems: Sequence[ProblemSet], settings: AuditSettings, console: Console
) -> CriticAudit:
    """Audit a run's critic on its held-out rows, whose tests are in `problems`.

    Raises DataError before a model is loaded where no held-out problem has tests.
    """
    index, rows_N = held_out_rows(config)
    tests = judged_problems(index, rows_N, problems)
    examples = _examples(config, index, rows_N, tests)
    chosen = audited_problems(examples, settings.problems, settings.seed)
    policy = load_decoding_policy(models.policy, config)
    other = likeliest_other(policy, run_tokenizer(config))
    prefixes = [prefix for each in chosen for prefix in prefixes_of(each, other, settings.seed)]
    critic = load_value_path(models.critic, ValueSpec.of(config)).eval().requires_grad_(False)
    values = values_at(critic, prefixes, config.train.micro_batch_tokens)
    total = len(prefixes) * settings.rollouts
    with EvaluationProgress(console, "audit", total=total, num_decoded=0, verdicts=()) as progress:
        outcomes = roll_out(prefixes, tests, policy, config, progress, rollouts=settings.rollouts, seed=settings.seed)
    return _audit(settings, models, len(examples), chosen, _judged(prefixes, values, outcomes), outcomes)


def judged_problems(index: RowIndex, rows_N: Int64, problems: Sequence[ProblemSet]) -> dict[str, JudgedProblem]:
    """Return the tests of the rows' problems, by the rows' name of a problem; those without tests are absent.

    The rows of MBPP spell `mbpp_11` what its problems call Mbpp/11; all other names are the same. DataError where none
    is in any file.
    """
    if len(rows_N) == 0:
        raise DataError(
            f"found no held-out problem in {index.path} with a correct and an incorrect row, expected one at least; "
            "audit a run with another data.valid_file or data.valid_problems_frac, or a larger data.max_tokens"
        )
    with_tests = {problem.task_id: JudgedProblem(problem, each.kind) for each in problems for problem in each.problems}
    names = list(dict.fromkeys(index.problem_names[problem] for problem in index.problem_R[rows_N]))
    found = {name: with_tests[task] for name in names if (task := name.replace("mbpp_", "Mbpp/")) in with_tests}
    if found:
        return found
    files = ", ".join(str(each.path) for each in problems) or "no file at all"
    raise DataError(
        f"found no tests for the {len(names)} held-out problems of {index.path} ({_some(names)}) in "
        f"{files} ({_some(list(with_tests))}), expected problems of the same names; give the file that has them with "
        "--tests FILE"
    )


def likeliest_other(policy: Transformer, tokenizer: CodeTokenizer) -> OtherToken:
    """Return a function that finds the policy's likeliest next token but one, ends of sequence left out."""

    @torch.no_grad()
    def other_token(tokens: tuple[int, ...], but: int) -> int:
        tokens_BT = torch.tensor([tokens], device=policy.tok_embeddings.weight.device)
        logits_V = policy.output(policy.head_hidden(policy.trunk(tokens_BT), 1)[0, -1])[: tokenizer.vocab_size]
        logits_V[[but, tokenizer.bos_id, *tokenizer.end_ids, *tokenizer.row_ends]] = -torch.inf
        return int(logits_V.argmax())

    return other_token


@torch.no_grad()
def values_at(critic: Critic, prefixes: Sequence[Prefix], micro_batch_tokens: int) -> list[float]:
    """Return V of the state after each prefix, in order, by a critic on the CPU."""
    values: list[float] = []
    waiting: list[Prefix] = []
    for prefix in prefixes:
        if waiting and sum(len(each.tokens) + 1 for each in (*waiting, prefix)) > micro_batch_tokens:
            values += _values(critic, waiting)
            waiting = []
        waiting.append(prefix)
    return values + _values(critic, waiting)


def _values(critic: Critic, prefixes: Sequence[Prefix]) -> list[float]:
    """A document needs a token behind its prompt; what it is does not reach the state before it."""
    examples = [
        Example(each.row_id, np.array([*each.tokens, 0], np.int32), each.prompt_tokens, is_correct=False)
        for each in prefixes
    ]
    values_T = critic.values(BatchTensors.from_batch(collate(examples, step=0, micro_step=0), "cpu"))[0]
    ends = np.cumsum([len(each.tokens_T) for each in examples])
    return [float(values_T[end - 2]) for end in ends.tolist()]


def _examples(
    config: RunConfig, index: RowIndex, rows_N: Int64, tests: Mapping[str, JudgedProblem]
) -> dict[str, list[Example]]:
    """Read the rows of problems with tests, by problem; equal rows once."""
    names = [index.problem_names[problem] for problem in index.problem_R[rows_N]]
    kept_N = np.unique(rows_N[[name in tests for name in names]])
    examples: dict[str, list[Example]] = defaultdict(list)
    for batch in batches_of_rows(index, kept_N, config):
        for example in examples_of(batch):
            examples[index.problem_names[index.problem_R[example.row_id]]].append(example)
    return examples


def _judged(prefixes: Sequence[Prefix], values: Sequence[float], outcomes: Sequence[Outcome]) -> list[AuditedPrefix]:
    """Put together what is known of each prefix with a verdict or more."""
    return [
        AuditedPrefix(
            problem=prefix.problem,
            at_edit=prefix.at_edit,
            pair=prefix.pair,
            row_id=prefix.row_id,
            num_tokens=len(prefix.response),
            value=value,
            num_passed=outcome.num_passed,
            num_rollouts=outcome.num_rollouts,
        )
        for prefix, value, outcome in zip(prefixes, values, outcomes, strict=True)
        if outcome.num_rollouts
    ]


def _audit(
    settings: AuditSettings,
    models: AuditedModels,
    num_available: int,
    chosen: Sequence[AuditedProblem],
    prefixes: Sequence[AuditedPrefix],
    outcomes: Sequence[Outcome],
) -> CriticAudit:
    strata = (prefixes, [each for each in prefixes if each.at_edit], [each for each in prefixes if not each.at_edit])
    found = {name: value_agreement(stratum) for name, stratum in zip(STRATA, strata, strict=True)}
    return CriticAudit(
        settings=settings,
        policy=str(models.policy),
        critic=str(models.critic),
        num_available=num_available,
        num_problems=len(chosen),
        num_with_edit=sum(each.has_edit for each in chosen),
        num_not_judged=sum(each.num_not_judged for each in outcomes),
        agreement={name: agreement for name, agreement in found.items() if agreement is not None},
        prefixes=tuple(prefixes),
    )


def _some(names: Sequence[str]) -> str:
    more = ", .." if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "no problem"
