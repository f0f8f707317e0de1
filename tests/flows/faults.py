"""The faults that tests and `bench/faults.py` make in runs: each waits for its moment and returns its victim."""

import resource
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from actors.value_critic import ValueCritic
from tests.flows.world import SlowCritic, kill_at_step, kill_family, metrics_of, process_id, wait_until
from wmtp_ray.contracts import Scores, TokenBatch
from wmtp_ray.tracking.processes import find_processes


class NanCritic(SlowCritic):
    """The critic that says of step 6 what is no number."""

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        scores = super().score(batches, directory, version)
        if batches[0].step != 6:
            return scores
        return [Scores(each.version, np.full_like(each.values_BT, np.nan)) for each in scores]


class HangingCritic(ValueCritic):
    """The critic that hangs whenever it meets step 7."""

    def score(self, batches: list[TokenBatch], directory: str, version: int) -> list[Scores]:
        if batches[0].step == 7:
            psutil.Process().suspend()
        return super().score(batches, directory, version)


def stop_at_step(run_dir: Path, role: str, step: int) -> int:
    """Once `step` is recorded, stop the process of a role as if it hung."""
    return kill_at_step(run_dir, role, step, signal.SIGSTOP)


def kill_a_reader(run_dir: Path) -> int:
    """SIGKILL a process of Ray Data in the middle of a task that reads for the run."""
    killed: list[int] = []

    def killed_one() -> bool:
        for reader in (each for each in find_processes(run_dir) if each.role.startswith("reader_")):
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(reader.pid)
                process.suspend()  # so that what is seen is still so when the kill comes
                if "_read_and_tokenise" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(reader.pid)
                    return True
                process.resume()
        return False

    wait_until(killed_one, "a task of Ray Data")
    return killed[0]


def fill_the_disk_of_rank_0(run_dir: Path) -> int:
    """Once step 4 is recorded, let its writes fail beyond a few bytes of a file, as on a full disk."""
    wait_until(lambda: len(metrics_of(run_dir)) > 4, f"step 4 of {run_dir.name}")
    rank = process_id(run_dir, "rank_0")
    resource.prlimit(rank, resource.RLIMIT_FSIZE, (20_000, 20_000))
    return rank


def replace_data(run_dir: Path, data: Path) -> int:
    """Once step 8 is recorded, put another file of the same size in the place of the data, and kill rank 0."""
    wait_until(lambda: len(metrics_of(run_dir)) > 8, f"step 8 of {run_dir.name}")
    other = data.with_name(f"{data.name}.other")
    other.write_bytes(data.read_bytes().replace(b"list", b"tsil"))
    other.replace(data)
    return kill_at_step(run_dir, "rank_0", 8)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real server, on a free port where none is given, with its database in `folder`."""
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder))
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *store]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(f"{uri}/health"), "the MLflow server")
        yield uri, server
    finally:
        if server.poll() is None:
            kill_family(server)


def kill_server(run_dir: Path, server: subprocess.Popen[bytes]) -> int:
    """Once the server knows the run, kill it."""
    wait_until(lambda: (run_dir / "mlflow_run_id").exists(), "the server to know the run")
    kill_family(server)
    return server.pid


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1.0) as response:
            return bool(response.status == 200)
    except OSError:
        return False
