"""Stage 0: from a configuration to plans, refusing what cannot work before anything expensive starts.

Files, tokenizers and the model's shape are checked against each other, the index is loaded (or built once), the plans
are made and every step is split once as the run will split it. `--dry-run` ends here, so neither torch nor ray
is imported, but for ray when the tokens of a large file are counted for the first time.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wmtp_ray.config.load import check_files, earlier_names
from wmtp_ray.config.schema import ReferenceModel, RunConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.held_out_rows import rows_of_readings
from wmtp_ray.data.index import index_path_of, load_built_index
from wmtp_ray.data.prompt_label import told_in_training
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.token_edits import EditDistances
from wmtp_ray.data.tokenizer import CodeTokenizer, tokenizer_hash
from wmtp_ray.data.told_index import told_index
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan, plan_step_evaluations
from wmtp_ray.evaluation.evaluation_plan import EvaluationPlan, plan_evaluation
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.flows.data.count_tokens import ensure_counted_index
from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.model.value_spec import ValueSpec, require_value_path
from wmtp_ray.model_folder import ModelFolder
from wmtp_ray.plan.compared_rows import MAX_COMPARED, ComparedRows, require_others
from wmtp_ray.plan.horizon_schedule import horizon_starts
from wmtp_ray.plan.problem_halves import ProblemHalves, require_rows_for_all
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.run_plan import RunPlan, check_packing, plan_critic_stage, plan_training
from wmtp_ray.plan.versions import VersionSchedule, version_schedule
from wmtp_ray.run_folder import CRITIC_STAGE, TRAIN_STAGE
from wmtp_ray.saved_records import read_record
from wmtp_ray.tracking.training_record import condition_of, template_of
from wmtp_ray.training.estimate.render_estimate import render_estimate
from wmtp_ray.training.estimate.run_estimate import RunEstimate, estimate_run, require_fit

LARGE_BYTES = 1 << 26  # of a JSONL that is indexed in a second


@dataclass(frozen=True)
class Prepared:
    """The result of stage 0: the index, the plan of each stage that will train, and that of the evaluation.

    `index` and `estimate` are None where the run only evaluates, `evaluation` where it does not, `step_evaluations`
    where no policy is evaluated while it trains. `left_out` says which lines of the data files are not read.
    """

    index: RowIndex | None
    plans: dict[int, RunPlan]
    schedule: VersionSchedule
    evaluation: EvaluationPlan | None
    rendered: str
    left_out: tuple[str, ...] = ()
    estimate: RunEstimate | None = None
    step_evaluations: StepEvaluationPlan | None = None


def prepare(config: RunConfig) -> Prepared:
    """Check, index and plan. Raises a WmtpError that names the first contradiction found."""
    _require_one_run(config)
    check_files(config)
    tokenizer = run_tokenizer(config)
    check_model_fits(config, tokenizer)
    evaluation = _evaluation_plan(config, tokenizer) if 3 in config.stages else None
    evaluation_lines = [evaluation.render(config.evaluation)] if evaluation is not None else []
    while_training = _step_evaluations(config, tokenizer)
    evaluation_lines += [while_training.render()] if while_training is not None else []
    if config.stages == (3,):
        return Prepared(None, {}, version_schedule(config, None), evaluation, "\n\n".join(evaluation_lines))
    index, told = _indexes(config, tokenizer)
    plans = _plans(config, index, told, tokenizer)
    schedule = version_schedule(config, plans.get(2))
    compared = _compared_line(config, plans, told, _compared_index(config, tokenizer))
    bound = schedule.staleness_bound if config.uses_critic else None
    sections = [render(plan, index, staleness_bound=bound if plan.stage == 2 else None) for plan in plans.values()]
    longest_prompt = None if while_training is None else while_training.longest_prompt
    estimate = estimate_run(config, plans, told, longest_prompt=longest_prompt)
    require_fit(estimate)
    left_out = tuple(_left_out_lines(config))
    ensemble = _ensemble_line(config, plans, index)
    sections += [*evaluation_lines, *ensemble, *compared, *left_out, *earlier_names(config), render_estimate(estimate)]
    return Prepared(index, plans, schedule, evaluation, "\n\n".join(sections), left_out, estimate, while_training)


def _require_one_run(config: RunConfig) -> None:
    """A run in rounds is a chain of runs, each with a plan of its own."""
    if config.rounds.count is not None:
        raise ConfigError(
            f"found rounds.count={config.rounds.count} where one run is planned, expected null: only `wmtp launch` "
            "runs rounds; give the run of one round (NAME/round_0), set rounds.count=null, or choose another recipe"
        )


def prepare_rows(config: RunConfig) -> RunPlan:
    """Check, index and plan stage 2 alone, for whoever reads its rows and trains nothing; raises as `prepare`."""
    _require_one_run(config)
    check_files(config)
    tokenizer = run_tokenizer(config)
    check_model_fits(config, tokenizer)
    index, told = _indexes(config, tokenizer)
    plans = _plans(config, index, told, tokenizer)
    _compared_line(config, plans, told, _compared_index(config, tokenizer))
    return plans[TRAIN_STAGE]


def planning_takes_long(config: RunConfig) -> bool:
    """Whether a large file would have to be indexed first, which takes minutes."""
    data = config.data
    files = [(data.train_file, data.index_file), (data.valid_file, None), (config.compared_file, None)]
    files = files if set(config.stages) & {1, 2} else []
    return any(
        path is not None and path.stat().st_size > LARGE_BYTES and not index_path_of(path, index_file).exists()
        for path, index_file in files
    )


def _indexes(config: RunConfig, tokenizer: CodeTokenizer) -> tuple[RowIndex, RowIndex]:
    """The index of the training rows, and the same with the tokens of stage 2's prompts."""
    data = config.data
    index = _counted_index(config, tokenizer, data.train_file, data.index_file)
    if data.valid_file is not None:
        _counted_index(config, tokenizer, data.valid_file, None)
    return index, told_index(index, told_in_training(data.condition), tokenizer)


def _counted_index(config: RunConfig, tokenizer: CodeTokenizer, jsonl: Path, index_path: Path | None) -> RowIndex:
    return ensure_counted_index(
        jsonl, tokenizer, on_error=config.data.on_error, index_path=index_path, num_cpus=config.cluster.num_cpus
    )


def _evaluation_plan(config: RunConfig, tokenizer: CodeTokenizer) -> EvaluationPlan:
    is_trained = 2 in config.stages or config.folder.final.is_dir() or config.folder.checkpoints.is_dir()
    condition = config.data.condition if is_trained else condition_of(config, config.model.path)
    template = config.data.template if is_trained else template_of(config, config.model.path)
    asks_server = config.evaluation.engine == "openai"
    if asks_server and 2 in config.stages:
        raise ConfigError(
            f"evaluation.engine=openai with stages={list(config.stages)}: no server can hold a policy that this run "
            "has yet to train; leave out stage 3, serve what `wmtp export` makes of the policy, and run stages=[3]"
        )
    api = config.engine.api if asks_server else None
    plan = plan_evaluation(config, Asked(tokenizer, is_trained, condition, template, api))
    if asks_server:
        return plan
    if plan.datasets:
        _check_drafts(config)
    return plan


def _step_evaluations(config: RunConfig, tokenizer: CodeTokenizer) -> StepEvaluationPlan | None:
    """Plan what the policy is asked while it trains; None where it is asked nothing."""
    if not config.evaluates_meanwhile:
        return None
    asked = Asked(tokenizer, is_trained=True, condition=config.data.condition, template=config.data.template)
    plan = plan_step_evaluations(config, asked)
    _check_drafts(config)
    return plan


def _check_drafts(config: RunConfig) -> None:
    """Require that the model has a head for every token that is to be drafted."""
    num_horizons, drafts = ModelSpec.read(config.model.path).num_horizons, config.evaluation.draft_horizons
    if drafts >= num_horizons:
        raise ConfigError(
            f"evaluation.draft_horizons={drafts}, but the model in {config.model.path} predicts {num_horizons} "
            f"horizons, of which {num_horizons - 1} can draft: give at most so many"
        )


def check_model_fits(config: RunConfig, tokenizer: CodeTokenizer) -> None:
    """Refuse torn weights, and a tokenizer, a reference or horizon coefficients that do not belong to the model.

    A model may have more tokens than its tokenizer (a table padded to a round size), never fewer.
    """
    model = _model_with_trunk(config.model.path)
    coefs = config.loss.horizon_coefs
    if coefs is not None and len(coefs) != model.num_horizons:
        raise ConfigError(
            f"loss.horizon_coefs has {len(coefs)} entries, the model in {config.model.path} predicts "
            f"{model.num_horizons} horizons: give {model.num_horizons}, or null for ones"
        )
    if tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"The tokenizer {config.tokenizer.path} has {tokenizer.vocab_size} tokens, the model in "
            f"{config.model.path} only {model.vocab_size}: set tokenizer.path to the tokenizer the model was made for"
        )
    check_weights(config.model.path)
    for reference in config.references:
        _check_reference(config, reference, model)
    _check_critic(config)


def _model_with_trunk(directory: Path) -> ModelSpec:
    """Read params.json without building the model; ConfigError when all its layers are prediction heads."""
    model = ModelSpec.read(directory)
    if model.num_trunk_blocks < 1:
        raise ConfigError(
            f"{ModelFolder(directory).params}: {model.num_horizons} prediction heads leave no trunk of the "
            f"{model.n_layers} layers; expected n_future_tokens below n_layers; put the params.json that was published "
            "with the weights there"
        )
    return model


def check_weights(directory: Path) -> None:
    """Refuse a model.safetensors that is cut short or foreign, by its header alone; tensors are not read."""
    path = ModelFolder(directory).weights
    if not path.exists():
        return
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes that are no whole safetensors file ({error}); copy or convert "
            "the model again"
        ) from error


def _plans(config: RunConfig, index: RowIndex, told: RowIndex, tokenizer: CodeTokenizer) -> dict[int, RunPlan]:
    """Plan the stages and split every step once; `told` is the index with the tokens of stage 2's prompts."""
    plans: dict[int, RunPlan] = {}
    if 1 in config.stages:
        if config.critic_stage.eval_every:
            rows_of_readings(config)
        plans[1] = plan_critic_stage(
            index,
            config.data,
            config.critic_stage,
            config.seed,
            needs_pairs=config.critic.objective == "pairwise",
            distances=EditDistances(index, tokenizer) if config.critic.pairs == "edit" else None,
        )
    if 2 in config.stages:
        plans[2] = _with_horizons(plan_training(told, config.data, config.train, config.seed), config)
    for plan in plans.values():
        check_packing(
            plan,
            told if plan.stage == TRAIN_STAGE else index,
            num_ranks=config.train.num_workers,
            micro_batch_tokens=config.train.micro_batch_tokens,
        )
    return plans


def _with_horizons(plan: RunPlan, config: RunConfig) -> RunPlan:
    """The plan of stage 2 with the first step of each horizon of the model, where these do not all begin at once."""
    if config.loss.horizon_schedule is None:
        return plan
    num_horizons = ModelSpec.read(config.model.path).num_horizons
    return replace(plan, horizon_starts=horizon_starts(num_horizons, plan.num_steps))


def _compared_index(config: RunConfig, tokenizer: CodeTokenizer) -> RowIndex | None:
    """The rows that stage 2 compares with where they are not data.train_file's, counted as its prompts are."""
    if config.compared_file is None:
        return None
    index = _counted_index(config, tokenizer, config.compared_file, None)
    return told_index(index, told_in_training(config.data.condition), tokenizer)


def _compared_line(config: RunConfig, plans: dict[int, RunPlan], index: RowIndex, source: RowIndex | None) -> list[str]:
    """Say how many rows of stage 2 can be compared, where the weighting asks for it; PlanError where none can."""
    if not config.compares_rows:
        return []
    compared, weighting = ComparedRows.of_run(index, source, config.data, config.seed), config.weighting.type
    share = require_others(compared, plans[TRAIN_STAGE].row_ids_P, weighting=weighting)
    return [
        f"weighting.type={weighting}: {share:.1%} of the drawn rows have a row of the other class of their problem to "
        f"be compared with in {compared.source.path}, the nearest of at most {MAX_COMPARED}"
    ]


def _left_out_lines(config: RunConfig) -> list[str]:
    """Return how many malformed lines `data.on_error=skip` left out of each file, one line a file."""
    if config.data.on_error == "fail":
        return []
    files = [(config.data.train_file, config.data.index_file), (config.data.valid_file, None)]
    files.append((config.compared_file, None))
    indexes = {path: load_built_index(path, index_file) for path, index_file in files if path is not None}
    return [
        f"{path}: {built.num_skipped:,} of {built.num_lines:,} lines are malformed and left out (data.on_error=skip), "
        f"for example\n  {built.errors[0]}"
        for path, built in indexes.items()
        if built.num_skipped
    ]


def _check_critic(config: RunConfig) -> None:
    """Require that the value path in critic.path, if there is one, is the one asked for: head, outputs and members."""
    path = config.critic.path
    is_read = CRITIC_STAGE in config.stages or (TRAIN_STAGE in config.stages and config.uses_critic)
    if path is None or not is_read or not ModelFolder(path).value_spec.is_file():
        return
    remedy = "restore it from the run that trained the head, or run stage 1 again"
    stored = read_record(ModelFolder(path).value_spec, ValueSpec, remedy)
    require_value_path(path, stored, ValueSpec.of(config))


def _ensemble_line(config: RunConfig, plans: dict[int, RunPlan], index: RowIndex) -> list[str]:
    """Say from how many rows each member of an ensemble learns; PlanError where one would learn nothing."""
    if config.critic.ensemble == 1 or CRITIC_STAGE not in plans:
        return []
    return [require_rows_for_all(ProblemHalves.of(index, config), index, plans[CRITIC_STAGE].row_ids_P)]


def _check_reference(config: RunConfig, reference: ReferenceModel, ours: ModelSpec) -> None:
    """Require that reference and policy cut text into the same tokens: losses are compared token by token."""
    their_tokenizer = reference.tokenizer_path or config.tokenizer.path
    our_hash, their_hash = tokenizer_hash(config.tokenizer.path), tokenizer_hash(their_tokenizer)
    if our_hash != their_hash:
        raise ConfigError(
            f"The reference's tokenizer {their_tokenizer} (SHA-256 {their_hash[:12]}) is another than the policy's "
            f"{config.tokenizer.path} (SHA-256 {our_hash[:12]}). weighting.type={config.weighting.type} compares "
            "losses token by token: give a reference that was trained with the policy's tokenizer, as "
            f"{reference.prefix}path and {reference.prefix}tokenizer_path"
        )
    theirs = _model_with_trunk(reference.path)
    if theirs.vocab_size != ours.vocab_size:
        raise ConfigError(
            f"The reference in {reference.path} has {theirs.vocab_size} tokens, the policy in {config.model.path} has "
            f"{ours.vocab_size}, expected one vocabulary: set {reference.prefix}path to a model of the policy's family"
        )
    check_weights(reference.path)
