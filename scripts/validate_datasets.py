"""Check data sets for wrong labels, repetition and leaks; the splits of each together."""

import argparse
import sys
from pathlib import Path

from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.errors import DataError
from wmtp_ray.flows.data.validate_data import validate_data
from wmtp_ray.interrupts import end_on_signals


def main() -> int:
    """Check each data set's splits together; return the exit code (0 nothing wrong, 2 errors found or refused)."""
    return exit_code_of(_check)


def _check() -> int:
    words = _parser().parse_args()
    benchmarks = {name: Path(path) for name, _, path in (word.partition("=") for word in words.benchmark)}
    has_problems = False
    for place in words.folders:
        report = validate_data(_splits(place, words.dataset_suffix), benchmarks=benchmarks)
        print(f"{place}\n{report.render()}")
        has_problems = has_problems or report.has_problems
    return 2 if has_problems else 0


def _splits(place: Path, suffix: str | None) -> list[Path]:
    """The files of rows, in `processed/` where a converter put them: no problems, small ones only when asked for."""
    folder = place / "processed" if (place / "processed").is_dir() else place
    files = sorted(folder.glob(f"*_{suffix}.jsonl" if suffix else "*.jsonl"))
    files = [path for path in files if suffix or not path.stem.endswith(("problems", "_small"))]
    if not files:
        raise DataError(f"{folder} holds no rows, expected one JSONL a split; name the folder of a data set")
    return files


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset-suffix", metavar="small", help="check train_small.jsonl and its like instead")
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="one folder a data set")
    parser.add_argument(
        "--benchmark", action="append", default=[], metavar="NAME=FILE", help="humaneval=FILE or mbpp=FILE, repeatable"
    )
    return parser


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
