"""What the evaluated answers look like: how the policy was asked, verdicts by kind, empty answers, some to read."""

from collections.abc import Iterator, Sequence

from wmtp_ray.evaluation.judge.verdict import STATUSES
from wmtp_ray.evaluation.results import EMPTY_FRAC_WARNED, EvaluationResults
from wmtp_ray.report.arms import Arm
from wmtp_ray.report.blocks import Block, Listing, Listings, Table, Words

_MOST_SHOWN = 12  # of each data set


def answer_blocks(arms: Sequence[Arm], dataset: str) -> list[Block]:
    """Return a table of the answers of every run on a data set, and a few answers; empty for results without them."""
    found = dict(_evaluated(arms, dataset))
    if not found:
        return []
    blocks: list[Block] = [_table(dataset, found)]
    for name, results in found.items():
        counts = results.answers
        if counts is not None and counts.num_empty > EMPTY_FRAC_WARNED * counts.num_answers:
            text = f"{name}: {counts.num_empty} of {counts.num_answers} answers on {dataset} are empty, so Pass@K says "
            blocks.append(Words(f"{text}little about the policy. Look at samples.jsonl, and try another --format."))
    listings = tuple(each for name, results in found.items() for each in _listings(name, results))
    title = f"Answers on {dataset} as they were judged: the first of each verdict, by run."
    return [*blocks, Listings(title, listings[:_MOST_SHOWN])] if listings else blocks


def _evaluated(arms: Sequence[Arm], dataset: str) -> Iterator[tuple[str, EvaluationResults]]:
    for arm in arms:
        for run in arm.runs:
            results = run.evaluations.get(dataset)
            if results is not None and results.answers is not None:
                yield run.name, results


def _table(dataset: str, found: dict[str, EvaluationResults]) -> Table:
    rows = tuple((name, *_cells(results)) for name, results in found.items())
    caption = (
        f"Answers on {dataset}. Empty: nothing but blanks is left to judge. An error is the judge's failure and does "
        "not count."
    )
    header = ("run", "problems", "answers", "empty", *STATUSES, "format", "chosen")
    return Table(caption, header, rows, text_columns=(0, len(header) - 2, len(header) - 1))


def _cells(results: EvaluationResults) -> tuple[str, ...]:
    assert results.answers is not None
    asked = str(results.identity.get("answers", {}).get("format", "–"))
    counts = (results.answers.num_answers, results.answers.num_empty)
    statuses = (results.verdicts.get(status, 0) for status in STATUSES)
    return (results.num_problems, *map(str, (*counts, *statuses)), asked, results.sources.format_reason or "–")


def _listings(name: str, results: EvaluationResults) -> Iterator[Listing]:
    assert results.answers is not None
    for each in results.answers.examples:
        why = f": {each.detail}" if each.detail else ""
        yield Listing(f"{name}, {each.task_id}, answer {each.sample}: {each.status}{why}", each.text or "(nothing)")
