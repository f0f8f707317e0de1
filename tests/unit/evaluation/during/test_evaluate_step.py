"""A policy's evaluation while it trains: a nano model, the real judge, one process; never twice for the same policy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.unit.evaluation.collecting.nano_world import make_nano_world
from tests.unit.evaluation.during.test_step_plan import configured
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.collecting.local_workers import LocalWorkers
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode
from wmtp_ray.evaluation.during.evaluate_step import StepEvaluation
from wmtp_ray.evaluation.during.step_plan import StepEvaluationPlan, plan_step_evaluations
from wmtp_ray.evaluation.during.step_scores import StepScores
from wmtp_ray.evaluation.formats import Asked
from wmtp_ray.evaluation.judge import Judge


class Died(Exception):
    """The evaluator ends here."""


@dataclass
class World:
    """An evaluator over a nano model; `asked` are the answers that it has decoded, `dies_at` one that it does not."""

    config: RunConfig
    plan: StepEvaluationPlan
    judge: Judge
    asked: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    dies_at: int | None = None

    def evaluation(self) -> StepEvaluation:
        model = load_transformer(self.config.model.path).eval().requires_grad_(False)
        tokenizer = CodeTokenizer(self.config.tokenizer.path)
        decoded = partial(decode, model, tokenizer, batch_size=1)

        def counted(requests: Sequence[DecodingRequest], settings: DecodingSettings) -> Iterator[Decoded]:
            for number, each in enumerate(decoded(requests, settings)):
                if number == self.dies_at:
                    raise Died
                self.asked.append(each.key)
                yield each

        workers = LocalWorkers(counted, self.judge, num_judges=1)
        return StepEvaluation(self.plan, self.config, tokenizer, "params", workers)

    def evaluate(self, step: int, weights: str) -> float:
        results = self.evaluation().evaluate(step, weights, lambda: self.loaded.append(weights))
        return results.pass_at_k["1"].value

    @property
    def scores(self) -> StepScores:
        return StepScores(self.plan.home(self.config.folder.step_evaluations))


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with Judge("rlimits", 0.3, 1, isolation_required="rlimits") as judge:
        yield judge


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_nano_world(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def world(storage: Path, judge: Judge, request: pytest.FixtureRequest) -> World:
    name = "".join(each for each in request.node.name if each.isalnum())
    words = (f"run_name={name}", "evaluation.max_new_tokens=8", "evaluation.draft_horizons=0")
    config = configured(storage, *words, "evaluation.num_samples=2", "evaluation.temperature=1")
    plan = plan_step_evaluations(config, Asked(CodeTokenizer(config.tokenizer.path), is_trained=True))
    return World(config, plan, judge)


def test_the_results_of_a_step_are_in_its_folder(world):
    found = world.evaluate(4, "a")
    assert world.scores.steps() == [4]
    assert world.scores.pass_at_1(4) == found
    results = world.scores.results_of(4)
    assert results is not None
    assert [each.num_samples for each in results.problems] == [2, 2]
    assert (len(world.asked), world.loaded) == (4, ["a"])
    assert set(results.metrics()) >= {"eval/list_tasks/pass@1", "eval/list_tasks/pass@1/ci_low"}


def test_the_same_policy_is_not_evaluated_twice_and_another_one_anew(world):
    first = world.evaluate(4, "a")
    assert world.evaluate(4, "a") == first
    assert world.loaded == ["a"], "a run that trains the step again needs no weights to know it"
    world.evaluate(4, "b")
    assert (world.loaded, len(world.asked)) == (["a", "b"], 8)
    assert world.scores.steps() == [4]


def test_an_evaluator_that_died_goes_on_where_it_was(world):
    whole = world.evaluate(0, "a")
    expected = world.scores.results_of(0)
    world.asked.clear()
    world.dies_at = 3
    with pytest.raises(Died):
        world.evaluate(8, "a")
    assert world.scores.steps() == [0]
    world.dies_at = None
    assert world.evaluate(8, "a") == whole
    assert len(world.asked) == len(set(world.asked)) == 4, "no answer was decoded twice"
    found = world.scores.results_of(8)
    assert found is not None
    assert expected is not None
    assert found.problems == expected.problems
