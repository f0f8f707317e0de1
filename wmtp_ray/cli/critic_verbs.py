"""`wmtp critic audit`: whether a critic knows how likely a prefix is to become a correct program."""

import argparse
from pathlib import Path

from wmtp_ray.cli.verbs import Verbs
from wmtp_ray.config.arguments import CommandParser

AUDIT_HELP = "V of prefixes beside how often the policy's own continuations of them pass"


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    critic = verbs.add_parser("critic", help="what a run's critic knows")
    _add_audit(critic.add_subparsers(required=True, metavar="ACTION").add_parser("audit", help=AUDIT_HELP))


def _add_audit(parser: CommandParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, storage/runs/NAME")
    parser.add_argument("--rollouts", type=int, default=32, help="continuations of each prefix (32)")
    parser.add_argument("--problems", type=int, default=50, help="held-out problems, six prefixes each (50)")
    parser.add_argument("--seed", type=int, help="of prefixes and continuations (the run's)")
    tests = "problems with tests (evaluation.files of the run)"
    parser.add_argument("--tests", type=Path, nargs="+", default=[], metavar="FILE", help=tests)
    parser.set_defaults(run=_audit)


def _audit(arguments: argparse.Namespace) -> None:
    from rich.console import Console

    from wmtp_ray.flows.evaluate.audit_command import audit_command

    print(
        audit_command(
            arguments.folder.absolute(),
            [path.absolute() for path in arguments.tests],
            rollouts=arguments.rollouts,
            problems=arguments.problems,
            seed=arguments.seed,
            console=Console(stderr=True),
        )
    )
