"""`wmtp collect --engine`: a server answers, this process judges; its failures cost no finished answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.evaluation.collecting.nano_world import make_nano_world, problems_file, rows_of
from tests.unit.evaluation.engine.small_server import Asked, Reply, SmallServer, answering, completion, models
from wmtp_ray.cli import main
from wmtp_ray.evaluation.collecting.collection_manifest import read_collection_manifest

NUM_PROBLEMS = 6


class Policy:
    """Answers each problem with its right program and a wrong one in turn, until `breaks_after` answers."""

    def __init__(self, problems: Path) -> None:
        self._solutions = {each["prompt"]: each["canonical_solution"] for each in rows_of(problems)}
        self._turns = dict.fromkeys(self._solutions, 0)
        self.num_answers = 0
        self.breaks_after: int | None = None

    def __call__(self, asked: Asked) -> Reply:
        if asked.path.endswith("/models"):
            return models("policy")
        if self.breaks_after is not None and self.num_answers >= self.breaks_after:
            return Reply(503, b"out of order")
        self.num_answers += 1
        [prompt] = [each for each in self._solutions if f"\n{each}\n" in asked.body["prompt"]]
        self._turns[prompt] += 1
        wrong = f"def f(a):\n    return {self.num_answers}\n"
        return completion(self._solutions[prompt] if self._turns[prompt] % 2 else wrong, tokens=9, model="policy-1")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nano_world(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def policy(storage: Path) -> Policy:
    return Policy(problems_file(storage))


@pytest.fixture
def server(policy: Policy) -> Iterator[SmallServer]:
    with answering(policy) as found:
        yield found


def served_command(storage: Path, server: SmallServer, out: Path, *more: str) -> list[str]:
    words = ["collect", "--engine", server.url, "--problems", str(problems_file(storage)), "--out", str(out)]
    return [*words, "--num-samples=2", "--temperature=1", f"storage_root={storage}", "engine.max_in_flight=1", *more]


def test_rows_name_the_server_s_model_and_no_weights(
    storage: Path, server: SmallServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert main(served_command(storage, server, out)) == 0, capsys.readouterr().err
    rows, manifest = rows_of(out), read_collection_manifest(out)
    assert [row["is_correct"] for row in rows] == [True, False] * NUM_PROBLEMS
    for row in rows:
        collected = row["metadata"]["collected"]
        assert (collected["model"], collected["server"]) == ("policy-1", server.url)
        assert collected["weights_sha256"] is None
        assert (collected["temperature"], collected["seed"]) == (1.0, 42)
        assert row["task_id"].endswith(f"{manifest.origin}-{collected['sample']}")
    assert manifest.policy == f"policy at {server.url}"
    assert manifest.tokenizer_sha256 is None
    assert manifest.identity["answers"]["server"]["model"] == "policy"
    assert manifest.counts.tokens == 9 * 2 * NUM_PROBLEMS
    asked = [each.body for each in server.asked if not each.path.endswith("/models")]
    assert len({(each["prompt"], each["seed"]) for each in asked}) == len(asked), "every answer has a seed of its own"


def test_a_server_that_breaks_down_costs_no_answer_and_the_same_command_goes_on(
    storage: Path, policy: Policy, server: SmallServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    words = served_command(storage, server, out, "engine.silence_s=1", "engine.request_s=0.5")
    policy.breaks_after = 5
    assert main(words) == 1
    assert "its last failure: status 503" in capsys.readouterr().err
    assert not out.exists()
    before = (tmp_path / "rows.jsonl.answers" / "samples.jsonl").read_bytes().splitlines()
    assert len(before) == 5
    policy.breaks_after = None
    assert main(words) == 0
    assert policy.num_answers == 2 * NUM_PROBLEMS, "nothing is asked twice"
    assert set(before) <= set((tmp_path / "rows.jsonl.answers" / "samples.jsonl").read_bytes().splitlines())
    assert len(rows_of(out)) == 2 * NUM_PROBLEMS


def test_a_checkpoint_that_the_server_is_said_to_have_is_recorded_and_checks_the_programs(
    storage: Path, server: SmallServer, tmp_path: Path
) -> None:
    out, model = tmp_path / "rows.jsonl", storage / "models_v2" / "nano_mtp"
    assert main(served_command(storage, server, out, "--checkpoint", str(model), "--limit=1")) == 0
    manifest = read_collection_manifest(out)
    claimed = manifest.identity["answers"]["said_to_be"]
    assert manifest.tokenizer_sha256 == claimed["tokenizer_sha256"]
    assert rows_of(out)[0]["metadata"]["collected"]["weights_sha256"] is None, "nobody knows what answers"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--decoders=2"], "found evaluation.num_decoders for a server"),
        (["--speculate=1", "--batch-size=4"], "found evaluation.draft_horizons, evaluation.batch_size for a server"),
        (["--format=chat"], "The format chat with engine.api=completions"),
        (["engine.url=http://127.0.0.1:9/v1", "engine.connect_s=0.1"], "did not answer within 0.1 s"),
    ],
)
def test_what_a_server_cannot_do_is_refused_by_name(
    storage: Path, server: SmallServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main(served_command(storage, server, tmp_path / "rows.jsonl", *more)) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_somebody_has_to_answer(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "--problems", str(problems_file(storage)), "--out", str(tmp_path / "rows.jsonl")]
    assert main([*words, f"storage_root={storage}"]) == 2
    assert "expected --checkpoint RUN|DIR or --engine URL" in capsys.readouterr().err
