"""`wmtp report` and `wmtp tracking sync`: what runs have left on record."""

import argparse
from pathlib import Path

from wmtp_ray.cli.ends import DONE, FAILED
from wmtp_ray.cli.verbs import Verbs
from wmtp_ray.config.arguments import CommandParser

SYNC_HELP = "send MLflow what it lacks of a run; a second time there is nothing to send"


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_report(verbs.add_parser("report", help="one HTML file from runs side by side, or from a sweep"))
    tracking = verbs.add_parser("tracking", help="MLflow's copy of runs")
    _add_sync(tracking.add_subparsers(required=True, metavar="ACTION").add_parser("sync", help=SYNC_HELP))


def _add_report(parser: CommandParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs, or of a sweep")
    parser.add_argument("--out", type=Path, help="HTML file to write (report.html in the one folder given)")
    parser.set_defaults(run=_report)


def _add_sync(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, storage/runs/NAME")
    parser.set_defaults(run=_sync)


def _report(arguments: argparse.Namespace) -> None:
    from wmtp_ray.report.write_report import write_report  # a second of templates and statistics

    print(f"{write_report(arguments.folders, arguments.out, arguments.now)}: open it in a browser")


def _sync(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.sync_tracking import sync_tracking

    report = sync_tracking(arguments.folder.absolute())
    print(report.render())
    return FAILED if report.lost.total() else DONE
