"""A run from its command to its end: load, refuse early, print the plan or train. Imports torch and ray only to run."""

import threading
from contextlib import suppress
from datetime import datetime
from importlib import import_module

from wmtp_ray.config.load import Arguments, check_files, dump_config, load_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ConfigError, Failed, Interrupted, WmtpError
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.run.prepare import Prepared, planning_takes_long, prepare
from wmtp_ray.interrupts import undone_at_end
from wmtp_ray.preflight.run_directory import (
    check_plans,
    check_run_directory,
    claim_run_directory,
    release_run_directory,
)
from wmtp_ray.preflight.start_checks import require_start, start_checks
from wmtp_ray.tracking.run_warnings import show_warnings

# Seconds of imports while Ray starts its processes; none of them imports Ray, as the main thread does.
_LIBRARIES = ("torch", "torch.distributed.tensor", "pandas", "pyarrow")


def launch(arguments: Arguments, now: datetime) -> None:
    """Plan the run that a command asks for and, unless it is a dry run, train it; with rounds.count, round by round.

    Raises WmtpError before anything is begun, Failed after that, Interrupted after a stop.
    """
    config = load_config(arguments, now=now)
    if config.rounds.count is not None:
        from wmtp_ray.flows.run.launch_rounds import launch_rounds  # with the decoder and the judge: torch

        launch_rounds(config, resume=arguments.resume, dry_run=arguments.dry_run)
        return
    check_run_directory(config, resume=arguments.resume)  # before the minutes that an index can take
    check_files(config)
    checks = start_checks(config)
    if not arguments.dry_run and planning_takes_long(config):
        require_start(checks)
    prepared = prepare(config)
    check_plans(config, prepared.plans)
    if arguments.dry_run:
        print(f"{dump_config(config)}\n{prepared.rendered}", flush=True)
    require_start(checks)
    if arguments.dry_run:
        return
    with undone_at_end(lambda: f"interrupted: {_left(config)}"):
        claim_run_directory(config)
        _run(config, prepared)


def _run(config: RunConfig, prepared: Prepared) -> None:
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
        raise Interrupted(_left(config, str(stop))) from stop
    except ConfigError:
        release_run_directory(config)
        raise
    except WmtpError as error:
        raise Failed(str(error)) from error
    show_warnings(config.run_dir, result.warnings)
    print(f"done: {result.steps} steps, policy {result.policy_sha256}; everything is in {config.run_dir}")


def _left(config: RunConfig, reason: str = "") -> str:
    """Release the folder of a run that has trained nothing; return how to continue."""
    release_run_directory(config)
    if not config.run_dir.exists():
        return "nothing was trained; the same command starts again"
    reason = reason or "the run was cut short"
    return f"{reason}; continue with run_name={config.run_name} --resume"


def _load_libraries() -> None:
    with suppress(Exception):  # whatever is wrong is said where it is imported to be used
        for name in _LIBRARIES:
            import_module(name)
