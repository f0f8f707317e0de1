"""One parser for all verbs, and the run of one of them."""

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime

from wmtp_ray.cli import critic_verbs, data_verbs, evaluation_verbs, model_verbs, record_verbs, training_verbs
from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.errors import ConfigError
from wmtp_ray.interrupts import say_at_end


def main(argv: Sequence[str] | None = None, *, now: datetime | None = None) -> int:
    """Run one verb; return the exit code (0 done, 2 refused, 1 failed, 130 interrupted)."""
    say_at_end("interrupted: the same command starts again")
    return exit_code_of(lambda: _run(list(sys.argv[1:] if argv is None else argv), now or datetime.now()))


def _run(line: list[str], now: datetime) -> int | None:
    arguments = read(line)
    arguments.now = now
    code: int | None = arguments.run(arguments)
    return code


def read(line: Sequence[str]) -> argparse.Namespace:
    """Read a command line: `run` is the verb's function, `line` all that follows the verb, `words` what no flag takes.

    Raises ConfigError for what no parser knows; for the command line of a run that is left to `arguments_of`.
    """
    parser = build_parser()
    arguments = argparse.Namespace()
    _, rest = parser.parse_known_args(list(line), arguments)
    arguments.line = list(line[1:])
    if getattr(arguments, "takes_run", False):
        arguments.words = rest
    elif hasattr(arguments, "words") and all(_is_setting(word) for word in rest):
        arguments.words = [*arguments.words, *rest]  # behind a flag argparse takes them for unknown
    elif rest:
        verb = f"{parser.prog} {line[0]}"
        raise ConfigError(f"{verb}: found {' '.join(rest)}, which it does not know; {verb} --help shows every form")
    return arguments


def _is_setting(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def build_parser() -> CommandParser:
    """Return the parser of `wmtp`; each group of verbs has added its own."""
    parser = CommandParser(prog="wmtp", description="Weighted multi-token prediction on Ray.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    training_verbs.add_verbs(verbs)
    model_verbs.add_verbs(verbs)
    evaluation_verbs.add_verbs(verbs)
    critic_verbs.add_verbs(verbs)
    record_verbs.add_verbs(verbs)
    data_verbs.add_verbs(verbs)
    return parser
