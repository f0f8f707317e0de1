"""What the policy is asked while it trains is found out, or refused, before anything starts."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from tests.unit.evaluation.collecting.nano_world import make_nano_world
from tests.unit.evaluation.examples import humaneval_record, write_lines
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan, plan_step_evaluations
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.flows.run.prepare import prepare
from wmtp_ray.preflight.needed_resources import training_resources


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_nano_world(tmp_path_factory.mktemp("storage"))
    write_lines(root / "humaneval.jsonl", [humaneval_record(number) for number in range(3)])
    return root


def configured(storage: Path, *words: str) -> RunConfig:
    base = ["recipe=baseline", "preset=quickstart", f"storage_root={storage}", "run_name=r", "stages=[2]"]
    base += ["evaluation.isolation=rlimits", "evaluation.every_steps=4", "evaluation.during_limit=2"]
    return load_config(parse_arguments([*base, *words]), now=datetime(2026, 1, 1))


def planned(storage: Path, *words: str) -> StepEvaluationPlan:
    config = configured(storage, *words)
    return plan_step_evaluations(config, Asked(CodeTokenizer(config.tokenizer.path), is_trained=True))


def test_the_first_problems_are_asked_with_the_settings_of_the_evaluation(storage):
    plan = planned(storage, "evaluation.num_samples=3", "evaluation.temperature=0.5", "evaluation.k=[3]")
    assert (plan.interval, plan.dataset.name, len(plan.dataset.problems.first(plan.settings.limit))) == (
        4,
        "list_tasks",
        2,
    )
    assert (plan.settings.k, plan.settings.num_samples) == ((1, 3), 3), "Pass@1 whatever K is"
    assert plan.longest_prompt > 10
    assert "every 4 steps, at step 0 and at the end" in plan.render()


def test_the_data_set_may_be_named(storage):
    words = (f"evaluation.files.small={storage}/humaneval.jsonl", "evaluation.during_dataset=small")
    assert planned(storage, *words).dataset.name == "small"
    assert planned(storage, words[0]).dataset.name == "list_tasks", "else the first of stage 3"


@pytest.mark.parametrize(
    ("word", "is_another"),
    [
        ("evaluation.during_limit=1", True),
        ("evaluation.max_new_tokens=8", True),
        ("evaluation.temperature=1", True),
        ("evaluation.timeout_s=1", True),
        ("seed=7", True),
        ("evaluation.batch_size=2", False),
        ("evaluation.draft_horizons=1", False),
        ("evaluation.every_steps=2", False),
        ("train.learning_rate=1", False),
    ],
)
def test_scores_of_other_problems_or_settings_lie_apart(storage, word, is_another):
    before, after = planned(storage), planned(storage, word)
    assert (before.key != after.key) is is_another
    assert (before.home(storage) != after.home(storage)) is is_another


def test_without_problems_it_is_refused_early(storage):
    missing = f"evaluation.files.list_tasks={storage}/absent.jsonl"
    with pytest.raises(ConfigError, match=r"every_steps=4 has no problems.*absent\.jsonl.*evaluation\.every_steps=0"):
        planned(storage, missing, "evaluation.datasets=null")
    words = (f"evaluation.files.gone={storage}/gone.jsonl", "evaluation.during_dataset=gone")
    with pytest.raises(ConfigError, match=r"during_dataset=gone: .*gone\.jsonl does not exist"):
        planned(storage, *words)
    with pytest.raises(ConfigError, match="during_dataset=mbp, files has humaneval, mbpp"):
        configured(storage, "evaluation.during_dataset=mbp")


def test_no_server_holds_a_policy_that_trains(storage):
    words = ("evaluation.engine=openai", "engine.url=http://127.0.0.1:1/v1", "evaluation.draft_horizons=0")
    with pytest.raises(ConfigError, match=r"set evaluation\.engine=native, or set evaluation\.every_steps=0"):
        planned(storage, *words)


def test_choosing_by_what_is_reported_is_said(storage):
    by_pass = ("train.keep_best_by=pass@1", "train.checkpoint_every=4")
    [said] = planned(storage, *by_pass).warnings
    assert "too high" in said
    assert planned(storage).warnings == ()
    others = (f"evaluation.files.held_out={storage}/humaneval.jsonl", "evaluation.during_dataset=held_out")
    assert planned(storage, *by_pass, *others).warnings == ()


def test_a_run_plans_it_where_it_trains_the_policy(storage):
    words = ("evaluation.draft_horizons=1", "train.batch_rows=4", "critic_stage.batch_rows=4")
    prepared = prepare(configured(storage, *words))
    assert prepared.step_evaluations is not None
    assert "Evaluation while stage 2 trains" in prepared.rendered
    assert "evaluating the policy meanwhile" in prepared.rendered
    for off in ("stages=[1]", "evaluation.every_steps=0", "evaluation.every_steps=null"):
        assert prepare(configured(storage, *words, off)).step_evaluations is None
    with pytest.raises(ConfigError, match="draft_horizons=3"):
        prepare(configured(storage, *words[1:], "evaluation.draft_horizons=3"))


def test_the_evaluator_has_its_share_of_the_machine(storage):
    with_evaluator, without = (
        training_resources(configured(storage, "cluster.cpus_per_evaluator=0.25", word))
        for word in ("stages=[2]", "evaluation.every_steps=0")
    )
    assert with_evaluator == replace(without, cpus=without.cpus + 0.25)
