"""A Ray cluster of its own for tests of deployment: started by the command line, on free ports, with its own token.

Nothing of it is visible to another Ray on this machine: home (and so the token), temporary directory and ports differ.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.flows.world import wait_until

ROOT = Path(__file__).resolve().parents[2]
NOT_UPLOADED = (".git", ".venv", "storage", ".*_cache", "*.egg-info", ".hypothesis", "__pycache__")
COMMAND_S = 400


@dataclass(frozen=True)
class JobCluster:
    """Where the cluster listens, and the shell in which its commands run."""

    address: str
    api_server: str
    environment: dict[str, str]
    working_dir: Path

    def run(self, words: Sequence[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            words,
            cwd=self.working_dir,
            env=self.environment | variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_S,
        )


def documented(title: str) -> list[list[str]]:
    """Return the fenced blocks of a section of docs/deployment.md, as lines."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return [block.strip().splitlines() for block in re.findall(r"```\n(.*?)```", section, re.DOTALL)]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def own_environment(home: Path) -> dict[str, str]:
    """Return the environment of a user who has never used Ray, with this Python first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def copy_of_the_repository(target: Path) -> Path:
    """Copy what would be uploaded, so that nobody edits it meanwhile."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_UPLOADED))
    return target


@contextmanager
def started(
    start: Sequence[str], environment: dict[str, str], working_dir: Path, num_cpus: int
) -> Iterator[JobCluster]:
    """Run `ray start --head` with what keeps it apart from other clusters; end it, and it alone, afterwards."""
    port, dashboard, client = free_ports(3)
    # A short name of its own: paths of sockets are limited to a hundred bytes.
    with tempfile.TemporaryDirectory(prefix="ray_", dir="/tmp", ignore_cleanup_errors=True) as directory:
        apart = [
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={directory}",
        ]
        with node([*start, *apart], environment, num_cpus) as head:
            wait_until(lambda: listens(dashboard) or head.poll() is not None, "the head of the cluster")
            assert head.poll() is None, "the head of the cluster did not start"
            yield JobCluster(f"127.0.0.1:{port}", f"127.0.0.1:{dashboard}", environment, working_dir)


@contextmanager
def node(start: Sequence[str], environment: dict[str, str], num_cpus: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ray start ...` in the foreground, where it takes its processes along when it ends."""
    [agent] = free_ports(1)
    own = [f"--num-cpus={num_cpus}", f"--dashboard-agent-listen-port={agent}", "--block"]
    process = subprocess.Popen(
        [*start, *own], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(timeout=120)
        for left in psutil.wait_procs(family, timeout=20)[1]:
            left.kill()


def listens(port: int) -> bool:
    """Whether a port of this machine is open."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
