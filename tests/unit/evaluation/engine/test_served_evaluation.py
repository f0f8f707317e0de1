"""An evaluation whose answers a server gives: formats, identity, what is saved of answers, what is warned of."""

import dataclasses
from datetime import datetime

import orjson
import pytest

from tests.unit.evaluation.examples import humaneval_file, mbpp_file
from tests.unit.evaluation.test_results import results_of
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.config.evaluation import FormatName, ProblemKind
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.compare import compare
from wmtp_ray.evaluation.decoding import Decoded
from wmtp_ray.evaluation.formats import Asked, choose_format
from wmtp_ray.evaluation.identity import EvaluationIdentity, ModelHashes, identify, served_identity
from wmtp_ray.evaluation.ledger import DecodedAnswers, Ledger
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.prompts import FORMATS
from wmtp_ray.evaluation.samples import Sample
from wmtp_ray.evaluation.served import Served, ServedModel
from wmtp_ray.preflight.needed_resources import evaluation_resources

URL = "http://localhost:8000/v1"
SERVED = ServedModel(URL, "completions", "policy", None)
AUTO: dict[ProblemKind, FormatName] = {"humaneval": "auto", "mbpp": "auto", "instruction": "auto"}


@pytest.fixture
def problems(tmp_path):
    return read_problems(humaneval_file(tmp_path))


def configured(*words):
    given = ["recipe=baseline", "evaluation.engine=openai", f"engine.url={URL}", *words]
    return load_config(parse_arguments(given), now=datetime(2026, 1, 1))


def identity_of(problems, *words, said_to_be=None, **server) -> EvaluationIdentity:
    config = configured(*words)
    served = dataclasses.replace(SERVED, **server)
    answers = served_identity(served, said_to_be, FORMATS["completion"], config)
    return identify(problems, answers, config.evaluation, "landlock")


def sample(task_id: str, number: int, text: str, model: str = "policy-1") -> Sample:
    return Sample(task_id, number, text, text, "stop", 5, 0, (), (), Served(model, URL, 7, 5))


# --- formats ---------------------------------------------------------------------------------------------------------


def test_the_completions_api_takes_the_formats_that_are_text(problems, tmp_path):
    asked = Asked(None, is_trained=False, api="completions")
    found = choose_format(problems, AUTO, asked)
    assert found.format.name == "completion"
    assert "the server's tokenizer is not known; --tokenizer" in found.reason
    mbpp = read_problems(mbpp_file(tmp_path))
    assert choose_format(mbpp, AUTO, asked).format.name in ("mbpp-3shot", "mbpp-0shot")
    assert choose_format(problems, AUTO | {"humaneval": "instruct"}, asked).format.name == "instruct"
    with pytest.raises(ConfigError, match=r"The format chat with engine\.api=completions.*set engine\.api=chat"):
        choose_format(problems, AUTO | {"humaneval": "chat"}, asked)


def test_a_tokenizer_that_is_known_chooses_as_it_does_for_a_decoder(problems, tmp_path):
    train_tokenizer([each.prompt for each in problems.problems], tmp_path / "tokenizer.model", 280)
    tokenizer = CodeTokenizer(tmp_path / "tokenizer.model")
    found = [choose_format(problems, AUTO, Asked(tokenizer, False, api=api)) for api in (None, "completions")]
    assert found[0] == found[1]


def test_the_chat_api_takes_the_format_chat_alone(problems):
    asked = Asked(None, is_trained=False, api="chat")
    assert choose_format(problems, AUTO, asked).reason == "auto: engine.api=chat"
    assert choose_format(problems, AUTO | {"humaneval": "chat"}, asked).reason == "asked for"
    with pytest.raises(ConfigError, match=r"The format completion with engine\.api=chat.*engine\.api=completions"):
        choose_format(problems, AUTO | {"humaneval": "completion"}, asked)


def test_a_policy_of_chats_is_not_asked_without_its_template_by_accident(problems):
    asked = Asked(None, is_trained=True, template="chat", api="completions")
    with pytest.raises(ConfigError, match=r"trained on chats .*set engine\.api=chat, or name a format"):
        choose_format(problems, AUTO, asked)
    assert choose_format(problems, AUTO | {"humaneval": "instruct"}, asked).format.name == "instruct"


# --- identity --------------------------------------------------------------------------------------------------------


def test_another_server_model_setting_or_claim_is_another_evaluation(problems):
    hashes = ModelHashes("w", "p", "t")
    keys = [
        identity_of(problems).key,
        identity_of(problems, url="http://localhost:8001/v1").key,
        identity_of(problems, model="other").key,
        identity_of(problems, root="/models/other").key,
        identity_of(problems, api="chat").key,
        identity_of(problems, said_to_be=hashes).key,
        identity_of(problems, said_to_be=dataclasses.replace(hashes, weights_sha256="other")).key,
        identity_of(problems, "engine.send_seed=false").key,
        identity_of(problems, "seed=5").key,
        identity_of(problems, "evaluation.temperature=0.5").key,
        identity_of(problems, "evaluation.top_p=0.5").key,
        identity_of(problems, "evaluation.max_new_tokens=5").key,
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "word",
    ["engine.max_in_flight=1", "engine.request_s=5", "engine.silence_s=700", "engine.connect_s=5",
     "engine.api_key_env=K", "evaluation.num_decoders=3", "evaluation.batch_size=2", "evaluation.draft_horizons=1",
     "train.dtype=bfloat16"],
)  # fmt: skip
def test_how_it_is_asked_and_what_decoders_would_do_is_no_part_of_it(problems, word):
    assert identity_of(problems, word).key == identity_of(problems).key


def test_the_record_claims_no_weights(problems):
    content = identity_of(problems).content["answers"]
    assert content["server"] == {"url": URL, "api": "completions", "model": "policy", "root": None}
    assert content["said_to_be"] is None
    assert "model" not in content


# --- answers ---------------------------------------------------------------------------------------------------------


def test_a_server_is_asked_the_text_and_what_is_there_is_not_asked_again(problems, tmp_path):
    answers = DecodedAnswers(problems, None, FORMATS["completion"], 2)
    ledger = Ledger(tmp_path / "out", "humaneval")
    requests = answers.text_requests(ledger, seed=3)
    assert [each.text for each in requests] == [each.prompt for each in problems.problems for _ in range(2)]
    assert len({each.seed for each in requests}) == len(requests)
    served = Served("policy-1", URL, 11, 4)
    decoded = [
        Decoded(each.key, (), "    return 1\n", "    return 1\n", "stop", 0, (), (), served) for each in requests
    ]
    ledger.add_samples([answers.sample_of(each) for each in decoded[:3]])
    again = Ledger(tmp_path / "out", "humaneval")
    assert answers.text_requests(again, seed=3) == requests[3:]
    again.add_samples([answers.sample_of(each) for each in decoded[3:]])
    again.close([each.task_id for each in problems.problems])
    lines = [orjson.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_bytes().splitlines()]
    assert len(lines) == len(requests)
    assert {each["num_tokens"] for each in lines} == {4}
    said = {"model": "policy-1", "url": URL, "seed": 11, "num_tokens": 4}
    assert all(each["served"] == said for each in lines)
    assert Ledger(tmp_path / "out", "humaneval").samples == again.samples


def test_answers_of_our_decoders_are_saved_as_before(problems, tmp_path):
    answers = DecodedAnswers(problems, 1, FORMATS["completion"], 1)
    ledger = Ledger(tmp_path / "out", "humaneval")
    key = f"{problems.problems[0].task_id}#0"
    ledger.add_samples([answers.sample_of(Decoded(key, (1,), "x", "x", "end", 1, (), ()))])
    line = orjson.loads((tmp_path / "out" / "samples.jsonl").read_bytes())
    assert "served" not in line


# --- results ---------------------------------------------------------------------------------------------------------


def test_results_say_who_answered_and_count_no_forwards():
    results = results_of(samples=[sample(task, number, f"{task}{number}") for task in "abc" for number in range(3)])
    assert results.answered_by == {f"policy-1 at {URL}": 9}
    assert results.decoding is not None
    assert (results.decoding.num_tokens, results.decoding.tokens_per_forward) == (45, None)
    assert "eval/humaneval/tokens_per_forward" not in results.metrics()
    assert results_of().answered_by is None


def test_a_change_of_the_model_on_the_way_is_warned_of():
    samples = [sample("a", number, str(number), model=f"policy-{number}") for number in range(3)]
    assert any(
        "answers come from 3 models, which Pass@K mixes" in each for each in results_of(samples=samples).warnings
    )


def test_a_server_that_does_not_sample_is_warned_of():
    same = [sample(task, number, "same") for task in "abc" for number in range(3)]
    differ = [*same[:-1], sample("c", 2, "other")]
    assert any("the server does not sample" in each for each in results_of(samples=same).warnings)
    assert not any("does not sample" in each for each in results_of(samples=differ).warnings)
    greedy = [sample(task, 0, "same") for task in "abc"]
    assert not any("does not sample" in each for each in results_of(samples=greedy).warnings)


def test_two_evaluations_of_servers_are_never_said_to_be_of_one_policy(problems):
    """Not even under one name: the server may have loaded other weights in between."""
    results = results_of(ks=(1,))
    answers = identity_of(problems, model="/models/policy").content["answers"]
    served = dataclasses.replace(results, identity=results.identity | {"answers": answers})
    text = compare(served, served).render()
    assert "evaluations of the same policy" not in text
    assert "policy, served (before, weights not known)" in text


# --- resources -------------------------------------------------------------------------------------------------------


def test_the_client_of_a_server_takes_one_share_and_no_gpu():
    words = ("evaluation.num_decoders=4", "cluster.gpus_per_decoder=1", "cluster.cpus_per_decoder=0.5")
    words += ("evaluation.num_judges=2", "cluster.cpus_per_judge=0.25")
    found = evaluation_resources(configured(*words), with_decoders=True)
    assert (found.cpus, found.gpus) == (1.0, 0.0)
