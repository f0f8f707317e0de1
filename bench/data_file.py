"""A JSONL of the size and shape of all of CodeContests, made by seed. Its texts only look like statements and programs.

What is like the real set: the row schema, the order (problem by problem, correct rows first), bytes a row, escapes and
mathematical signs, a heavy-tailed number of rows a problem, task ids, and the shares of contests, difficulties,
ratings, languages and correct rows. What is not: no program runs, and texts repeat, because they are cut at line ends
from a few megabytes of lines that are JSON-encoded once. So it measures readers; nothing can be learned from it.

Suffixes: P problems, N rows of a block, L lines of a pool.
"""

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import orjson

FULL_ROWS = 3_691_981
CORRECT_FRAC = 1_754_404 / 3_691_981
FULL_PROBLEMS = 10_500
ROWS_SPREAD = 1.7  # of the logarithm of a problem's rows: the first hundredth owns a quarter of all rows
BLOCK_ROWS = 8192
POOL_LINES = 20_000
CORRECT_LENGTH_RATIO = 0.93  # correct answers are shorter on average

# Contest: share of problems.
CONTESTS = {"codeforces": 0.52, "aizu": 0.18, "atcoder": 0.13, "hackerearth": 0.10, "codechef": 0.07}
# Language code of the data set: share of rows, mean bytes of a program.
LANGUAGES = {1: (0.047, 480), 2: (0.60, 1280), 3: (0.20, 480), 4: (0.153, 1540)}
STATEMENT_BYTES, EXAMPLE_BYTES = 1820, 120

# {w} in a line stands for a word, {v} for a variable, {i} for an integer; each is drawn anew.
WORDS = ("array", "string", "tree", "graph", "path", "sum", "minimum", "prefix", "digit", "game", "row", "price")
NAMES = ("a", "b", "n", "m", "k", "x", "i", "j", "ans", "res", "cnt", "total", "left", "best", "dp", "seen", "edges")
STATEMENT_LINES = (
    'You are given an {w} of n integers a_1, a_2, …, a_n (1 <= a_i <= 10^9) and a {w} "{w}".\n',
    "For each {w} from {i} to n - 1, find the {w} of the {w}s whose {w} doesn't exceed {i}.\n",
    "Output one integer: the answer modulo 10^9 + 7, that is ⌊{i} / k⌋ ≥ 0.\n",
    "The first line contains two integers n and m (1 ≤ n, m ≤ {i}) - the {w} and the {w}.\n",
    "It is guaranteed that the {w} of all {w}s over all {w}s is at most {i}.\n",
    "\nInput\n\n",
    "\nOutput\n\n",
    "\n\nConstraints\n\n* 1 ≤ N ≤ {i}\n* |S| × {i} ≤ 10^{i}\n",
    "\nExamples\n\nInput\n\n{i}\n{i} {i} {i}\n\n\nOutput\n\n{i}\n\n",
    'In the first example, Vasya moves the {w} −{i} times: "{w}" -> "{w}".\n',
)
PYTHON_LINES = (
    "for {v} in range({v}):\n",
    "    {v} = list(map(int, input().split()))\n",
    "    if {v}[{v}] > {v} and {v} % {i} == 0:\n",
    "        {v} += {v} * {i}\n",
    "    while {v} < len({v}):\n",
    "        {v}.append(({v}, {v} - {i}))\n",
    "\n",
    "def solve({v}, {v}={i}):\n",
    "    return sum({v} for {v} in {v} if {v} != '{w}')\n",
    'print("{w}" if {v} else "NO")\n',
)
CPP_LINES = (
    "#include <bits/stdc++.h>\n",
    "using namespace std;\n",
    "int {v}[{i}], {v};\n",
    "\n",
    "  for (int {v} = 0; {v} < {v}; {v}++) {\n",
    '    scanf("%d %lld", &{v}, &{v}[{v}]);\n',
    "    if ({v}[{v}] <= {v} + {i} && !{v}) continue;\n",
    "      {v} = max({v}, {v}[{v} - 1] + {i}LL);\n",
    "    {v}.push_back(make_pair({v}, {v}));\n",
    "  }\n",
    '  cout << {v} << "\\n";\n',
    "\t\tif ({v} == '{w}') {v} ^= 1 << {v};\r\n",
    "}\n",
    "long long {v}(int {v}, int {v}) { // {w}\n",
)
JAVA_LINES = (
    "import java.util.*;\n",
    "public class Main {\n",
    "    public static void main(String[] args) throws IOException {\n",
    "        Scanner {v} = new Scanner(System.in);\n",
    "        int[] {v} = new int[{i}];\n",
    "        for (int {v} = 0; {v} < {v}.length; {v}++) {\n",
    "            {v}[{v}] = {v}.nextInt() % {i};\n",
    '            System.out.println("{w} " + {v});\n',
    "        }\n",
    "    }\n",
    "\n",
)
EXAMPLE_LINES = ("Input: {i}\n{i} {i} {i} {i}\n\n", "Output: {i} {w}\n\n\n", "Input: {w}\n{i}\n")
PROGRAM_LINES = {1: PYTHON_LINES, 2: CPP_LINES, 3: PYTHON_LINES, 4: JAVA_LINES}


@dataclass(frozen=True)
class LinePool:
    """Lines as they stand inside a JSON string, one behind the other, and where each begins."""

    encoded: bytes
    start_L: np.ndarray

    def cut(self, first_line_N: np.ndarray, num_bytes_N: np.ndarray) -> list[bytes]:
        """Return whole lines from `first_line` on, each time as many as come to about `num_bytes` and at least one."""
        start_N = self.start_L[first_line_N]
        last_N = np.searchsorted(self.start_L, start_N + num_bytes_N)
        end_N = self.start_L[np.clip(last_N, first_line_N + 1, len(self.start_L) - 1)]
        return [self.encoded[start:end] for start, end in zip(start_N.tolist(), end_N.tolist(), strict=True)]

    def draw(self, generator: np.random.Generator, num_bytes_N: np.ndarray) -> list[bytes]:
        """Cut texts of these lengths at random places, not so near the end that they would run out."""
        stop = np.searchsorted(self.start_L, max(1, self.start_L[-1] - num_bytes_N.max(initial=0)))
        return self.cut(generator.integers(0, max(1, stop), len(num_bytes_N)), num_bytes_N)


@dataclass(frozen=True)
class Problem:
    """The parts of a row that all rows of a problem share, JSON-encoded: `head` up to the program, `tail` behind the
    language, and the task id without its solution suffix."""

    head: bytes
    task_id: bytes
    tail: bytes


@dataclass(frozen=True)
class Problems:
    """All problems. Problem p owns the rows [row_start_P[p], row_start_P[p + 1]), its correct ones first."""

    problems: tuple[Problem, ...]
    row_start_P: np.ndarray
    num_correct_P: np.ndarray


def write_rows(path: Path, num_rows: int, seed: int, num_processes: int) -> None:
    """Write the file, whole or not at all; the same bytes for any number of processes."""
    temporary = path.with_suffix(".tmp")
    starts = range(0, num_rows, BLOCK_ROWS)
    with temporary.open("wb") as file, ProcessPoolExecutor(num_processes) as processes:
        waiting: deque[Future[bytes]] = deque()
        for start in starts:
            waiting.append(processes.submit(encode_block, start, num_rows, seed))
            if len(waiting) > 2 * num_processes:  # bounds the memory: the disk may be slower than the processes
                file.write(waiting.popleft().result())
        file.writelines(block.result() for block in waiting)
    temporary.replace(path)


def write_slice(path: Path, whole: Path, num_bytes: int, num_pieces: int = 64) -> None:
    """Copy about `num_bytes` of a JSONL: whole lines, in pieces spread evenly, so that its rows are like all rows."""
    temporary = path.with_suffix(".tmp")
    size = whole.stat().st_size
    with whole.open("rb") as source, temporary.open("wb") as file:
        for piece in range(num_pieces):
            source.seek(size * piece // num_pieces)
            if piece:
                source.readline()
            file.write(source.read(num_bytes // num_pieces) + source.readline())
    temporary.replace(path)


def encode_block(start: int, num_rows: int, seed: int) -> bytes:
    """Return the lines of the rows [start, start + BLOCK_ROWS)."""
    pools, problems = line_pools(seed), draw_problems(num_rows, seed)
    generator = np.random.default_rng([seed, start])
    row_N = np.arange(start, min(start + BLOCK_ROWS, num_rows))
    problem_N = np.searchsorted(problems.row_start_P, row_N, side="right") - 1
    number_N = row_N - problems.row_start_P[problem_N]
    is_correct_N = number_N < problems.num_correct_P[problem_N]
    number_N = np.where(is_correct_N, number_N, number_N - problems.num_correct_P[problem_N])
    language_N = generator.choice(list(LANGUAGES), len(row_N), p=[share for share, _ in LANGUAGES.values()])
    programs = _programs(generator, pools, language_N, is_correct_N)
    columns = (problem_N, number_N, is_correct_N, language_N)
    rows = zip(programs, *(column.tolist() for column in columns), strict=True)
    return b"".join(itertools.chain.from_iterable(_row_parts(problems.problems, *row) for row in rows))


def _row_parts(
    problems: Sequence[Problem], program: bytes, problem: int, number: int, is_correct: bool, language: int
) -> Iterator[bytes]:
    shared = problems[problem]
    suffix = b'_correct_%d", "is_correct": true' if is_correct else b'_incorrect_%d", "is_correct": false'
    yield shared.head
    yield program
    yield b'", "task_id": "' + shared.task_id + suffix % number
    yield b', "metadata": {"source": "code_contests", "language": %d, ' % language
    yield shared.tail


def _programs(
    generator: np.random.Generator, pools: dict[int, LinePool], language_N: np.ndarray, is_correct_N: np.ndarray
) -> list[bytes]:
    programs = np.empty(len(language_N), object)
    for language, (_, mean_bytes) in LANGUAGES.items():
        chosen_N = np.flatnonzero(language_N == language)
        num_bytes_N = _lengths(generator, mean_bytes, len(chosen_N))
        num_bytes_N = np.where(is_correct_N[chosen_N], num_bytes_N * CORRECT_LENGTH_RATIO, num_bytes_N)
        programs[chosen_N] = pools[language].draw(generator, num_bytes_N)
    return list(programs)


def _lengths(generator: np.random.Generator, mean: float, num: int, spread: float = 0.75) -> np.ndarray:
    """Draw lognormal lengths, cut at 20 means."""
    return np.minimum(generator.lognormal(np.log(mean) - spread**2 / 2, spread, num), 20 * mean)


@lru_cache(maxsize=1)
def line_pools(seed: int) -> dict[int, LinePool]:
    """Return the program lines of each language."""
    return {language: _pool(Random(seed + language), lines) for language, lines in PROGRAM_LINES.items()}


def _pool(random: Random, templates: Sequence[str]) -> LinePool:
    lines = [_encoded(_filled(random, random.choice(templates))) for _ in range(POOL_LINES)]
    return LinePool(b"".join(lines), np.cumsum([0, *map(len, lines)]))


def _filled(random: Random, template: str) -> str:
    draws = {"w": lambda: random.choice(WORDS), "v": lambda: random.choice(NAMES), "i": lambda: random.randint(1, 9999)}
    return re.sub(r"\{([wvi])\}", lambda field: str(draws[field[1]]()), template)


def _encoded(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]


@lru_cache(maxsize=1)
def draw_problems(num_rows: int, seed: int) -> Problems:
    """Draw the problems of a file of `num_rows` rows: as many as its share of the full size."""
    num_problems = max(20, round(FULL_PROBLEMS * num_rows / FULL_ROWS))
    generator, random = np.random.default_rng(seed), Random(seed)
    contests = generator.choice(list(CONTESTS), num_problems, p=list(CONTESTS.values())).tolist()
    num_rows_P = _rows_of_problems(generator, num_rows, num_problems)
    always_correct_P = np.array([contest == "codechef" for contest in contests])
    statements = _pool(random, STATEMENT_LINES).draw(generator, _lengths(generator, STATEMENT_BYTES, num_problems, 0.4))
    examples = _pool(random, EXAMPLE_LINES).draw(generator, _lengths(generator, EXAMPLE_BYTES, num_problems, 0.4))
    return Problems(
        problems=tuple(
            _problem(random, number, *parts)
            for number, parts in enumerate(zip(contests, statements, examples, strict=True), start=1)
        ),
        row_start_P=np.concatenate([[0], np.cumsum(num_rows_P)]),
        num_correct_P=_correct_of_problems(generator, num_rows_P, always_correct_P),
    )


def _rows_of_problems(generator: np.random.Generator, num_rows: int, num_problems: int) -> np.ndarray:
    weight_P = generator.lognormal(0.0, ROWS_SPREAD, num_problems)
    num_rows_P = 1 + np.floor(weight_P / weight_P.sum() * (num_rows - num_problems)).astype(np.int64)
    num_rows_P[: num_rows - num_rows_P.sum()] += 1  # what rounding down left over
    return num_rows_P


def _correct_of_problems(
    generator: np.random.Generator, num_rows_P: np.ndarray, always_correct_P: np.ndarray
) -> np.ndarray:
    """Draw every problem's base rate; scaled so that all rows together have CORRECT_FRAC."""
    rate_P = generator.beta(1.8, 2.6, len(num_rows_P))
    given = num_rows_P[always_correct_P].sum()
    drawn = (rate_P * num_rows_P)[~always_correct_P].sum()
    rate_P = np.minimum(rate_P * (CORRECT_FRAC * num_rows_P.sum() - given) / drawn, 1.0)
    return np.where(always_correct_P, num_rows_P, np.rint(rate_P * num_rows_P)).astype(np.int64)


def _problem(random: Random, number: int, contest: str, statement: bytes, example: bytes) -> Problem:
    task_id, difficulty, rating = _identity(random, number, contest)
    rated = f'"cf_rating": {rating}, ' if rating else ""
    return Problem(
        head=b'{"instruction": "' + statement + b'", "input": "' + example + b'", "output": "',
        task_id=_encoded(task_id),
        tail=f'"difficulty": {difficulty}, {rated}"contest": "{contest}", "has_tests": true}}}}\n'.encode(),
    )


def _identity(random: Random, number: int, contest: str) -> tuple[str, int, int]:
    """Task id as the site writes it, the data set's difficulty code, and the rating (0: none)."""
    title = " ".join(random.sample(WORDS, 2)).title()
    if contest == "codeforces":
        letter = min(int(random.expovariate(0.4)), 21)
        rating = 100 * max(8, min(35, round(random.gauss(10 + 4 * letter, 3))))
        return f"{number}_{chr(ord('A') + letter)}. {title}", 7 + letter, rating
    if contest == "codechef":
        return title.replace(" ", "").lower()[:6] + str(number), random.randint(1, 6), 0
    if contest == "hackerearth":
        return f"{title.replace(' ', '-').lower()}-{number}", 0, 0
    return f"p{number:05d} {title}", 0, 0
