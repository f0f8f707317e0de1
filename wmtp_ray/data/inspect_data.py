"""`wmtp data inspect`: what is in a data file and what a recipe would draw from it, from the index alone.

Looks at no model, starts nothing, imports neither torch nor Ray. A recipe that cannot be planned is no failure here:
the reason stands where its plan would.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.sampling import DifficultyBins, DifficultySource
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.contracts import RowIndex
from wmtp_ray.data.index import BuiltIndex, load_built_index
from wmtp_ray.data.overview import overview_of
from wmtp_ray.data.overview_json import overview_json
from wmtp_ray.data.overview_text import render_overview
from wmtp_ray.data.prompt_label import told_in_training
from wmtp_ray.data.run_tokenizer import run_tokenizer
from wmtp_ray.data.told_index import told_index
from wmtp_ray.durable_files import atomic_write
from wmtp_ray.errors import WmtpError
from wmtp_ray.plan.render_plan import render
from wmtp_ray.plan.run_plan import RunPlan, plan_critic_stage, plan_training
from wmtp_ray.plan.versions import version_schedule

DEFAULT_RECIPE = "recipe=verifiable"


@dataclass(frozen=True)
class _Planned:
    """A stage's plan, or None, and what to print about it."""

    plan: RunPlan | None
    text: str


def inspect_data(
    jsonl: Path, *, index_path: Path | None, words: Sequence[str], picture: Path | None, counts: Path | None = None
) -> str:
    """Describe a JSONL from its index; also draw it into the PNG `picture`, and write the JSON file `counts`.

    `words` are those of a launch command (recipe=NAME key=value ...); without a recipe it is verifiable. `index_path`
    is as in `index_path_of`. Raises DataError when the index is missing or stale, ConfigError for the words.
    """
    config = _config(jsonl, index_path, words)
    built = load_built_index(jsonl.absolute(), index_path)
    index = built.index
    overview = overview_of(
        index, _bins_by_source(config), max_tokens=config.data.max_tokens, languages=config.data.languages
    )
    critic_stage = _planned(1, index, lambda: _plan_critic_stage(index, config), None)
    bound = version_schedule(config, None).staleness_bound if config.uses_critic else None
    training = _planned(2, index, lambda: _plan_training(index, config), bound)
    sections = [
        render_overview(overview),
        *_left_out(built),
        f"What recipe={config.recipe} would draw",
        critic_stage.text,
        training.text,
    ]
    if picture is not None:
        from wmtp_ray.data.overview_picture import draw_overview  # most of a second

        draw_overview(overview, () if training.plan is None else training.plan.phases, picture)
        sections.append(f"Picture: {picture}")
    if counts is not None:
        atomic_write(counts, overview_json(overview))
        sections.append(f"Counts: {counts}")
    return "\n\n".join(section.rstrip("\n") for section in sections) + "\n"


def _config(jsonl: Path, index_path: Path | None, words: Sequence[str]) -> RunConfig:
    """Resolve the words as a launch would; the file comes last, so that no word can name another one."""
    recipe = [] if any(word.startswith("recipe=") for word in words) else [DEFAULT_RECIPE]
    files = [f"data.train_file={json.dumps(str(jsonl.absolute()))}"]
    if index_path is not None:
        files.append(f"data.index_file={json.dumps(str(index_path.absolute()))}")
    return load_config(parse_arguments([*recipe, *words, *files]), now=datetime.now())


def _left_out(built: BuiltIndex) -> list[str]:
    if not built.num_skipped:
        return []
    listed = "\n".join(f"  {error}" for error in built.errors)
    return [
        f"Left out of the index: {built.num_skipped:,} of {built.num_lines:,} lines, which are no rows; the first "
        f"{len(built.errors)}\n{listed}"
    ]


def _bins_by_source(config: RunConfig) -> dict[DifficultySource, DifficultyBins]:
    """The bins that stage 2 uses, and those it would use under the other sources."""
    scales = config.data.difficulty_scales
    bins: dict[DifficultySource, DifficultyBins] = {
        "raw": scales.raw.bins,
        "cf_rating": scales.cf_rating.bins,
        "quantile": scales.quantile.bins,
    }
    return bins | {config.data.difficulty_source: config.train.sampling.difficulty_bins}


def _plan_critic_stage(index: RowIndex, config: RunConfig) -> RunPlan:
    needs_pairs = config.critic.objective == "pairwise"
    return plan_critic_stage(index, config.data, config.critic_stage, config.seed, needs_pairs=needs_pairs)


def _plan_training(index: RowIndex, config: RunConfig) -> RunPlan:
    told = told_in_training(config.data.condition)
    if told != "nothing":
        index = told_index(index, told, run_tokenizer(config))
    return plan_training(index, config.data, config.train, config.seed)


def _planned(stage: int, index: RowIndex, make_plan: Callable[[], RunPlan], staleness_bound: int | None) -> _Planned:
    try:
        plan = make_plan()
    except WmtpError as error:
        return _Planned(None, f"Stage {stage} cannot be planned: {error}")
    return _Planned(plan, render(plan, index, staleness_bound=staleness_bound))
