"""`wmtp data index`, `inspect`, `sample` and `validate`: look after data files."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from wmtp_ray.cli.ends import DONE, REFUSED
from wmtp_ray.cli.verbs import Verbs
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.config.dataset_suffix import with_suffix


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    data = verbs.add_parser("data", help="look after data files").add_subparsers(required=True, metavar="ACTION")
    _add_index(data.add_parser("index", help="build the index of a JSONL, anew"))
    _add_inspect(data.add_parser("inspect", help="show what is in an indexed JSONL and what a recipe would draw"))
    _add_sample(data.add_parser("sample", help="a small JSONL of a few problems, out of an indexed large one"))
    _add_validate(data.add_parser("validate", help="check splits: labels, repetition, leaks; exit code 2 for errors"))


def _add_index(parser: CommandParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL in the row schema")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model to count tokens for")
    parser.add_argument("--template", choices=("plain", "chat"), default="plain", help="data.template to count for")
    parser.add_argument("--out", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed lines")
    _add_suffix(parser)
    parser.set_defaults(run=_index)


def _add_inspect(parser: CommandParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL that has an index")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for launch: recipe=NAME, train.sampling....")
    parser.add_argument("--config-dir", metavar="DIR", help="recipes and defaults of your own, as for launch")
    parser.add_argument("--index", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--picture", type=Path, help="also draw it into this PNG")
    parser.add_argument("--json", type=Path, help="also write the counts as JSON")
    _add_suffix(parser)
    parser.set_defaults(run=_inspect)


def _add_sample(parser: CommandParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL that has an index")
    parser.add_argument("--out", type=Path, required=True, help="new JSONL")
    parser.add_argument("--problems", type=int, default=500, help="how many problems, drawn at random (500)")
    parser.add_argument("--rows-per-problem", type=int, default=16, help="at most, half of them correct (16)")
    parser.add_argument("--seed", type=int, default=0, help="which problems and rows (0)")
    parser.set_defaults(run=_sample)


def _add_validate(parser: CommandParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="the splits of one data set, as JSONL")
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="humaneval=FILE or mbpp=FILE: look for its text in the rows; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="also write the findings as JSON")
    _add_suffix(parser)
    parser.set_defaults(run=_validate)


def _add_suffix(parser: CommandParser) -> None:
    parser.add_argument("--dataset-suffix", metavar="small", help="read train_small.jsonl in place of train.jsonl")


def _sibling(path: Path, suffix: str | None) -> Path:
    """Return the file that a verb reads for a path and --dataset-suffix."""
    return path if suffix is None else with_suffix(path.absolute(), suffix, Path("storage").absolute())


def _index(arguments: argparse.Namespace) -> None:
    from wmtp_ray.flows.data.build_index import index_file

    file = _sibling(arguments.file, arguments.dataset_suffix)
    print(index_file(file, arguments.tokenizer, arguments.out, arguments.on_error, arguments.template))


def _inspect(arguments: argparse.Namespace) -> None:
    from wmtp_ray.data.inspect_data import inspect_data

    file = _sibling(arguments.file, arguments.dataset_suffix)
    files = {"picture": arguments.picture, "counts": arguments.json}
    own = [] if arguments.config_dir is None else ["--config-dir", arguments.config_dir]
    text = inspect_data(file, index_path=arguments.index, words=[*arguments.words, *own], **files)
    print(text, end="")


def _sample(arguments: argparse.Namespace) -> None:
    from wmtp_ray.data.sample_data import sample_data

    sizes = {"num_problems": arguments.problems, "rows_per_problem": arguments.rows_per_problem}
    print(sample_data(arguments.file, arguments.out, **sizes, seed=arguments.seed))


def _validate(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.data.validate_data import validate_data

    benchmarks = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.benchmark)}
    files = [_sibling(file, arguments.dataset_suffix) for file in arguments.files]
    report = validate_data(files, benchmarks=benchmarks, on_progress=_progress("checked"))
    print(report.render(), end="")
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return REFUSED if report.has_problems else DONE


def _progress(verb: str) -> Callable[[int, int], None] | None:
    """Redraw one progress line, on a terminal only."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        print(f"{verb} {done / max(total, 1):.0%} of {total / 1e9:.2f} GB", end=end, file=sys.stderr, flush=True)

    return show
