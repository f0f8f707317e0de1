"""The stream at work: how soon the first batch comes, how soon after a resume, and what a long run costs in memory.

    python bench/stream.py [--rows 200000] [--data FILE --tokenizer MODEL] [--out bench/results/stream.txt]

Without --data a file is generated: problems with a statement and some hundred programs each, with the lengths of
CodeContests rows. It is indexed, its tokens are counted (in this process and through Ray), and one rank streams every
row of it in random order. Seconds are those of the machine as busy as it is (its load is printed); what holds anywhere
is that memory stays flat, and that the start does not depend on the number of rows. The empty execution beside a first
batch hands on one number in the same process: the floor that Ray Data sets.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import ray

from actors.rank_stream import RankStream
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import build_index, count_tokens
from wmtp_ray.data.tokenizer import CodeTokenizer, render_prompt
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.data.count_tokens import write_counted
from wmtp_ray.plan.run_plan import PlannedBatch

STEP_ROWS = 64
WORDS = [
    "the",
    "of",
    "number",
    "integer",
    "array",
    "each",
    "line",
    "print",
    "output",
    "input",
    "between",
    "such",
    "that",
]
CODE = ["for i in range(n):", "    a = list(map(int, input().split()))", "    if a[i] > x:", "        x += a[i] % 7"]
CODE += ["def solve(n, k):", "    return n * k - 1", "while lo < hi:", "print(x)", "n, k = map(int, input().split())"]


def generate(path: Path, num_rows: int) -> None:
    """Write rows of CodeContests' shape: statements of some 1,400 bytes, programs of some 900, log-normal."""
    draw = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        written = problem = 0
        while written < num_rows:
            statement = " ".join(draw.choice(WORDS, int(draw.lognormal(5.4, 0.5))))
            for solution in range(min(int(draw.lognormal(5.5, 0.8)) + 1, num_rows - written)):
                program = "\n".join(draw.choice(CODE, int(draw.lognormal(3.3, 0.7)) + 1))
                correct = bool(draw.random() < 0.475)
                row = {
                    "instruction": statement,
                    "input": "Input: 3\n1 2 3\nOutput: 6",
                    "output": f"{program}\nprint({solution})",
                    "task_id": f"{problem}_{'correct' if correct else 'incorrect'}_{solution}",
                    "is_correct": correct,
                    "metadata": {"source": "generated", "difficulty": 1, "has_tests": True},
                }
                file.write(json.dumps(row) + "\n")
                written += 1
            problem += 1


def tokenizer_for(path: Path, rows: Path) -> Path:
    """Train a tokenizer of LLaMA's kind on the first rows: a newline is a piece of its own."""
    with rows.open(encoding="utf-8") as file:
        records = [json.loads(line) for line, _ in zip(file, range(300), strict=False)]
    texts = [render_prompt(record["instruction"], record["input"]) + record["output"] for record in records]
    train_tokenizer(texts, path, 500, user_defined_symbols=("\n",))
    return path


def planned_steps(row_ids: np.ndarray, first_step: int = 0) -> Iterator[PlannedBatch]:
    """Yield one micro-batch a step."""
    for step in range(first_step, len(row_ids) // STEP_ROWS):
        yield PlannedBatch(step, 0, row_ids[step * STEP_ROWS : (step + 1) * STEP_ROWS])


class NewRank:
    """A process that starts streaming once, like a rank after its imports."""

    def seconds_to_first_step(
        self, index: RowIndex, tokenizer_path: Path, row_ids: np.ndarray, first_step: int, rows_per_block: int
    ) -> tuple[float, float]:
        """Time an empty execution, then a stream's first step."""
        seconds_of_empty_execution()  # what Ray Data imports and starts once a process
        floor_s = seconds_of_empty_execution()
        start = time.perf_counter()
        planned = planned_steps(row_ids, first_step)
        stream = RankStream(
            planned, index, tokenizer_path, rows_per_block=rows_per_block, deadline_s=300.0, run_dir=None
        )
        [batch] = next(stream)
        seconds = time.perf_counter() - start
        assert batch.row_ids_M.tolist() == row_ids[first_step * STEP_ROWS :][:STEP_ROWS].tolist()
        return seconds, floor_s


class Bench:
    """The file, its index and one order of its rows."""

    def __init__(self, index: RowIndex, tokenizer: CodeTokenizer, rows_per_block: int) -> None:
        self.index, self.tokenizer, self.rows_per_block = index, tokenizer, rows_per_block
        self.row_ids = np.random.default_rng(0).permutation(len(index)).astype(np.int64)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)

    def stream(self, rows_per_block: int) -> RankStream:
        planned, path = planned_steps(self.row_ids), self.tokenizer.model_path
        return RankStream(planned, self.index, path, rows_per_block=rows_per_block, deadline_s=300.0, run_dir=None)

    def starts(self) -> None:
        """First batch of a new rank, from the plan's start and from its middle."""
        middle, index = len(self.row_ids) // STEP_ROWS // 2, ray.put(self.index)
        measured: dict[str, list[tuple[float, float]]] = {"first batch": [], "resumed in the middle": []}
        for name, step in list(zip(measured, (0, middle), strict=True)) * 3:
            rank = ray.remote(NewRank).options(num_cpus=0.1).remote()
            arguments = (index, self.tokenizer.model_path, self.row_ids, step, self.rows_per_block)
            measured[name].append(ray.get(rank.seconds_to_first_step.remote(*arguments)))
            ray.kill(rank)
        for name, pairs in measured.items():
            ours, floor = zip(*pairs, strict=True)
            text = f"{min(ours):.2f} to {max(ours):.2f} s (an empty execution {min(floor):.2f} to {max(floor):.2f})"
            self.say(f"{name + ' of a new rank':34s} {text}")

    def whole(self) -> None:
        """Stream everything as fast as it comes."""
        process, num_steps = psutil.Process(), len(self.row_ids) // STEP_ROWS
        tenths = {num_steps * tenth // 10 - 1: tenth for tenth in range(1, 11)}
        start = time.perf_counter()
        self.say("rows        private MB  RSS MB  object store MB, at most")
        for step, batches in enumerate(self.stream(self.rows_per_block)):
            assert batches[0].row_ids_M.tolist() == self.row_ids[step * STEP_ROWS : (step + 1) * STEP_ROWS].tolist()
            if step in tenths:
                memory, rows = process.memory_info(), (step + 1) * STEP_ROWS
                private, rss = (memory.rss - memory.shared) >> 20, memory.rss >> 20
                self.say(f"{rows:9,}   {private:10}  {rss:6}  {object_store_bytes() >> 20:15}")
        rows_per_s = num_steps * STEP_ROWS / (time.perf_counter() - start)
        self.say(f"{rows_per_s:,.0f} rows/s, in the planned order")

    def paced(self, rows_per_s: float, seconds: float) -> None:
        """Take steps at a policy's pace: the share of the time that it waits for data after its first step.

        In small blocks, so that some chapters (64 blocks) end meanwhile.
        """
        stream = self.stream(rows_per_block=64)
        next(stream)
        start, first_wait_s = time.perf_counter(), stream.waited_s
        while time.perf_counter() - start < seconds:
            time.sleep(STEP_ROWS / rows_per_s)
            next(stream)
        share = (stream.waited_s - first_wait_s) / (time.perf_counter() - start)
        waits = f"waits {100 * share:.2f} % of its time"
        self.say(f"a policy of {rows_per_s:,.0f} rows/s {waits} (64 rows a block, {seconds:.0f} s)")


def seconds_of_empty_execution() -> float:
    """Time the first block of an execution that hands on one number."""
    start = time.perf_counter()
    same = ray.data.from_arrow(pa.table({"n": [1]})).map_batches(_same, batch_format="pyarrow", num_cpus=0.1)
    next(iter(same.iter_batches(batch_size=None)))
    return time.perf_counter() - start


def _same(table: pa.Table) -> pa.Table:
    return table


def object_store_bytes() -> int:
    """The most that the object store of this machine has held so far: what its file takes up (Linux)."""
    [raylet] = [child for child in psutil.Process().children(recursive=True) if child.name() == "raylet"]
    files = Path(f"/proc/{raylet.pid}/fd").iterdir()
    return sum(file.stat().st_blocks * 512 for file in files if "plasma" in str(file.readlink()))


def main() -> None:
    """Generate, index, count, stream; print and save what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--data", type=Path, help="rows of your own, instead of generated ones")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model for --data")
    parser.add_argument("--rows-per-block", type=int, default=512, help="data.read_ahead_rows")
    parser.add_argument("--pace", type=float, default=500.0, help="rows/s of the policy that is imitated")
    parser.add_argument("--out", type=Path, help="file to save the output in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = arguments.data or Path(folder) / "rows.jsonl"
        if arguments.data is None:
            generate(rows, arguments.rows)
        tokenizer = CodeTokenizer(arguments.tokenizer or tokenizer_for(Path(folder) / "tokenizer.model", rows))
        lines = measure(rows, tokenizer, arguments.rows_per_block, arguments.pace, Path(folder))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(rows: Path, tokenizer: CodeTokenizer, rows_per_block: int, pace: float, folder: Path) -> list[str]:
    """Measure everything about one file."""
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    built = build_index(rows, on_error="fail")
    start = time.perf_counter()
    index = count_tokens(built.index, tokenizer)
    count_s = time.perf_counter() - start
    bench = Bench(index, tokenizer, rows_per_block)
    bench.say(f"{os.cpu_count()} cores, {load}; Ray {ray.__version__}; {rows_per_block} rows a block")
    bench.say(f"{len(index):,} rows, {rows.stat().st_size >> 20:,} MB, {index.num_tokens_R.mean():.0f} tokens a row")
    with joined(None):
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        start = time.perf_counter()
        counted = write_counted(built, tokenizer, folder / "rows.index.parquet", num_cpus=None)
        parallel_s = time.perf_counter() - start
        assert np.array_equal(counted.index.num_tokens_R, index.num_tokens_R)
        speeds = [len(index) / seconds for seconds in (count_s, parallel_s)]
        bench.say(f"counting: {speeds[0]:,.0f} rows/s in one process, {speeds[1]:,.0f} through Ray, its start included")
        bench.starts()
        bench.whole()
        bench.paced(pace, 60.0)
    return bench.lines


if __name__ == "__main__":
    main()
