"""`wmtp evaluate`: evaluate a run or a model directory, judge a file of samples, or compare two evaluations."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from wmtp_ray.artifacts.hf.tokenizer_files import find_tokenizer
from wmtp_ray.config.load import Arguments, load_config, load_resolved
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.answerers import PolicyFiles
from wmtp_ray.evaluation.compare import compare
from wmtp_ray.evaluation.evaluation_plan import plan_evaluation
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.evaluation.given_samples import read_given_samples
from wmtp_ray.evaluation.prompts import ALL_KINDS
from wmtp_ray.evaluation.results import read_results
from wmtp_ray.flows.evaluate.evaluate import Evaluated, Place, evaluate_policy, judge_samples
from wmtp_ray.flows.evaluate.evaluate_run import folder_in, policy_of_run, render_results
from wmtp_ray.model_folder import PARAMS, TOKENIZER_JSON, TOKENIZER_MODEL, ModelFolder
from wmtp_ray.run_folder import RoundsFolder, RunFolder, evaluations_of
from wmtp_ray.tracking.training_record import condition_of, template_of
from wmtp_ray.training.best_checkpoint import WantedStep
from wmtp_ray.training.checkpoint import latest_checkpoint


@dataclass(frozen=True)
class EvaluationRequest:
    """The options of the command line; None where one is not given. `words` are `key=value` of the configuration.

    `engine` is the address of a server that answers in place of the checkpoint, or that serves it. `step` chooses a
    checkpoint of a run.
    """

    dataset: str
    checkpoint: Path | None
    samples: Path | None
    tokenizer: Path | None
    out: Path | None
    format: str | None
    ks: tuple[int, ...] | None
    preset: str | None
    words: tuple[str, ...]
    only_sampled: bool = False
    config_dir: Path | None = None
    engine: str | None = None
    step: WantedStep = None


def evaluate_command(request: EvaluationRequest, now: datetime) -> str:
    """Evaluate or judge; return a table and where everything is. Raises WmtpError before any model is loaded."""
    _require_that_all_counts(request)
    config = _configured(request, now)
    if request.samples is None:
        plan = plan_evaluation(config, asked_policy(request, config))
        policy, home = (None, _home_of_server(config)) if request.checkpoint is None else policy_files(request, config)
        (done,) = evaluate_policy(config, plan, policy, _place(request, home), request.out or home)
        return _described(done)
    plan = plan_evaluation(config, None)
    (dataset,), settings = plan.datasets, config.evaluation
    problems, tasks = read_given_samples(
        request.samples,
        dataset.problems,
        limit=settings.limit,
        k=max(settings.k),
        only_sampled=request.only_sampled,
    )
    plan = replace(plan, datasets=(replace(dataset, problems=problems),))
    home = evaluations_of(config.storage_root) / request.samples.name.partition(".")[0]
    return _described(judge_samples(config, plan, request.samples, tasks, _place(request, home), request.out or home))


def compare_command(before: Path, after: Path) -> str:
    """Compare two folders of results on the same problems."""
    return compare(read_results(before), read_results(after)).render()


def _require_that_all_counts(request: EvaluationRequest) -> None:
    """Raise ConfigError for options that this form of the command would ignore."""
    if request.samples is None:
        if request.only_sampled:
            raise ConfigError("found --only-sampled with --checkpoint, expected it with --samples; leave it out")
        is_run = request.checkpoint is not None and RunFolder(request.checkpoint).config.is_file()
        if request.step is not None and not is_run:
            raise ConfigError(
                f"found --step {request.step} without a run's folder as --checkpoint: only runs have checkpoints; "
                "leave it out"
            )
        return
    keys = [word.partition("=")[0] for word in request.words]
    given = [key for key in keys if key in _FOR_DECODING or key.startswith("engine.")]
    given += ["--engine"] if request.engine is not None else []
    given += [f"--step {request.step}"] if request.step is not None else []
    if request.format is not None or given:
        what = f"--format {request.format}" if request.format is not None else given[0]
        raise ConfigError(
            f"found {what} with --samples, expected it with --checkpoint: it says how a policy answers, and these "
            "answers exist already; leave it out (completions follow the prompt, solutions are whole programs, and "
            "fences go from both)"
        )


_FOR_DECODING = tuple(
    f"evaluation.{name}"
    for name in ("engine", "num_samples", "temperature", "top_p", "max_new_tokens", "draft_horizons")
)


def _configured(request: EvaluationRequest, now: datetime) -> RunConfig:
    """The defaults, the preset and what the command says; the recipe plays no part in an evaluation."""
    words = [] if request.engine is None else ["evaluation.engine=openai", f"engine.url={request.engine}"]
    words += request.words
    if request.ks is not None:
        words.append(f"evaluation.k={list(request.ks)}")
    if request.samples is not None:  # somebody else has sampled: their number is checked against K, not ours
        most = max(request.ks or (1,))
        words += [f"evaluation.num_samples={most}", "evaluation.temperature=1"]
    asked = Arguments("baseline", request.preset, overrides=tuple(words), config_dir=request.config_dir)
    config = load_config(asked, now=now)
    settings = config.evaluation
    name = request.dataset
    if name not in settings.files:
        path = Path(name).absolute()
        if not path.is_file():
            raise ConfigError(
                f"--dataset {name}: found no such file, expected one or a name among {', '.join(settings.files)}"
            )
        name = "".join(each if each.isalnum() else "_" for each in path.name.partition(".")[0])
        settings = settings.model_copy(update={"files": settings.files | {name: path}})
    chosen: dict[str, object] = {"datasets": (name,)}
    if request.format is not None:
        chosen["formats"] = dict.fromkeys(ALL_KINDS, request.format)
    return config.model_copy(update={"evaluation": settings.model_copy(update=chosen)})


def asked_policy(request: EvaluationRequest, config: RunConfig) -> Asked:
    """Return the policy to evaluate, without loading or exporting a model."""
    api = config.engine.api if config.evaluation.engine == "openai" else None
    if request.checkpoint is None:
        tokenizer = None if request.tokenizer is None else CodeTokenizer(request.tokenizer)
        return Asked(tokenizer, is_trained=False, condition=config.data.condition, api=api)
    checkpoint = request.checkpoint
    is_run = RunFolder(checkpoint).config.is_file()
    is_trained = ModelFolder(checkpoint).training.is_file() or (is_run and _has_policy(RunFolder(checkpoint)))
    if is_run:
        run = load_resolved(RunFolder(checkpoint).config)
        if run.rounds.count is not None:
            raise ConfigError(
                f"--checkpoint {checkpoint}: found a run in rounds, which has a policy for each round, expected one "
                f"run or model directory; give {RoundsFolder(checkpoint).run(run.rounds.count - 1).path}"
            )
        condition = run.data.condition if is_trained else condition_of(config, run.model.path)
        template = run.data.template if is_trained else template_of(config, run.model.path)
    else:
        condition, template = condition_of(config, checkpoint), template_of(config, checkpoint)
    return Asked(CodeTokenizer(_tokenizer(request)), is_trained, condition, template, api)


def _has_policy(run: RunFolder) -> bool:
    return ModelFolder(run.final).params.is_file() or latest_checkpoint(run.checkpoints) is not None


def _checkpoint(request: EvaluationRequest) -> Path:
    assert request.checkpoint is not None, "the command line asks for --checkpoint where there are no --samples"
    return request.checkpoint


def policy_files(request: EvaluationRequest, config: RunConfig) -> tuple[PolicyFiles, Path]:
    """The model directory and tokenizer of a checkpoint, and the folder that its evaluations belong to."""
    checkpoint, tokenizer = _checkpoint(request), _tokenizer(request)
    if RunFolder(checkpoint).config.is_file():
        model = policy_of_run(checkpoint, request.step) or load_resolved(RunFolder(checkpoint).config).model.path
        return PolicyFiles(model, tokenizer), checkpoint
    return PolicyFiles(checkpoint, tokenizer), evaluations_of(config.storage_root) / checkpoint.name


def _tokenizer(request: EvaluationRequest) -> Path:
    """The tokenizer asked for, of the run, or beside the model; raises ArtifactError for what is neither."""
    checkpoint = _checkpoint(request)
    if RunFolder(checkpoint).config.is_file():
        return request.tokenizer or load_resolved(RunFolder(checkpoint).config).tokenizer.path
    if not ModelFolder(checkpoint).params.is_file():
        raise ArtifactError(
            f"--checkpoint {checkpoint}: found neither config.yaml nor {PARAMS}, expected the folder of a run or a "
            "model directory in Meta's layout"
        )
    beside = request.tokenizer or find_tokenizer(ModelFolder(checkpoint).tokenizer)
    if beside is None:
        raise ArtifactError(f"{checkpoint} holds no {TOKENIZER_MODEL} or {TOKENIZER_JSON}; give one with --tokenizer")
    return beside


def _home_of_server(config: RunConfig) -> Path:
    """Return the folder of evaluations of a server that no checkpoint is named for."""
    assert config.engine.url is not None, "the command asks for --engine without --checkpoint"
    server = config.engine.url.partition("://")[2].partition("/")[0]
    return evaluations_of(config.storage_root) / server.replace(":", "_")


def _place(request: EvaluationRequest, home: Path) -> Place:
    """Return --out unchanged; else a run's eval/, or the folder `home` of a model without a run."""
    out = request.out
    if out is not None:
        return lambda dataset, identity: out
    if RunFolder(home).config.is_file():
        return folder_in(RunFolder(home).evaluations)
    return folder_in(home)


def _described(done: Evaluated) -> str:
    lines = [render_results([done.results]), *(f"warning: {text}" for text in done.results.warnings)]
    asked, reason = done.results.identity["answers"].get("format"), done.results.sources.format_reason
    if asked is not None:
        lines.append(f"  format {asked} ({reason})")
    speed = done.results.decoding
    if speed is not None:
        forwards = "" if speed.tokens_per_forward is None else f", {speed.tokens_per_forward:.2f} a forward"
        lines.append(f"  {speed.num_tokens:,} tokens{forwards}")
    for name, number in (done.results.answered_by or {}).items():
        lines.append(f"  {number:,} answers by {name}; which weights that are is not known")
    return "\n".join([*lines, f"everything is in {done.directory}"])
