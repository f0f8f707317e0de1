"""`wmtp launch`, `sweep`, `quickstart` and `doctor`: train, or check that training can start."""

import argparse
from pathlib import Path

from wmtp_ray.cli.ends import DONE, REFUSED
from wmtp_ray.cli.verbs import Verbs
from wmtp_ray.config.arguments import PROGRAM, Arguments, CommandParser, add_run_flags, arguments_of
from wmtp_ray.config.layers import config_dirs, layer_names
from wmtp_ray.errors import ConfigError


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    words = "recipe=NAME [preset=NAME] [key=value ...] [--dry-run] [--resume]"
    launch = verbs.add_parser("launch", prog=PROGRAM, help=f"train: {words}")
    _takes_a_run(launch, "One run, or with sweep=NAME many.").set_defaults(run=_launch)
    sweep = verbs.add_parser("sweep", help="many trainings: as for launch, and sweep=NAME [sweep.key=value ...]")
    _takes_a_run(sweep, "Many runs: as for launch, with sweep=NAME among the words.").set_defaults(run=_sweep)
    quickstart = verbs.add_parser(
        "quickstart", help="generated problems, a nano model, three arms compared after equal training: minutes"
    )
    quickstart.add_argument("--storage", type=Path, default=Path("storage"), help="where it writes (storage)")
    quickstart.set_defaults(run=_quickstart)
    doctor = verbs.add_parser("doctor", help="would a run work here, does it fit: machine, files, versions, memory")
    _takes_a_run(doctor, "Would this run work here? recipe=verifiable unless said.").set_defaults(run=_doctor)


def _takes_a_run(parser: CommandParser, description: str) -> CommandParser:
    add_run_flags(parser, description)
    parser.set_defaults(takes_run=True)
    return parser


def _launch(arguments: argparse.Namespace) -> None:
    _start(arguments_of(arguments, arguments.words), arguments)


def _sweep(arguments: argparse.Namespace) -> None:
    asked = arguments_of(arguments, arguments.words)
    if asked.sweep is None:
        names = ", ".join(layer_names("sweep", config_dirs(asked.config_dir)))
        raise ConfigError(f"no sweep was given; expected sweep=NAME, one of {names}, or sweep=FILE.yaml")
    _start(asked, arguments)


def _start(asked: Arguments, arguments: argparse.Namespace) -> None:
    if asked.sweep is not None:
        from wmtp_ray.flows.sweep.run_sweep import sweep

        sweep(asked, arguments.now)
    else:
        from wmtp_ray.flows.run.launch_run import launch

        launch(asked, arguments.now)


def _quickstart(arguments: argparse.Namespace) -> None:
    from wmtp_ray.flows.quickstart import quickstart  # seconds of torch and ray: only for this verb

    quickstart(arguments.storage.absolute(), arguments.now)


def _doctor(arguments: argparse.Namespace) -> int:
    from wmtp_ray.flows.doctor import doctor

    report = doctor(arguments.line)
    print(report.render())
    return DONE if report.ok else REFUSED
