"""`wmtp collect`: find a policy and the problems that it may answer; draw, judge, write rows; print what came of it."""

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from wmtp_ray import interrupts
from wmtp_ray.config.load import Arguments, load_config, load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.answerers import Answerer, LoadedPolicy, PolicyFiles, ServedPolicy
from wmtp_ray.evaluation.collecting.collect import CollectionPlan, Start, collect
from wmtp_ray.evaluation.collecting.collection_manifest import CollectionManifest, answers_of, manifest_of
from wmtp_ray.evaluation.collecting.collection_settings import CollectionSettings
from wmtp_ray.evaluation.collecting.evaluated_problems import (
    read_evaluated,
    require_none_evaluated,
    without_evaluated,
)
from wmtp_ray.evaluation.collecting.training_problems import TrainingProblems, read_training_problems
from wmtp_ray.evaluation.decoding import DecodingSettings
from wmtp_ray.evaluation.engine import find_served_model
from wmtp_ray.evaluation.evaluation_plan import found_isolation
from wmtp_ray.evaluation.formats import ChosenFormat, choose_row_format
from wmtp_ray.evaluation.identity import identify
from wmtp_ray.evaluation.prompts import ALL_KINDS
from wmtp_ray.evaluation.served import ServedModel
from wmtp_ray.flows.evaluate.collecting_workers import collecting_workers
from wmtp_ray.flows.evaluate.evaluate_command import EvaluationRequest, asked_policy, policy_files
from wmtp_ray.run_folder import RunFolder


@dataclass(frozen=True)
class CollectionRequest:
    """The options of the command line; None where one is not given. `words` are `key=value` of the configuration.

    `engine` is the address of a server that answers in place of the checkpoint, or that serves it.
    """

    checkpoint: Path | None
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
    engine: str | None = None

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
            engine=self.engine,
        )


def collect_command(request: CollectionRequest, console: Console, now: datetime) -> str:
    """Collect rows; return what came of it. Raises WmtpError before a model is loaded."""
    started = time.perf_counter()
    interrupts.say_at_end("interrupted: the same command goes on")
    manifest = collect_rows(request, _configured(request, now), console)
    seconds = time.perf_counter() - started
    return (
        f"{manifest.render()}\n{request.out}: the rows; {manifest_of(request.out).name}: the settings; "
        f"{answers_of(request.out).name}/: all answers and verdicts ({seconds:.0f} s)"
    )


def collect_rows(request: CollectionRequest, config: RunConfig, console: Console) -> CollectionManifest:
    """Collect with the evaluation's settings of `config`, whatever `request.words` say; raises as `collect_command`."""
    plan, start = plan_collection(request, config)
    return collect(plan, start, console)


def plan_collection(request: CollectionRequest, config: RunConfig) -> tuple[CollectionPlan, Start]:
    """Return what is to be collected and how its workers start; loads no model and draws nothing."""
    settings = _settings(request, config)
    training, left_out = training_problems(request, config)
    asked = asked_policy(request.policy, config)
    chosen = choose_row_format(training.problems, config.evaluation.formats, asked)
    isolation = found_isolation(config.evaluation)
    who, answerer = _who_answers(request, config)
    plan = _plan(request, config, settings, training, chosen, answerer, asked.tokenizer, isolation)
    start = partial(collecting_workers, config, who, isolation, answers_of(request.out))
    return replace(plan, left_out=left_out), start


def _configured(request: CollectionRequest, now: datetime) -> RunConfig:
    """The defaults, the preset and what the command says; the recipe plays no part in a collection."""
    words = () if request.engine is None else ("evaluation.engine=openai", f"engine.url={request.engine}")
    asked = Arguments("baseline", request.preset, overrides=(*words, *request.words), config_dir=request.config_dir)
    config = load_config(asked, now=now)
    _require_that_all_counts(request, config)
    if request.format is None:
        return config
    formats = dict.fromkeys(ALL_KINDS, request.format)
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"formats": formats})})


def _require_that_all_counts(request: CollectionRequest, config: RunConfig) -> None:
    """Raise ConfigError without anyone to answer, and for what a server would not be told."""
    is_served = config.evaluation.engine == "openai"
    if request.checkpoint is None and not is_served:
        raise ConfigError("found no policy to answer, expected --checkpoint RUN|DIR or --engine URL; give one")
    given = [word.partition("=")[0] for word in request.words]
    if is_served and (ignored := [key for key in given if key in _OUR_DECODERS]):
        raise ConfigError(
            f"found {', '.join(ignored)} for a server (evaluation.engine=openai), expected it for decoders of ours: a "
            "server decides on batches, copies and drafts itself; leave it out (engine.max_in_flight says how many "
            "requests the server has at a time)"
        )


_OUR_DECODERS = tuple(f"evaluation.{name}" for name in ("num_decoders", "batch_size", "draft_horizons"))


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


def training_problems(request: CollectionRequest, config: RunConfig) -> tuple[TrainingProblems, tuple[str, ...]]:
    """Read the training problems; return also which of the file are passed over.

    Raises ConfigError without the file, DataError where results are measured on its problems.
    """
    if not request.problems.is_file():
        raise ConfigError(f"--problems {request.problems}: found no such file, expected training problems with tests")
    training = read_training_problems(request.problems, request.source)
    files = [*config.evaluation.files.values()]
    if request.checkpoint is not None and RunFolder(request.checkpoint).config.is_file():
        files += load_resolved(RunFolder(request.checkpoint).config).evaluation.files.values()
    evaluated = read_evaluated(training.problems, files)
    if not request.skips_evaluated:
        require_none_evaluated(training.problems, evaluated)
    kept = without_evaluated(training.problems, evaluated)
    skipped = len(training.problems.problems) - len(kept)
    left_out = (f"{skipped} problems that results are measured on",) if skipped else ()
    training = training.only([each.task_id for each in kept], config.evaluation.limit)
    return training, (*training.problems.left_out, *left_out)


def _who_answers(request: CollectionRequest, config: RunConfig) -> tuple[PolicyFiles | ServedModel, Answerer]:
    """Return what decodes, and what is known of it; ConfigError where no server answers at `engine.url`."""
    files = None if request.checkpoint is None else policy_files(request.policy, config)[0]
    if config.evaluation.engine == "openai":
        served = find_served_model(config.engine)
        return served, ServedPolicy(served, files)
    assert files is not None, "a decoder loads a policy"
    return files, LoadedPolicy(files)


def _plan(
    request: CollectionRequest,
    config: RunConfig,
    settings: CollectionSettings,
    training: TrainingProblems,
    chosen: ChosenFormat,
    answerer: Answerer,
    tokenizer: CodeTokenizer | None,
    isolation: str,
) -> CollectionPlan:
    evaluation = config.evaluation
    drawn = replace(answerer.identity(config, chosen.format), num_samples=0)
    whole = evaluation.model_copy(update={"limit": None})  # neither how many answers nor of how many problems
    return CollectionPlan(
        training=training,
        policy=answerer.path,
        chosen=chosen,
        tokenizer=tokenizer,
        decoding=DecodingSettings.of(evaluation, chosen.format.stop),
        identity=identify(training.problems, drawn, whole, isolation),
        settings=settings,
        out=request.out,
    )
