"""Passages of benchmarks, and finding them in training text: contamination by 13-gram overlap.

A passage is 13 words in a row of a benchmark text (words as in `normal_form.words_of`), or the whole text where it is
shorter. Left out are passages without a letter, since runs of small numbers occur everywhere, and texts of fewer than
5 words. The texts of a task are its prompt and its reference program (in HumanEval the prompt with its solution: many
solutions alone are no more than "return len string"); tests are not compared.

Searching is exact but seldom looks closely: as 13 = 2 * 7 - 1, any 13 words in a row hold a whole block of 7 of the
text's words 0-6, 7-13, 14-20, ..., so a text none of whose blocks occurs in a benchmark shares no passage with it:

    words      0 1 2 3 4 5 6 | 7 8 9 10 11 12 13 | 14 15 ...
    passage            4 5 6   7 8 9 10 11 12 13   14 15 16      holds the block 7-13

A shorter passage has at least 5 = 2 * 3 - 1 words and holds a whole block of 3.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from wmtp_ray.data.validation.normal_form import words_of

PASSAGE_WORDS, BLOCK_WORDS = 13, 7
SHORTEST_WORDS, SHORT_BLOCK_WORDS = 5, 3
assert (PASSAGE_WORDS, SHORTEST_WORDS) == (2 * BLOCK_WORDS - 1, 2 * SHORT_BLOCK_WORDS - 1)

Words = tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkTask:
    """A task and its texts. Results are measured on the test split alone; of MBPP that is half of the tasks."""

    task_id: str
    is_test: bool
    texts: tuple[str, ...]


class Passages:
    """All passages of some benchmark tasks. A passage's number is its place in `words`; `tasks` names its task."""

    def __init__(self, tasks: Iterable[BenchmarkTask]) -> None:
        owners: dict[Words, dict[BenchmarkTask, None]] = {}
        for task in tasks:
            for passage in {passage: None for text in task.texts for passage in _passages_of(words_of(text))}:
                owners.setdefault(passage, {})[task] = None
        self.words: tuple[Words, ...] = tuple(owners)
        self.tasks: tuple[tuple[BenchmarkTask, ...], ...] = tuple(map(tuple, owners.values()))
        self._number_of = {passage: number for number, passage in enumerate(self.words)}
        self._blocks: set[Words] = set()
        self._short_by_block: dict[Words, list[Words]] = {}
        for passage in self.words:
            if len(passage) == PASSAGE_WORDS:
                self._blocks.update(_runs(passage, BLOCK_WORDS))
            else:
                for block in _runs(passage, SHORT_BLOCK_WORDS):
                    self._short_by_block.setdefault(block, []).append(passage)

    def __len__(self) -> int:
        return len(self.words)

    def found_in(self, words: Sequence[str]) -> set[int]:
        """Return the numbers of the passages that occur in these words."""
        found: set[int] = set()
        if not self._blocks.isdisjoint(_blocks_of(words, BLOCK_WORDS)):
            found.update(self._number_of[run] for run in _runs(words, PASSAGE_WORDS) if run in self._number_of)
        short = self._short_by_block.keys() & _blocks_of(words, SHORT_BLOCK_WORDS)
        if short:
            text = _spaced(words)
            candidates = {passage for block in short for passage in self._short_by_block[block]}
            found.update(self._number_of[passage] for passage in candidates if _spaced(passage) in text)
        return found


def _passages_of(words: Sequence[str]) -> Iterator[Words]:
    if len(words) >= SHORTEST_WORDS:
        for passage in _runs(words, min(len(words), PASSAGE_WORDS)):
            if not all(word.isdigit() for word in passage):
                yield passage


def _runs(words: Sequence[str], size: int) -> Iterator[Words]:
    """All runs of `size` words: "a b c d" by 3 -> abc, bcd."""
    return zip(*(words[start:] for start in range(size)), strict=False)


def _blocks_of(words: Sequence[str], size: int) -> Iterator[Words]:
    """Whole blocks of `size` words from the first on: "a b c d e" by 2 -> ab, cd."""
    return zip(*[iter(words)] * size, strict=False)


def _spaced(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "
