"""A run in rounds from its command to its end: refuse early, then collect and train, round by round, on one Ray.

`rounds/run_rounds.py` is the loop. Here stands who does the work: the flow of `wmtp collect` collects, the stages of an
ordinary run train and evaluate.
"""

import gc
import shutil
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from wmtp_ray import interrupts
from wmtp_ray.config.load import check_files, dump_config
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.errors import ConfigError, Failed, Interrupted, WmtpError
from wmtp_ray.evaluation.collecting.collection_manifest import CollectionManifest
from wmtp_ray.flows.cluster import joined
from wmtp_ray.flows.evaluate.collect_command import CollectionRequest, collect_rows, training_problems
from wmtp_ray.flows.run.prepare import check_model_fits, prepare
from wmtp_ray.flows.run.run_stages import run_stages
from wmtp_ray.preflight.run_directory import check_plans, check_run_directory, claim_run_directory
from wmtp_ray.preflight.start_checks import require_start, start_checks
from wmtp_ray.rounds.rounds_record import RoundsRecord, read_rounds
from wmtp_ray.rounds.run_rounds import Ports, check_inputs, round_config, run_rounds
from wmtp_ray.run_folder import TRAIN_STAGE, RoundsFolder
from wmtp_ray.tracking.result import RunResult
from wmtp_ray.tracking.run_warnings import show_warnings


def launch_rounds(config: RunConfig, *, resume: bool, dry_run: bool) -> None:
    """Run all rounds of a configuration. Raises as `launch`."""
    check_run_directory(config, resume=resume)
    check_files(config)
    check_inputs(config)
    words = plan_rounds(config)
    require_start(start_checks(config))
    if dry_run:
        print(f"{dump_config(config)}\n{words}", flush=True)
        return
    print(words, flush=True)
    with interrupts.undone_at_end(lambda: f"interrupted: {_left(config)}"):
        claim_run_directory(config)
        record = _run(config)
    print(
        f"done: {len(record.rounds)} rounds, {record.steps} steps, {record.judged:,} judged programs, policy "
        f"{record.rounds[-1].policy_sha256}; everything is in {config.run_dir}"
    )


def plan_rounds(config: RunConfig) -> str:
    """Check what no round will change, and say what the rounds do; raises WmtpError for what cannot work."""
    rounds, stages = config.rounds, list(config.stages)
    if TRAIN_STAGE not in stages:
        raise ConfigError(
            f"rounds.count={rounds.count} with stages={stages}: a round trains the policy that the next one collects "
            "with; put stage 2 into stages, or set rounds.count=null"
        )
    check_model_fits(config, run_tokenizer(config))
    if not rounds.collects:
        prepare(round_config(config, 0, config.model.path))  # the rows of every round
        return f"{rounds.count} rounds of stages {stages} on {config.data.train_file}; nothing is collected"
    request = _request(config, None, RoundsFolder(config.run_dir).rows(0))
    training, left_out = training_problems(request, _collecting(config, config.seed))
    most = rounds.max_samples or rounds.num_samples
    answers = f"{rounds.num_samples}" if most == rounds.num_samples else f"{rounds.num_samples} to {most}"
    line = (
        f"{rounds.count} rounds: {answers} answers to each of {len(training.described):,} problems of "
        f"{rounds.problems}, then stages {stages}; rounds.keep={rounds.keep}, "
        f"rounds.share_collected={rounds.share_collected}"
    )
    return "\n".join([line, *(f"  left out: {each}" for each in left_out)])


def _run(config: RunConfig) -> RoundsRecord:
    console = Console(stderr=True, quiet=not config.tracking.progress)
    try:
        with joined(config.cluster.num_cpus):
            return run_rounds(config, Ports(partial(collect_round, console), _train))
    except (Interrupted, KeyboardInterrupt) as stop:
        raise Interrupted(_left(config)) from stop
    except WmtpError as error:
        if _release(config):
            raise
        raise Failed(str(error)) from error


def collect_round(console: Console, config: RunConfig, policy: Path, out: Path, seed: int) -> CollectionManifest:
    """Let a policy answer the problems of `rounds.problems` and write the rows; raises as `wmtp collect`."""
    manifest = collect_rows(_request(config, policy, out), _collecting(config, seed), console)
    print(f"{out.stem}: {manifest.render()}", flush=True)
    gc.collect()
    torch.cuda.empty_cache()  # of this process: the ranks that train next are others on the same card
    return manifest


def _train(run: RunConfig) -> RunResult:
    """Train and evaluate a round, from where an earlier start of it came to."""
    check_run_directory(run, resume=run.folder.config.exists())
    prepared = prepare(run)
    check_plans(run, prepared.plans)
    print(prepared.rendered, flush=True)
    claim_run_directory(run)
    result = run_stages(run, prepared)
    show_warnings(run.run_dir, result.warnings)
    return result


def _request(config: RunConfig, policy: Path | None, out: Path) -> CollectionRequest:
    rounds = config.rounds
    return CollectionRequest(
        checkpoint=policy,
        problems=rounds.problems,
        out=out,
        tokenizer=config.tokenizer.path,
        format=None,
        source=None,
        until_both=rounds.until_both,
        max_samples=rounds.max_samples,
        max_correct=rounds.max_correct,
        max_incorrect=rounds.max_incorrect,
        skips_evaluated=False,
        preset=None,
        words=(),
    )


def _collecting(config: RunConfig, seed: int) -> RunConfig:
    """The configuration that a round's answers are drawn with."""
    rounds = config.rounds
    drawn = {name: getattr(rounds, name) for name in ("num_samples", "temperature", "top_p", "limit")}
    evaluation = config.evaluation.model_copy(update=drawn)
    return config.model_copy(update={"evaluation": evaluation, "seed": seed})


def _left(config: RunConfig) -> str:
    """Release the folder of a run that has collected and trained nothing; return how to continue."""
    if _release(config):
        return "nothing was done; the same command starts again"
    done = len(read_rounds(RoundsFolder(config.run_dir)).rounds)
    return (
        f"{done} of {config.rounds.count} rounds are done; the same command with run_name={config.run_name} --resume "
        "goes on"
    )


def _release(config: RunConfig) -> bool:
    """Remove the folder if nothing has begun in it, so that the corrected command can start the same run."""
    if RoundsFolder(config.run_dir).is_begun:
        return False
    shutil.rmtree(config.run_dir, ignore_errors=True)
    return True
