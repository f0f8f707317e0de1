"""`wmtp report`, `wmtp logs` and `wmtp tracking sync`: show or send what saved runs hold."""

import argparse
import os
import sys
from pathlib import Path

from wmtp_ray.cli.ends import DONE, FAILED
from wmtp_ray.cli.verbs import Verbs
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.tracking.log_lines import LEVELS

SYNC_HELP = "send the trackers of a run what they lack; a second time there is nothing to send"


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_report(verbs.add_parser("report", help="one HTML file from runs side by side, or from a sweep"))
    _add_logs(verbs.add_parser("logs", help="what all processes of a run have said, in order of time"))
    tracking = verbs.add_parser("tracking", help="the trackers' copies of runs")
    _add_sync(tracking.add_subparsers(required=True, metavar="ACTION").add_parser("sync", help=SYNC_HELP))


def _add_report(parser: CommandParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs, or of a sweep")
    parser.add_argument("--out", type=Path, help="HTML file to write (report.html in the one folder given)")
    parser.set_defaults(run=_report)


def _add_logs(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, storage/runs/NAME")
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended; Ctrl-C ends it before")
    parser.add_argument("--process", metavar="NAME", help="only of driver, rank_0, critic_0, metrics, ... (all)")
    parser.add_argument("--level", type=str.upper, choices=LEVELS, default="INFO", help="from this level on (INFO)")
    parser.set_defaults(run=_logs)


def _add_sync(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, storage/runs/NAME")
    parser.set_defaults(run=_sync)


def _report(arguments: argparse.Namespace) -> None:
    from wmtp_ray.report.write_report import write_report  # a second of templates and statistics

    print(f"{write_report(arguments.folders, arguments.out, arguments.now)}: open it in a browser")


def _logs(arguments: argparse.Namespace) -> None:
    from wmtp_ray.tracking.show_logs import WantedLines, show_logs

    wanted = WantedLines(arguments.process, arguments.level)
    try:
        show_logs(arguments.folder.absolute(), wanted, follow=arguments.follow)
    except BrokenPipeError:  # `wmtp logs RUN | head`: nobody reads on; Python would find out once more as it leaves
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sync(arguments: argparse.Namespace) -> int:
    from wmtp_ray.tracking.sync_tracking import sync_tracking

    code = DONE
    for report in sync_tracking(arguments.folder.absolute()):
        print(report.render())
        code = code if report.is_whole else FAILED
    return code
