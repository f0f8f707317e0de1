"""A ledger that is opened again asks for what is missing and for nothing else; its files end in one order."""

import random

import pytest

from tests.unit.evaluation.examples import humaneval_file
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest
from wmtp_ray.evaluation.judging import Judgement
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.prompts import FORMATS


@pytest.fixture
def problems(tmp_path):
    return read_problems(humaneval_file(tmp_path))


@pytest.fixture
def tokenizer(problems, tmp_path):
    train_tokenizer([each.prompt for each in problems.problems], tmp_path / "tokenizer.model", 280)
    return CodeTokenizer(tmp_path / "tokenizer.model")


def answers_to(problems, *, num_samples=2, limit=None):
    return DecodedAnswers(problems, limit, FORMATS["completion"], num_samples)


def decoded(request: DecodingRequest) -> Decoded:
    text = f"    return {request.seed}\n"
    return Decoded(request.key, (1, 2), f"{text}\ndef", text, "stop", 2, (1,), (0,))


def judged(place, status="pass"):
    return Judgement(*place, status, "", 0.0, None)


def test_every_answer_has_a_request_of_its_own_seed_and_its_problem_s_prompt(problems, tokenizer, tmp_path):
    requests = answers_to(problems).requests(Ledger(tmp_path, "humaneval"), tokenizer, seed=3)
    assert len(requests) == 6
    assert len({request.seed for request in requests}) == 6
    assert [request.prompt_ids for request in requests[::2]] == [request.prompt_ids for request in requests[1::2]]
    assert requests == answers_to(problems).requests(Ledger(tmp_path, "humaneval"), tokenizer, seed=3)
    assert len(answers_to(problems, limit=1).requests(Ledger(tmp_path, "humaneval"), tokenizer, seed=3)) == 2


def test_a_killed_evaluation_asks_for_what_is_missing_and_ends_in_the_same_files(problems, tokenizer, tmp_path):
    answers = answers_to(problems)
    whole = Ledger(tmp_path / "whole", "humaneval")
    requests = answers.requests(whole, tokenizer, seed=0)
    samples = [answers.sample_of(decoded(request)) for request in requests]
    whole.add_samples(samples)
    whole.add_judgements([judged(each.place) for each in samples])
    task_ids = [problem.task_id for problem in problems.problems]
    whole.close(task_ids)

    order = random.Random(1).sample(samples, len(samples))
    killed = Ledger(tmp_path / "killed", "humaneval")
    killed.add_samples(order[:4])
    killed.add_judgements([judged(order[0].place), judged(order[1].place, "error")])

    again = Ledger(tmp_path / "killed", "humaneval")
    missing = answers.requests(again, tokenizer, seed=0)
    assert {request.key for request in missing} == {f"{each.task_id}#{each.sample}" for each in order[4:]}
    again.add_samples([answers.sample_of(decoded(request)) for request in missing])
    tasks = again.unjudged(map(answers.task_of, again.samples.values()))
    places = {(task.task_id, task.sample) for task in tasks}
    assert places == {each.place for each in order[1:]}, "the judge's own failure is judged once more"
    again.add_judgements([judged(place) for place in places])
    again.close(task_ids)
    for name in ("samples.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_is_judged_is_the_whole_program(problems, tokenizer, tmp_path):
    answers = answers_to(problems)
    request = answers.requests(Ledger(tmp_path, "humaneval"), tokenizer, seed=0)[3]
    sample = answers.sample_of(decoded(request))
    task = answers.task_of(sample)
    assert (task.task_id, task.sample) == ("HumanEval/1", 1)
    assert task.program == f"{problems.problems[1].prompt}    return {request.seed}\n"
    assert task.tests == problems.problems[1].tests
    assert sample.raw_completion.endswith("\ndef"), "what was cut is kept"
