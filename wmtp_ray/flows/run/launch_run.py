"""A command line to an exit code: load, refuse early, print the plan or run it. Imports torch and ray only to run."""

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from importlib import import_module

from wmtp_ray.config.load import USAGE, check_files, dump_config, load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError, Interrupted, WmtpError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.run.prepare import Prepared, planning_takes_long, prepare
from wmtp_ray.interrupts import INTERRUPTED, undone_at_end
from wmtp_ray.preflight.run_directory import (
    check_plans,
    check_run_directory,
    claim_run_directory,
    release_run_directory,
)
from wmtp_ray.preflight.start_checks import StartCheck, refusals, require_start, start_checks

# Seconds of imports while Ray starts its processes; none of them imports Ray, as the main thread does.
_LIBRARIES = ("torch", "torch.distributed.tensor", "pandas", "pyarrow")

DONE, FAILED, REFUSED = 0, 1, 2


def launch(argv: Sequence[str], now: datetime) -> int:
    """Do what `argv` asks; every mistake of the user ends here as one message."""
    try:
        arguments = parse_arguments(argv)
        if arguments.show_help:
            print(USAGE)
            return DONE
        if arguments.sweep is not None:
            from wmtp_ray.flows.sweep.sweep import sweep  # it imports this module's exit codes

            return sweep(arguments, now)
        config = load_config(arguments, now=now)
        check_run_directory(config, resume=arguments.resume)  # before the minutes that an index can take
        check_files(config)
        checks = start_checks(config)
        if not arguments.dry_run and planning_takes_long(config):
            require_start(checks)
        prepared = prepare(config)
        check_plans(config, prepared.plans)
        if arguments.dry_run:
            print(f"{dump_config(config)}\n{prepared.rendered}", flush=True)
            return say_refusals(checks)
        require_start(checks)
        with undone_at_end(lambda: _left(config)):
            claim_run_directory(config)
            return _run(config, prepared)
    except WmtpError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED


def say_refusals(checks: Sequence[StartCheck]) -> int:
    """Say, at the end of a dry run, why a run could not start on this machine; return the exit code."""
    found = refusals(checks)
    for text in found:
        print(f"error: a run cannot start here: {text}", file=sys.stderr)
    return REFUSED if found else DONE


def _run(config: RunConfig, prepared: Prepared) -> int:
    print(prepared.rendered, flush=True)
    # Not a daemon: the end of this process, whatever its reason, does not come in the middle of an import.
    loading = threading.Thread(target=_load_libraries, name="load-libraries")
    loading.start()
    try:
        with joined(config.cluster.num_cpus):
            loading.join()
            from wmtp_ray.flows.run.run_stages import run_stages

            result = run_stages(config, prepared)
    except (Interrupted, KeyboardInterrupt) as stop:
        print(_left(config, str(stop)), file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        release_run_directory(config)
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except WmtpError as error:
        print(f"failed: {error}", file=sys.stderr)
        return FAILED
    for warning in result.warnings:
        print(f"warning: {warning}")
    print(f"done: {result.steps} steps, policy {result.policy_sha256}; everything is in {config.run_dir}")
    return DONE


def _left(config: RunConfig, reason: str = "") -> str:
    """Give up the folder of a run that has trained nothing; say how to go on."""
    release_run_directory(config)
    if not config.run_dir.exists():
        return "interrupted: nothing was trained; the same command starts again"
    reason = reason or "the run was cut short"
    return f"interrupted: {reason}; continue with run_name={config.run_name} --resume"


def _load_libraries() -> None:
    with suppress(Exception):  # whatever is wrong is said where it is imported to be used
        for name in _LIBRARIES:
            import_module(name)
