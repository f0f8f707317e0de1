"""`wmtp`: the verbs of the project. Defines the command line only; each verb is one call into a flow or a layer."""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from wmtp_ray.errors import WmtpError
from wmtp_ray.flows.launch_run import DONE, REFUSED, launch


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (0 done, 2 refused, 1 failed, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["launch"]:
        return launch(words[1:], datetime.now())
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except WmtpError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wmtp", description="Weighted multi-token prediction on Ray.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    verbs.add_parser("launch", help="train: recipe=NAME [preset=NAME] [key=value ...] [--dry-run] [--resume]")
    quickstart = verbs.add_parser("quickstart", help="generated problems, a nano model, the verifiable recipe: minutes")
    quickstart.add_argument("--storage", type=Path, default=Path("storage"), help="where it writes (storage)")
    quickstart.set_defaults(run=_quickstart)
    doctor = verbs.add_parser("doctor", help="would a run work here, does it fit: machine, files, versions, memory")
    doctor.add_argument("words", nargs="*", metavar="key=value", help="as for launch: recipe=NAME preset=NAME ...")
    doctor.set_defaults(run=_doctor)
    export = verbs.add_parser(
        "export", help="a checkpoint of a run to a model directory: shards joined, adapters merged"
    )
    export.add_argument("run", type=Path, help="the run's folder")
    export.add_argument("--step", type=int, help="checkpoint after so many steps (the newest)")
    export.add_argument("--out", type=Path, required=True, help="folder for params.json and model.safetensors")
    export.set_defaults(run=_export)
    data = verbs.add_parser("data", help="look after data files").add_subparsers(required=True, metavar="ACTION")
    _add_index(data.add_parser("index", help="build the index of a JSONL, anew"))
    _add_inspect(data.add_parser("inspect", help="show what is in an indexed JSONL and what a recipe would draw"))
    _add_validate(data.add_parser("validate", help="check splits: labels, repetition, leaks; exit code 2 for errors"))
    return parser


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL in the row schema")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model to count tokens for")
    parser.add_argument("--out", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed lines")
    parser.set_defaults(run=_index)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="JSONL that has an index")
    parser.add_argument("words", nargs="*", metavar="key=value", help="as for launch: recipe=NAME, train.sampling....")
    parser.add_argument("--index", type=Path, help="index file, or a folder for it (beside the JSONL)")
    parser.add_argument("--picture", type=Path, help="also draw it into this PNG")
    parser.set_defaults(run=_inspect)


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="file", help="the splits of one data set, as JSONL")
    parser.add_argument(
        "--benchmark",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="humaneval=FILE or mbpp=FILE: look for its text in the rows; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="also write the findings as JSON")
    parser.set_defaults(run=_validate)


def _quickstart(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.quickstart import quickstart  # seconds of torch and ray: only for this verb

    return quickstart(arguments.storage.absolute(), datetime.now())


def _doctor(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.doctor import doctor

    report = doctor(arguments.words)
    print(report.render())
    return DONE if report.ok else REFUSED


def _export(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.export_policy import export_policy

    sha256 = export_policy(arguments.run.absolute(), arguments.step, arguments.out)
    print(f"{arguments.out}: policy {sha256}")
    return DONE


def _index(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.index_file import index_file

    print(index_file(arguments.file, arguments.tokenizer, arguments.out, arguments.on_error))
    return DONE


def _inspect(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.inspect_data import inspect_data

    text = inspect_data(arguments.file, index_path=arguments.index, words=arguments.words, picture=arguments.picture)
    print(text, end="")
    return DONE


def _validate(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.validate_data import validate_data

    benchmarks = {name: Path(path) for name, _, path in (word.partition("=") for word in arguments.benchmark)}
    report = validate_data(arguments.files, benchmarks=benchmarks, on_progress=_progress("checked"))
    print(report.render(), end="")
    if arguments.json is not None:
        arguments.json.write_text(report.to_json(), encoding="utf-8")
    return REFUSED if report.has_problems else DONE


def _progress(verb: str) -> Callable[[int, int], None] | None:
    """A line that is drawn over itself, where someone looks at it."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else "\r"
        print(f"{verb} {done / max(total, 1):.0%} of {total / 1e9:.2f} GB", end=end, file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    sys.exit(main())
