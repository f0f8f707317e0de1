"""Convert code_contests, MBPP or HumanEval, or generate problems: `python scripts/setup_datasets.py --help`."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.data.kept_rows import LANGUAGES
from wmtp_ray.data.list_tasks.flags import add_flags, tasks_of
from wmtp_ray.flows.data import setup_datasets as flow
from wmtp_ray.interrupts import end_on_signals


def main() -> int:
    """Convert what the command line asks for; return the exit code (0 done or nothing to do, 2 refused)."""
    return exit_code_of(_convert)


def _convert() -> None:
    words = _parser().parse_args()
    now = datetime.now()
    if words.dataset == "list_tasks":
        flow.setup_list_tasks(words.out, print, tasks_of(words))
        return
    place = flow.Place(words.source, words.revision, words.out)
    if words.dataset == "humaneval":
        flow.setup_humaneval(place, now, print)
    elif words.dataset == "mbpp":
        rows = flow.RowParameters(words.tokenizer, ("python3",), words.max_tokens)
        flow.setup_mbpp(place, words.variant, rows, now, print)
    else:
        rows = flow.RowParameters(words.tokenizer, tuple(words.languages), words.max_tokens)
        flow.setup_codecontests(place, words.splits, rows, now, print)


def _parser() -> argparse.ArgumentParser:
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--source", required=True, help="folder or file of the data set, or `hub` (needs the extra hf)")
    place.add_argument("--revision", default="main", help="branch, tag or commit on the hub (main)")
    place.add_argument("--out", type=Path, required=True, help="folder, such as storage/datasets_v2/codecontests")
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.model that --max-tokens counts with")
    rows.add_argument("--max-tokens", type=int, default=2048, help="longer rows are dropped (2048)")
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="dataset", required=True)
    codecontests = verbs.add_parser("codecontests", parents=[place, rows])
    codecontests.add_argument("--splits", nargs="+", choices=flow.SPLITS, default=flow.SPLITS, help="all three")
    codecontests.add_argument("--languages", nargs="+", choices=LANGUAGES, default=["python3", "python2"])
    verbs.add_parser("mbpp", parents=[place, rows]).add_argument("--variant", choices=flow.MBPP_FILES, default="full")
    verbs.add_parser("humaneval", parents=[place])
    generated = verbs.add_parser("list_tasks", help="generated problems and programs: needs no source")
    generated.add_argument("--out", type=Path, default=Path("storage/datasets_local_small/list_tasks"))
    add_flags(generated)
    return parser


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
