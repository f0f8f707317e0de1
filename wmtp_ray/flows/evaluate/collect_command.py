"""`wmtp collect`: find a policy and the problems that it may answer; draw, judge, write rows; print what came of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from wmtp_ray import interrupts
from wmtp_ray.artifacts.manifest import file_sha256
from wmtp_ray.artifacts.meta_checkpoint import weights_file
from wmtp_ray.config.load import Arguments, load_config, load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.collecting.collect import CollectionPlan, collect
from wmtp_ray.evaluation.collecting.collection_manifest import answers_of, manifest_of
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.evaluated_problems import (
    read_evaluated,
    require_none_evaluated,
    without_evaluated,
)
from wmtp_ray.evaluation.collecting.local_workers import LocalWorkers
from wmtp_ray.evaluation.collecting.training_problems import TrainingProblems, read_training_problems
from wmtp_ray.evaluation.decoding import DecodingSettings, decode
from wmtp_ray.evaluation.decoding_policy import load_decoding_policy
from wmtp_ray.evaluation.evaluation_plan import found_isolation
from wmtp_ray.evaluation.evaluation_port import Workers
from wmtp_ray.evaluation.formats import ChosenFormat, choose_row_format
from wmtp_ray.evaluation.identity import Execution, ModelHashes, decoding_identity, identify
from wmtp_ray.evaluation.judge import Judge
from wmtp_ray.evaluation.prompts import ALL_KINDS
from wmtp_ray.flows.evaluate.evaluate_command import EvaluationRequest, asked_policy, policy_files
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.run_folder import RunFolder


@dataclass(frozen=True)
class CollectionRequest:
    """The options of the command line; None where one is not given. `words` are `key=value` of the configuration."""

    checkpoint: Path
    problems: Path
    out: Path
    tokenizer: Path | None
    format: str | None
    source: str | None
    until_both: int | None
    max_samples: int | None
    max_correct: int | None
    max_incorrect: int | None
    skips_evaluated: bool
    preset: str | None
    words: tuple[str, ...]
    config_dir: Path | None = None

    @property
    def policy(self) -> EvaluationRequest:
        """The policy as `wmtp evaluate` would be asked for it."""
        return EvaluationRequest(
            dataset=str(self.problems),
            checkpoint=self.checkpoint,
            samples=None,
            tokenizer=self.tokenizer,
            out=None,
            format=self.format,
            ks=None,
            preset=self.preset,
            words=self.words,
            config_dir=self.config_dir,
        )


def collect_command(request: CollectionRequest, console: Console, now: datetime) -> str:
    """Collect rows; return what came of it. Raises WmtpError before a model is loaded."""
    started = time.perf_counter()
    interrupts.say_at_end("interrupted: the same command goes on")
    config = _configured(request, now)
    settings = _settings(request, config)
    training, left_out = _problems(request, config)
    asked = asked_policy(request.policy, config)
    chosen = choose_row_format(training.problems, config.evaluation.formats, asked)
    isolation = found_isolation(config.evaluation)
    policy, _ = policy_files(request.policy, config)
    plan = _plan(request, config, settings, training, chosen, policy, isolation)
    plan = replace(plan, left_out=left_out)
    manifest = collect(plan, partial(_started, config, policy, isolation), console)
    seconds = time.perf_counter() - started
    return (
        f"{manifest.render()}\n{request.out}: the rows; {manifest_of(request.out).name}: the settings; "
        f"{answers_of(request.out).name}/: all answers and verdicts ({seconds:.0f} s)"
    )


def _configured(request: CollectionRequest, now: datetime) -> RunConfig:
    """The defaults, the preset and what the command says; the recipe plays no part in a collection."""
    asked = Arguments("baseline", request.preset, overrides=request.words, config_dir=request.config_dir)
    config = load_config(asked, now=now)
    if request.format is None:
        return config
    formats = dict.fromkeys(ALL_KINDS, request.format)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"formats": formats})})


def _settings(request: CollectionRequest, config: RunConfig) -> CollectionSettings:
    settings = CollectionSettings(
        num_samples=config.evaluation.num_samples,
        until_both=request.until_both,
        max_samples=request.max_samples,
        max_correct=request.max_correct,
        max_incorrect=request.max_incorrect,
    )
    if config.evaluation.temperature == 0 and settings.most_samples > 1:
        raise ConfigError(
            f"found --max-samples {settings.most_samples} with --temperature 0, expected a temperature above 0: all "
            "answers to a problem would be the same"
        )
    return settings


def _problems(request: CollectionRequest, config: RunConfig) -> tuple[TrainingProblems, tuple[str, ...]]:
    """Read the training problems; return also which of the file are passed over."""
    if not request.problems.is_file():
        raise ConfigError(f"--problems {request.problems}: found no such file, expected training problems with tests")
    training = read_training_problems(request.problems, request.source)
    files = [*config.evaluation.files.values()]
    if RunFolder(request.checkpoint).config.is_file():
        files += load_resolved(RunFolder(request.checkpoint).config).evaluation.files.values()
    evaluated = read_evaluated(training.problems, files)
    if not request.skips_evaluated:
        require_none_evaluated(training.problems, evaluated)
    kept = without_evaluated(training.problems, evaluated)
    skipped = len(training.problems.problems) - len(kept)
    left_out = (f"{skipped} problems that results are measured on",) if skipped else ()
    training = training.only([each.task_id for each in kept], config.evaluation.limit)
    return training, (*training.problems.left_out, *left_out)


def _plan(
    request: CollectionRequest,
    config: RunConfig,
    settings: CollectionSettings,
    training: TrainingProblems,
    chosen: ChosenFormat,
    policy: PolicyFiles,
    isolation: str,
) -> CollectionPlan:
    tokenizer, evaluation = CodeTokenizer(policy.tokenizer), config.evaluation
    model = ModelHashes(
        weights_sha256=file_sha256(weights_file(policy.model)),
        params_sha256=file_sha256(ModelFolder(policy.model).params),
        tokenizer_sha256=tokenizer.sha256,
    )
    execution = Execution(config.seed, config.train.device, config.train.dtype, config.cluster.threads_per_worker)
    drawn = replace(decoding_identity(model, chosen.format, evaluation, execution), num_samples=0)
    whole = evaluation.model_copy(update={"limit": None})  # neither how many answers nor of how many problems
    return CollectionPlan(
        training=training,
        policy=str(policy.model),
        chosen=chosen,
        tokenizer=tokenizer,
        decoding=DecodingSettings(
            max_new_tokens=evaluation.max_new_tokens,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
            stop=chosen.format.stop,
            draft_horizons=evaluation.draft_horizons,
        ),
        identity=identify(training.problems, drawn, whole, isolation),
        settings=settings,
        out=request.out,
    )


@contextmanager
def _started(config: RunConfig, policy: PolicyFiles, isolation: str) -> Iterator[Workers]:
    """Load the policy and open the judge in this process."""
    settings = config.evaluation
    model = load_decoding_policy(policy.model, config)
    decoder = partial(decode, model, CodeTokenizer(policy.tokenizer), batch_size=settings.batch_size)
    with Judge(
        isolation,
        settings.timeout_s,
        settings.num_judges,
        isolation_required=settings.isolation_required,
        memory_limit_bytes=int(settings.memory_limit_mb * (1 << 20)),
    ) as judge:
        yield LocalWorkers(decoder, judge, settings.num_judges)
