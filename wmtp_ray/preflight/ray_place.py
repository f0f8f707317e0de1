"""Where Ray would run, and what it needs there before it starts: an address, a folder for its sockets, a token.

Imports no Ray. Refuses at once, with a remedy, conditions under which Ray itself would fail after seconds with a
traceback.
"""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from wmtp_ray.errors import ConfigError
from wmtp_ray.preflight.writable import why_not_writable

OWN_CLUSTER = "local"
# Ray 2.60: <folder>/ray/session_<date>_<time>_<microseconds>_<process id>/sockets/plasma_store
_LONGEST_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
_PID_MAX = Path("/proc/sys/kernel/pid_max")
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
_PORT_TIMEOUT_S = 5.0
_ADDRESS_FILE = "ray_current_cluster"


def ray_address() -> str:
    """Return the cluster that a command would join, `local` for one of its own."""
    return os.environ.get("RAY_ADDRESS") or OWN_CLUSTER


def joins_a_cluster() -> bool:
    """Whether a command would join a cluster that runs already."""
    return ray_address() != OWN_CLUSTER


def check_ray_can_start() -> str:
    """Return where Ray would run; raises ConfigError where it could not start or be joined."""
    address = ray_address()
    if address == OWN_CLUSTER:
        check_temporary_folder(temporary_folder())
        _check_token_place()
        return (
            f"no RAY_ADDRESS: a run starts a Ray of its own on this machine, with its sockets in {temporary_folder()}"
        )
    if address == "auto":
        if not _a_head_runs():
            raise ConfigError(
                "RAY_ADDRESS=auto, but no Ray runs on this machine; start one with `ray start --head`, or unset "
                "RAY_ADDRESS to have the run start its own"
            )
    else:
        check_address(address)
    return f"RAY_ADDRESS={address}"


def temporary_folder() -> Path:
    """Return the folder in which Ray makes `ray/session_...`, as Ray looks for it."""
    named = os.environ.get("RAY_TMPDIR")
    if named is None and sys.platform.startswith("linux"):
        named = os.environ.get("TMPDIR")
    return Path("/tmp" if named is None else named)


def check_temporary_folder(folder: Path) -> None:
    """Refuse a folder whose path is too long for a socket, that is relative, or that cannot be written."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    remedy = "set RAY_TMPDIR to a short directory that can be written, for example RAY_TMPDIR=/tmp"
    if not folder.is_absolute():
        raise ConfigError(f"{name}={folder} is no absolute path, which Ray needs for its sockets; {remedy}")
    longest = len(os.fsencode(f"{folder}{_LONGEST_SOCKET.format(pid=_largest_pid())}"))
    if longest > _SOCKET_BYTES:
        most = _SOCKET_BYTES - (longest - len(os.fsencode(folder)))
        raise ConfigError(
            f"{name}={folder} has {len(os.fsencode(folder))} bytes, which makes the paths of Ray's sockets too long: "
            f"the system allows {_SOCKET_BYTES}, so expected at most {most}; {remedy}"
        )
    reason = why_not_writable(folder / "ray")
    if reason is not None:
        raise ConfigError(f"Ray's temporary folder {folder / 'ray'} cannot be written ({reason}); {remedy}")


def _largest_pid() -> int:
    with suppress(OSError, ValueError):
        return int(_PID_MAX.read_text())
    return 99_999


def _check_token_place() -> None:
    """Refuse a home directory into which a Ray of our own cannot write its token, where there is none yet."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or has_token():
        return
    home = Path.home()
    reason = why_not_writable(home / ".ray")
    if reason is not None:
        raise ConfigError(
            f"Ray writes its token to {home / '.ray' / 'auth_token'}, which cannot be written ({reason}); set HOME to "
            "a directory that can, or give a token with RAY_AUTH_TOKEN (`openssl rand -hex 32` makes one)"
        )


def has_token() -> bool:
    """Whether this machine has a token to show to a cluster, in one of the places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def check_address(address: str) -> None:
    """Refuse an address of another kind, or one where nothing listens."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise ConfigError(
            f"RAY_ADDRESS={address} is not the address of a cluster; expected HOST:PORT as `ray start --head` prints "
            "it, for example 10.0.0.1:6379 (http://... is for the job commands: RAY_API_SERVER_ADDRESS)"
        )
    reason = why_not_answering(host, port)
    if reason is not None:
        raise ConfigError(
            f"Nothing answers at RAY_ADDRESS={address} ({reason}); start the cluster with `ray start --head`, correct "
            "the address, or unset RAY_ADDRESS to run on this machine alone"
        )


def why_not_answering(host: str, port: str) -> str | None:
    """Return why no connection to the address was possible, or None."""
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PORT_TIMEOUT_S).close()
    except (OSError, OverflowError, ValueError) as error:
        return str(error)
    return None


def last_head() -> str | None:
    """Return the address that the last `ray start` left in Ray's temporary folder."""
    with suppress(OSError):
        return (temporary_folder() / "ray" / _ADDRESS_FILE).read_text().strip() or None
    return None


def address_file() -> Path:
    """Return where `ray start` leaves the address of its head."""
    return temporary_folder() / "ray" / _ADDRESS_FILE


def _a_head_runs() -> bool:
    return any(each.info["name"] == "gcs_server" for each in psutil.process_iter(["name"]))
