"""Small files of problems of every kind, in the forms they come in."""

import json
from pathlib import Path
from typing import Any

from wmtp_ray.data.benchmarks import problem_line, read_mbpp

Record = dict[str, Any]


def write_lines(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def humaneval_record(number: int) -> Record:
    return {
        "task_id": f"HumanEval/{number}",
        "prompt": f'def add_{number}(a):\n    """Add {number}."""\n',
        "entry_point": f"add_{number}",
        "canonical_solution": f"    return a + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }


def mbpp_record(number: int) -> Record:
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"def add_{number}(a):\n  return a + {number}",
        "test_list": [f"assert add_{number}({k}) == {number + k}" for k in range(3)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }


def mbpp_plus_record(number: int) -> Record:
    """As EvalPlus' data set on the hub."""
    return {
        "task_id": number,
        "prompt": f"Write a function to add {number}.",
        "code": f"def add_{number}(a):\n  return a + {number}",
        "source_file": "a notebook",
        "test_imports": [],
        "test_list": [f"assert add_{number}({k}) == {number + k}" for k in range(3)],
        "test": f"inputs = [[0], [1], [2], [-7]]\nresults = [{number}, {number + 1}, {number + 2}, {number - 7}]\n"
        "def assertion(out, exp, atol):\n    assert out == exp\n"
        f"for inp, exp in zip(inputs, results):\n    assertion(add_{number}(*inp), exp, 0)\n",
    }


def instruction_record(number: int) -> Record:
    """As data/list_tasks writes them."""
    return humaneval_record(number) | {"task_id": f"list_{number}", "prompt": f"plus {number}", "difficulty": 1}


def contest_record(name: str, **changes: Any) -> Record:
    """As scripts/setup_datasets.py writes them."""
    return {
        "name": name,
        "description": "Print the sum.",
        "public_tests": [{"input": "1 2\n", "output": "3\n"}],
        "private_tests": [{"input": "4 5\n", "output": "9\n"}],
        "generated_tests": [],
        "time_limit_s": 2.0,
        "memory_limit_bytes": 256 << 20,
        "input_file": None,
        "output_file": None,
        **changes,
    }


def humaneval_file(folder: Path, count: int = 3) -> Path:
    return write_lines(folder / "HumanEval.jsonl", [humaneval_record(number) for number in range(count)])


def mbpp_file(folder: Path) -> Path:
    """Ids 2, 3, 4 for the prompt, 11 and 12 of the test split, 601 of the train split."""
    return write_lines(folder / "mbpp.jsonl", [mbpp_record(number) for number in (2, 3, 4, 11, 12, 601)])


def converted_mbpp_file(folder: Path) -> Path:
    """The same as scripts/setup_datasets.py writes it."""
    path = folder / "problems.jsonl"
    path.write_bytes(b"".join(problem_line(each) + b"\n" for each in read_mbpp([mbpp_file(folder)])))
    return path
