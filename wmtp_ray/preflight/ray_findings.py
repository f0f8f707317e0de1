"""What `wmtp doctor` reports of other Rays on this machine: none stops a run here, each can stop a job or surprise.

`ray_place.py` checks whether a Ray can start or be joined. Reads files, sockets and processes; starts no Ray.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress

import psutil

from wmtp_ray.preflight.machine_findings import Finding
from wmtp_ray.preflight.ray_place import address_file, has_token, joins_a_cluster, last_head, why_not_answering

_AGENT_PORT = re.compile(r"dashboard.agent\.py.*?--listen-port=(\d+)")
_RAYLET = "raylet"


def look_at_other_rays() -> list[Finding]:
    """Look for the token of a client, an address that a dead head has left, and a head that cannot take jobs."""
    return [*_look_at_token(), *_look_at_last_head()]


def _look_at_token() -> Iterator[Finding]:
    if joins_a_cluster() and os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not has_token():
        remedy = "copy the head's token (`ray get-auth-token` there) to ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
        yield Finding("warning", "Ray token", "none found; the cluster may refuse this client", remedy)


def _look_at_last_head() -> Iterator[Finding]:
    address = last_head()
    if address is None:
        return
    host, _, port = address.rpartition(":")
    reason = why_not_answering(host, port)
    if reason is not None:
        found = f"{address_file()} names {address}, where no Ray answers ({reason}): its head ended without `ray stop`"
        remedy = f"rm {address_file()}; our runs do not read it, `ray status` and others do"
        yield Finding("warning", "Ray head", found, remedy)
        return
    yield Finding("ok", "Ray head", f"one answers at {address}; a run joins it with RAY_ADDRESS={address} alone")
    yield from _look_at_agent(address)


def _look_at_agent(address: str) -> Iterator[Finding]:
    """Find the process that holds the head agent's port for jobs: an agent that finds it taken never takes jobs."""
    for raylet in psutil.process_iter(["name"]):
        if raylet.info["name"] != _RAYLET:
            continue
        with suppress(psutil.Error):
            words = " ".join(raylet.cmdline())
            port = _AGENT_PORT.search(words)
            if f"={address} " not in f"{words} " or port is None or port[1] == "0":
                continue
            holder = _listener(int(port[1]))
            if holder is None or raylet in holder.parents():
                continue
            found = f"the head at {address} can never take a job: its port {port[1]} is held by process {holder.pid}, "
            remedy = "`ray stop` it, then `ray start --head --dashboard-agent-listen-port=0`: any port will do"
            yield Finding("warning", "Ray jobs", f"{found}{holder.name()}", remedy)


def _listener(port: int) -> psutil.Process | None:
    """Return the process that listens at a port of this machine, where the system says which one it is."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid is not None:
            return psutil.Process(connection.pid)
    return None
