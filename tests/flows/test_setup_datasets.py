"""From a public data set to a folder that a run can read: what is written, what is left alone, what is refused."""

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pyarrow.parquet as pq
import pytest
import ray

from tests.code_contests import CPP, PYTHON_2, PYTHON_3, record_of, solutions_of, write_parquet
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.schema import ClusterConfig
from wmtp_ray.data.index import load_index
from wmtp_ray.data.rows import parse_row, problem_of
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.setup_datasets import Place, RowParameters, setup_codecontests, setup_humaneval, setup_mbpp

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "setup_datasets.py"
NOW = datetime(2026, 1, 2, 3, 4, 5)
NUM_PROBLEMS = 24
SOLUTIONS_EACH = 60


# A conversion whose driver dies, without any warning, once it hears of its third part.
KILLED_DRIVER = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from wmtp_ray.flows.data.setup_datasets import Place, RowParameters, setup_codecontests

source, tokenizer, out = sys.argv[1:]
rows = RowParameters(Path(tokenizer), ("python3", "python2"), 500)
say = lambda line: os.kill(os.getpid(), signal.SIGKILL) if line.startswith("3 of ") else None
setup_codecontests(Place(source, "main", Path(out)), ["train"], rows, datetime(2026, 1, 2), say)
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(["print(int(input()) + 1)\n", "### Instruction:\nSolve p.\n"] * 9, path, 300)
    return path


def contest_records() -> list[dict[str, Any]]:
    """Problems with solutions in three languages, some empty, some too long; the last has none that is incorrect."""
    programs = [(PYTHON_3, f"print({n} + int(input()))\n") for n in range(SOLUTIONS_EACH)]
    oddities = [(CPP, "int main() {}"), (PYTHON_2, "print 1"), (PYTHON_3, "\n"), (PYTHON_3, "x = 1\n" * 400)]
    solutions = solutions_of(*programs, *oddities)
    records = [record_of(f"{n}_Ж. Name_{n}", solutions=solutions) for n in range(NUM_PROBLEMS - 1)]
    return [*records, record_of("last", source=1, incorrect_solutions=solutions_of())]


def write_source(root: Path, num_files: int, row_group_size: int) -> Path:
    records = contest_records()
    size = NUM_PROBLEMS // num_files
    for n in range(num_files):
        name = f"data/train-{n:05d}-of-{num_files:05d}-abc.parquet"
        write_parquet(root / name, records[n * size : (n + 1) * size], row_group_size)
    write_parquet(root / "data" / "valid-00000-of-00001-abc.parquet", records[:2])
    return root


class Conversion:
    """One folder being converted, and what was said."""

    def __init__(self, out: Path, tokenizer: Path) -> None:
        self.out = out
        self.tokenizer = tokenizer
        self.said: list[str] = []

    def codecontests(self, source: Path, *splits: str, max_tokens: int = 500) -> None:
        rows = RowParameters(self.tokenizer, ("python3", "python2"), max_tokens)
        self.said = []
        setup_codecontests(Place(str(source), "main", self.out), splits, rows, NOW, self.said.append)

    def mbpp(self, source: Path, *, max_tokens: int = 500) -> None:
        rows = RowParameters(self.tokenizer, ("python3",), max_tokens)
        self.said = []
        setup_mbpp(Place(str(source), "main", self.out), "full", rows, NOW, self.said.append)

    def humaneval(self, source: Path) -> None:
        self.said = []
        setup_humaneval(Place(str(source), "main", self.out), NOW, self.said.append)

    @property
    def manifest(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.out / "manifest.json").read_bytes())
        return content

    @property
    def content(self) -> dict[str, bytes]:
        """The files of the splits; what is made of them stands apart."""
        found = sorted((self.out / "processed").iterdir())
        return {path.name: path.read_bytes() for path in found if not path.stem.endswith(("_small", ".index"))}

    @property
    def derived(self) -> dict[str, bytes]:
        return {name: (self.out / name).read_bytes() for name in self.manifest["files"]}

    def small(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "processed" / name).read_bytes().splitlines()]

    @property
    def did_nothing(self) -> bool:
        return len(self.said) == 1 and "nothing to do" in self.said[0]

    def assert_manifest_is_true(self, root: Path, split: str) -> None:
        record = self.manifest["splits"][split]
        for base, files in ((self.out, record["files"]), (root, record["source"]["files"])):
            for name, digest in files.items():
                path = base / name
                assert (digest["sha256"], digest["num_bytes"]) == (file_sha256(path), path.stat().st_size)


@pytest.fixture
def conversion(tmp_path: Path, tokenizer: Path) -> Conversion:
    return Conversion(tmp_path / "out", tokenizer)


def first_page_of(path: Path, column: str) -> int:
    """Return where in a Parquet file a column's first page begins."""
    group = pq.read_metadata(path).row_group(0)
    chunks = (group.column(number) for number in range(group.num_columns))
    chunk = next(each for each in chunks if each.path_in_schema.startswith(f"{column}."))
    return chunk.dictionary_page_offset or chunk.data_page_offset


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_the_bytes_do_not_depend_on_files_row_groups_or_a_conversion_that_broke_off(
    cluster: ClusterConfig, tmp_path: Path, tokenizer: Path
) -> None:
    whole, parts = write_source(tmp_path / "one", 1, 100), write_source(tmp_path / "many", 4, 2)
    one = Conversion(tmp_path / "out_one", tokenizer)
    one.codecontests(whole, "train", "valid")
    one.assert_manifest_is_true(whole, "train")
    assert_counts_are_true(one)

    many = Conversion(tmp_path / "out_many", tokenizer)
    last = parts / "data" / "train-00003-of-00004-abc.parquet"
    sound = last.read_bytes()
    page = first_page_of(last, "solutions")  # names are read before anything is converted; the footer is sound, too
    last.write_bytes(sound[:page] + bytes(90) + sound[page + 90 :])
    with pytest.raises(DataError, match=f"{last.name}: found a torn or foreign file"):
        many.codecontests(parts, "train", "valid")
    assert not (many.out / "manifest.json").exists()
    assert list((many.out / "parts").glob("*.receipt.json")) != []

    last.write_bytes(sound)
    many.codecontests(parts, "train", "valid")
    assert any(": kept train" in line for line in many.said)
    assert many.content == one.content
    assert many.derived == one.derived
    assert_derived_files_are_true(one)
    assert not (many.out / "parts").exists()
    many.codecontests(parts, "valid", "train")
    assert many.did_nothing


def assert_derived_files_are_true(conversion: Conversion) -> None:
    """Small versions, statistics, schema and a counted index, as the manifest lists them."""
    stats = [f"stats/{split}.{kind}" for split in ("train", "valid") for kind in ("json", "png")]
    small = [f"processed/{name}_small.jsonl" for name in ("train", "validation")]
    assert sorted(conversion.derived) == sorted([*small, *stats, "schema.json"])
    train, valid = (conversion.small(f"{name}_small.jsonl") for name in ("train", "validation"))
    assert len(train) == 100
    assert len(valid) == 0 < len(train) or len(valid) <= 32
    assert {row["is_correct"] for row in train} == {True, False}
    assert len({problem_of(row["task_id"]) for row in train}) > 10
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in valid}
    lines = set(conversion.content["train.jsonl"].splitlines())
    assert {orjson.dumps(row) for row in train} <= lines, "copied as they are"
    validator = jsonschema.Draft202012Validator(json.loads(conversion.derived["schema.json"]))
    assert all(validator.is_valid(row) for row in [*train, *valid])
    counts = json.loads(conversion.derived["stats/train.json"])
    assert counts["num_rows"] == conversion.manifest["splits"]["train"]["counts"]["rows"]
    assert counts["lengths"]["unit"] == "tokens"
    index = load_index(conversion.out / "processed" / "train.jsonl")
    assert index.tokenizer_hash == conversion.manifest["conversion"]["tokenizer_sha256"]


def assert_counts_are_true(conversion: Conversion) -> None:
    """Count the rows again from the file, the dropped ones from how the source was made."""
    record = conversion.manifest["splits"]["train"]["counts"]
    lines = conversion.content["train.jsonl"].splitlines()
    rows = [parse_row(line, n, Path("train.jsonl")) for n, line in enumerate(lines, start=1)]
    names = [json.loads(line)["name"] for line in conversion.content["train_problems.jsonl"].splitlines()]
    assert list(dict.fromkeys(problem_of(row.task_id) for row in rows)) == names
    assert (record["problems"], record["rows"]) == (NUM_PROBLEMS, len(rows)) == (len(names), record["rows"])
    assert record["correct_rows"] == sum(row.is_correct for row in rows)
    assert record["incorrect_rows"] == sum(not row.is_correct for row in rows) == NUM_PROBLEMS - 1
    assert record["dropped"] == dict.fromkeys(("empty", "language", "too_long"), NUM_PROBLEMS - 1)
    assert record["rows_by_contest"] == {"codechef": 1, "codeforces": len(rows) - 1}
    assert record["rows_by_language"] == {"python2": NUM_PROBLEMS - 1, "python3": len(rows) - NUM_PROBLEMS + 1}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_conversion_goes_on_where_it_was(cluster: ClusterConfig, tmp_path: Path, tokenizer: Path) -> None:
    source = write_source(tmp_path / "source", 1, 1)
    uninterrupted, killed = (Conversion(tmp_path / name, tokenizer) for name in ("uninterrupted", "killed"))
    uninterrupted.codecontests(source, "train")
    words = [str(source), str(tokenizer), str(killed.out)]
    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(SCRIPT.parents[1])}
    driver = subprocess.run([sys.executable, "-c", KILLED_DRIVER, *words], env=environment, capture_output=True)
    assert driver.returncode == -signal.SIGKILL, driver.stderr.decode()
    assert not (killed.out / "manifest.json").exists()
    killed.codecontests(source, "train")
    assert sum(": kept train" in line for line in killed.said) >= 3
    assert killed.content == uninterrupted.content
    assert killed.manifest == uninterrupted.manifest


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_folder_gets_its_splits_one_by_one_and_only_what_changed_is_converted(
    cluster: ClusterConfig, tmp_path: Path, conversion: Conversion
) -> None:
    source = write_source(tmp_path / "source", 1, 100)
    conversion.codecontests(source, "valid")
    valid = conversion.content["valid.jsonl"]
    conversion.codecontests(source, "train", "valid")
    assert sorted(conversion.manifest["splits"]) == ["train", "valid"]
    assert not any("valid" in line for line in conversion.said if "parts:" in line)
    (conversion.out / "processed" / "valid.jsonl").write_bytes(valid[:-1])
    conversion.codecontests(source, "train", "valid")
    assert conversion.content["valid.jsonl"] == valid
    write_parquet(source / "data" / "valid-00000-of-00001-abc.parquet", [record_of("another")])
    conversion.codecontests(source, "train", "valid")
    assert conversion.manifest["splits"]["valid"]["counts"]["rows"] == 2
    with pytest.raises(DataError, match=r"max_tokens 500 there, 400 asked for.*--out"):
        conversion.codecontests(source, "train", max_tokens=400)


MBPP = [
    {
        "text": "Write a function to double a number.",
        "code": "def double(x):\r\n    return x + x" + " # long" * (200 if number == 700 else 0),
        "task_id": number,
        "test_setup_code": "",
        "test_list": ["assert double(2) == 4"],
        "challenge_test_list": [],
    }
    for number in (2, 11, 510, 601, 700, 974)
]


def test_mbpp_gives_problems_of_every_split_and_rows_of_train_alone(tmp_path: Path, conversion: Conversion) -> None:
    source = tmp_path / "mbpp.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in MBPP), "utf-8")
    conversion.mbpp(source)
    assert sorted(conversion.content) == ["problems.jsonl", "train.jsonl"]
    rows = [json.loads(line) for line in conversion.content["train.jsonl"].splitlines()]
    assert [row["task_id"] for row in rows] == ["mbpp_601_correct_0", "mbpp_974_correct_0"]
    counts = conversion.manifest["splits"]["all"]["counts"]
    assert (counts["problems"], counts["problems_without_rows"], counts["rows"]) == (6, 4, 2)
    assert counts["dropped"] == {"too_long": 1}
    assert [row["task_id"] for row in conversion.small("train_small.jsonl")] == [row["task_id"] for row in rows]
    assert not (conversion.out / "processed" / "validation_small.jsonl").exists(), "no problem is left for it"
    assert (conversion.manifest["conversion"]["licence"], conversion.manifest["updated"]) == (
        "CC BY 4.0",
        "2026-01-02T03:04:05",
    )
    conversion.assert_manifest_is_true(tmp_path, "all")

    conversion.mbpp(tmp_path)  # the folder around the same file
    assert conversion.did_nothing
    before = conversion.derived
    (conversion.out / "processed" / "train_small.jsonl").unlink()
    (conversion.out / "stats" / "train.json").write_text("{}")
    conversion.mbpp(source)
    assert conversion.derived == before, "what is missing or changed is made again"
    with pytest.raises(DataError, match="max_tokens 500 there, 9 asked for"):
        conversion.mbpp(source, max_tokens=9)
    with pytest.raises(
        DataError, match="dataset google-research-datasets/mbpp there, openai/openai_humaneval asked for"
    ):
        conversion.humaneval(write_humaneval(tmp_path))


def write_humaneval(root: Path) -> Path:
    record = {
        "task_id": "HumanEval/0",
        "prompt": "def add(a, b):\n",
        "entry_point": "add",
        "canonical_solution": "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    path = root / "HumanEval.jsonl"
    path.write_text(json.dumps(record) + "\n", "utf-8")
    return path


def test_humaneval_gives_problems_and_mends_a_damaged_file(tmp_path: Path, conversion: Conversion) -> None:
    source = write_humaneval(tmp_path)
    conversion.humaneval(source)
    before = conversion.content
    assert list(before) == ["problems.jsonl"]
    assert conversion.manifest["conversion"]["licence"] == "MIT"
    (conversion.out / "processed" / "problems.jsonl").unlink()
    conversion.humaneval(source)
    assert conversion.content == before
    (conversion.out / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json: the field conversion is missing; delete it"):
        conversion.humaneval(source)


def test_the_script_refuses_with_exit_code_2_and_one_message(tmp_path: Path, tokenizer: Path) -> None:
    words = ["codecontests", "--source", str(tmp_path), "--tokenizer", str(tokenizer), "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: found no files, expected data/train-*.parquet")
    assert "Traceback" not in done.stderr
