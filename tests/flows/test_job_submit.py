"""The steps of docs/deployment.md do what they say: each line is run, for a micro model on a cluster of one node."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.job_cluster import JobCluster, copy_of_the_repository, documented, own_environment, started
from tests.flows.world import make_world, metrics_of, wait_until
from wmtp_ray.tracking.processes import process_id
from wmtp_ray.tracking.result import read_result

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

NUM_STEPS = 200
MICRO = (
    "preset=quickstart stages=[2] train.epochs=40 train.batch_rows=16 train.checkpoint_every=1000 "
    f"train.max_steps={NUM_STEPS} tracking.mlflow=false tracking.progress=false"
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("imports") / "imports.txt"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, imports: Path) -> Iterator[JobCluster]:
    """The head, started by the page's first block; its copy of the code notes which process imports it from where."""
    working_dir = copy_of_the_repository(tmp_path_factory.mktemp("submitted") / "tree")
    with (working_dir / "wmtp_ray" / "__init__.py").open("a") as module:
        module.write(f"import os\nopen({str(imports)!r}, 'a').write(f'{{os.getpid()}} {{__file__}}\\n')\n")
    environment = own_environment(tmp_path_factory.mktemp("home"))
    install, generate, grace, start = documented("A job on a cluster")[0]
    assert install.startswith("pip install")  # done: this is the environment that the tests run in
    environment |= exported(grace)
    assert JobCluster("", "", environment, working_dir).run(shlex.split(generate)).returncode == 0
    with started(shlex.split(start), environment, working_dir, num_cpus=4) as running:
        yield running


def exported(line: str) -> dict[str, str]:
    """Read `export NAME=VALUE`."""
    name, value = line.removeprefix("export ").split("=", 1)
    return {name: value}


def imported_from(imports: Path) -> dict[int, str]:
    """Return the directory from which each process, by its id, has imported this package."""
    lines = (line.split() for line in imports.read_text().splitlines())
    return {int(pid): str(Path(file).parent) for pid, file in lines}


def scored_and_trained(run_dir: Path) -> list[int]:
    """Return the ids of the rank and of the critic."""
    return [process_id(run_dir, role) for role in ("rank_0", "critic_0")]


def test_a_stopped_and_resumed_job_ends_as_one_that_was_never_stopped(
    cluster: JobCluster, storage: Path, imports: Path
) -> None:
    run_dir = storage / "runs" / "first"

    def substituted(line: str) -> list[str]:
        for there, here in (("http://HEAD:8265", f"http://{cluster.api_server}"), ("/DIR", str(storage))):
            line = line.replace(there, here)
        return shlex.split(line.replace("preset=a100-4", MICRO))

    mode, api_server, submit, logs, stop, resubmit = documented("A job on a cluster")[2]
    client = exported(mode) | exported(" ".join(substituted(api_server)))
    submitted = cluster.run(substituted(submit), **client)
    assert submitted.returncode == 0, submitted.stdout
    try:
        wait_until(lambda: len(metrics_of(run_dir)) > 3, "the first steps of the job")
    except AssertionError as late:
        raise AssertionError(cluster.run(substituted(logs), **client).stdout) from late
    copies = imported_from(imports)
    assert len(set(copies.values())) == 1, "driver, rank, critic and data tasks run the same code"
    assert all("_ray_pkg_" in copies[pid] for pid in scored_and_trained(run_dir)), "the submitted copy"
    stopped = cluster.run(substituted(stop), **client)
    assert stopped.returncode == 0, stopped.stdout
    assert read_result(run_dir).status == "KILLED"
    done = len(metrics_of(run_dir))
    assert 3 < done < NUM_STEPS
    assert [path.name for path in (run_dir / "checkpoints").glob("step_*")] == [f"step_{done}"]
    log = cluster.run(substituted(logs), **client).stdout
    assert "Stopping after this step, with a checkpoint" in log
    assert "continue with run_name=first --resume" in log
    resumed = cluster.run(substituted(resubmit), **client)
    assert resumed.returncode == 0, resumed.stdout
    assert f"done: {NUM_STEPS} steps" in resumed.stdout
    assert [line["step"] for line in metrics_of(run_dir)] == list(range(NUM_STEPS))

    # The same run, undisturbed, with the driver outside: RAY_ADDRESS and the token that lies in the home.
    words = [word.replace("run_name=first", "run_name=whole") for word in substituted(submit)]
    whole = cluster.run(words[words.index("--") + 1 :], RAY_ADDRESS=cluster.address)
    assert whole.returncode == 0, whole.stdout
    sources = imported_from(imports)
    assert {sources[pid] for pid in scored_and_trained(storage / "runs" / "whole")} == {
        str(cluster.working_dir / "wmtp_ray")
    }
    assert read_result(run_dir).policy_sha256 == read_result(storage / "runs" / "whole").policy_sha256


def test_a_run_is_never_kept_in_the_copy_of_a_job(cluster: JobCluster) -> None:
    submit = documented("A job on a cluster")[2][2].replace("--no-wait --submission-id first ", "")
    words = shlex.split(submit.replace("preset=a100-4", MICRO).replace("storage_root=/DIR ", ""))
    refused = cluster.run(words, RAY_AUTH_MODE="token", RAY_API_SERVER_ADDRESS=f"http://{cluster.api_server}")
    assert refused.returncode == 1
    assert "exit code 2" in refused.stdout
    assert "Ray made for this job and deletes" in refused.stdout
    assert "storage_root=/DIR" in refused.stdout


@pytest.mark.parametrize("token", ["0" * 64, None], ids=["wrong", "none"])
def test_a_refused_token_is_one_message_and_no_run(
    cluster: JobCluster, storage: Path, tmp_path: Path, token: str | None
) -> None:
    words = ["python", "-m", "wmtp_ray.launch", "recipe=verifiable", *MICRO.split(), f"storage_root={storage}"]
    variables = {"HOME": str(tmp_path), "RAY_ADDRESS": cluster.address}
    refused = cluster.run([*words, "run_name=refused"], **variables, **({"RAY_AUTH_TOKEN": token} if token else {}))
    assert refused.returncode == 2, refused.stdout
    assert "error: The cluster at RAY_ADDRESS=" in refused.stdout
    assert "Traceback" not in refused.stdout
    assert not (storage / "runs" / "refused").exists()
