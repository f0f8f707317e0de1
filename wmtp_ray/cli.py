"""`wmtp`: the verbs of the project. Defines the command line only; each verb is one call into a flow or a layer."""

import argparse
import sys
from collections.abc import Sequence
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
    data = verbs.add_parser("data", help="look after data files").add_subparsers(required=True, metavar="ACTION")
    index = data.add_parser("index", help="build the index of a JSONL, anew")
    index.add_argument("file", type=Path, help="JSONL in the row schema")
    index.add_argument("--tokenizer", type=Path, help="tokenizer.model to count tokens for")
    index.add_argument("--out", type=Path, help="index file, or a folder for it (beside the JSONL)")
    index.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="what to do with malformed lines")
    index.set_defaults(run=_index)
    return parser


def _quickstart(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.quickstart import quickstart  # seconds of torch and ray: only for this verb

    return quickstart(arguments.storage.absolute(), datetime.now())


def _index(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.index_file import index_file

    print(index_file(arguments.file, arguments.tokenizer, arguments.out, arguments.on_error))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
