"""Another evaluation is another key; the same one, wherever and however fast it runs, is the same."""

import dataclasses
from datetime import datetime

import pytest

from tests.unit.evaluation.examples import humaneval_file
from wmtp_ray.config.load import load_config, parse_arguments
from wmtp_ray.errors import ArtifactError, ConfigError
from wmtp_ray.evaluation.identity import (
    EvaluationIdentity,
    Execution,
    ModelHashes,
    claim_directory,
    decoding_identity,
    free_directory,
    identify,
    key_in,
)
from wmtp_ray.evaluation.problems import read_problems
from wmtp_ray.evaluation.prompts import FORMATS


@pytest.fixture
def problems(tmp_path):
    return read_problems(humaneval_file(tmp_path))


def identity_of(problems, *words, weights="w", seed=0, name="completion", level="landlock") -> EvaluationIdentity:
    config = load_config(parse_arguments(["recipe=baseline", *words]), now=datetime(2026, 1, 1))
    decoding = decoding_identity(
        ModelHashes(weights, "p", "t"), FORMATS[name], config.evaluation, Execution(seed, "cpu", "float32", 1)
    )
    return identify(problems, decoding, config.evaluation, level)


@pytest.mark.parametrize(
    "words",
    [
        ["evaluation.temperature=0.5"],
        ["evaluation.top_p=0.9"],
        ["evaluation.max_new_tokens=9"],
        ["evaluation.limit=2"],
        ["evaluation.num_samples=2", "evaluation.temperature=1"],
        ["evaluation.timeout_s=9"],
        ["evaluation.memory_limit_mb=9"],
        ["evaluation.draft_horizons=1"],
    ],
)
def test_a_setting_that_may_change_a_result_changes_the_key(problems, words):
    assert identity_of(problems, *words).key != identity_of(problems).key


def test_so_do_the_policy_the_seed_the_format_the_problems_and_the_sandbox(problems, tmp_path):
    keys = [
        identity_of(problems).key,
        identity_of(problems, weights="other").key,
        identity_of(problems, seed=1).key,
        identity_of(problems, name="instruct").key,
        identity_of(problems, level="rlimits").key,
        identity_of(dataclasses.replace(problems, sha256="other")).key,
        dataclasses.replace(identity_of(problems), versions={"torch": "other"}).key,
    ]
    assert len(set(keys)) == len(keys)


def test_the_label_that_prompts_name_is_part_of_it_and_no_label_changes_no_key(problems):
    plain = identity_of(problems)
    told = dataclasses.replace(plain, answers=dataclasses.replace(plain.answers, label="correct"))
    assert told.key != plain.key
    assert told.content["answers"]["label"] == "correct"
    assert "label" not in plain.content["answers"]
    fields = {"seed", "device", "dtype", "threads"}
    assert set(plain.content["answers"]["execution"]) == fields


@pytest.mark.parametrize("word", ["batch_size=3", "num_judges=1", "num_decoders=2", "isolation=namespace"])
def test_how_it_is_spread_over_workers_does_not(problems, word):
    assert identity_of(problems, f"evaluation.{word}").key == identity_of(problems).key


def test_a_folder_goes_on_with_its_own_evaluation_and_refuses_another(problems, tmp_path):
    ours, other = identity_of(problems), identity_of(problems, seed=1)
    folder = tmp_path / "eval" / "humaneval"
    assert key_in(folder) is None
    assert free_directory(folder, ours) == folder
    claim_directory(folder, ours)
    claim_directory(folder, ours)
    assert key_in(folder) == ours.key
    with pytest.raises(ConfigError, match=f"holds the evaluation {ours.key[:12]}, asked for is {other.key[:12]}"):
        claim_directory(folder, other)
    assert free_directory(folder, ours) == folder
    assert free_directory(folder, other) == folder.with_name(f"humaneval-{other.key[:12]}")


def test_a_damaged_record_of_it_is_said(problems, tmp_path):
    claim_directory(tmp_path, identity_of(problems))
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(ArtifactError, match="remove the folder"):
        free_directory(tmp_path, identity_of(problems))
