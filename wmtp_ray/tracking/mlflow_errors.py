"""Explain MLflow's errors to the user: what was found, and what to do. Messages are never cut in the middle."""

import re
import shlex
import sqlite3
import textwrap
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

SQLITE_PREFIX = "sqlite:///"
MAX_FOUND_CHARS = 300
_CONTENT_STATUSES = (400, 413, 422)
_CHECK_URI = "check that it runs and that tracking.mlflow_uri is right, or set tracking.mlflow=false"
_FILE_CAUSES = {
    "unable to open database file": ("cannot be opened", "give this user the right to write it and its folder"),
    "readonly database": ("cannot be written", "give this user the right to write it and its folder"),
    "Permission denied": ("may not be written", "give this user the right to write it and its folder"),
    "database is locked": ("is locked by another process", "end that process, or use a server (mlflow server)"),
    "disk is full": ("is on a full disk", "make room there"),
    "file is not a database": ("is no sqlite database", "move that file away, or restore it"),
    "disk image is malformed": ("is damaged", "restore it from a backup, or move it away"),
}


@dataclass(frozen=True)
class Cause:
    """`found` continues "MLflow at ADDRESS"; `remedy` is what to do, without a full stop."""

    found: str
    remedy: str


class MlflowUnusable(Exception):
    """MLflow answers, but refuses all data of this run until the user removes the cause."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.found)
        self.cause = cause


def experiment_deleted(uri: str, name: str, experiment_id: str) -> MlflowUnusable:
    """Return a message that the experiment was deleted and how it comes back."""
    command = _mlflow(uri, f"experiments restore -x {experiment_id}")
    return MlflowUnusable(
        Cause(
            f"has the experiment {name} (id {experiment_id}) as deleted",
            f"`{command}` restores it with its runs, or set tracking.experiment to another name",
        )
    )


def run_deleted(uri: str, run_id: str) -> MlflowUnusable:
    """Return a message that the run was deleted while it was written, and how it comes back."""
    return MlflowUnusable(
        Cause(f"has this run ({run_id}) as deleted", f"`{restore_run_command(uri, run_id)}` restores it")
    )


def restore_run_command(uri: str, run_id: str) -> str:
    """Return the command that brings a deleted run back."""
    return _mlflow(uri, f"runs restore --run-id {run_id}")


def require_usable_file(uri: str) -> None:
    """Raise MlflowUnusable at once for an sqlite file that cannot be written: MLflow would try again for minutes."""
    if not uri.startswith(SQLITE_PREFIX):
        return
    path = uri.removeprefix(SQLITE_PREFIX).partition("?")[0]
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as database:
            database.execute("begin immediate")
            database.rollback()
    except sqlite3.Error as error:
        raise MlflowUnusable(cause_of(error, uri)) from error


def cause_of(error: Exception, uri: str) -> Cause:
    """Explain what MLflow, or the way to it, raised."""
    if isinstance(error, MlflowUnusable):
        return error.cause
    text = without_password(" ".join(str(error).split()))
    if (
        versions := re.search(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)", text)
    ) is not None:
        return _schema_cause(versions[1], versions[2], uri)
    for sign, (found, remedy) in _FILE_CAUSES.items():
        if sign in text and (uri.startswith(SQLITE_PREFIX) or sign != "Permission denied"):
            return Cause(f"{found} ({_short(error, text)})", f"{remedy}, or set tracking.mlflow_uri to another place")
    if (status := _status_of(error)) in (401, 403):
        return Cause(
            f"refuses who asks ({_short(error, text)})",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment",
        )
    if status in _CONTENT_STATUSES:
        return Cause(f"refused some ({_short(error, text)})", "look into the log of the server")
    return Cause(f"does not answer ({_short(error, text)})", _CHECK_URI)


def is_refusal(error: Exception) -> bool:
    """Whether MLflow refuses the request's content; otherwise a retry may succeed."""
    return not isinstance(error, MlflowUnusable) and _status_of(error) in _CONTENT_STATUSES


def says_deleted(error: Exception) -> bool:
    """Whether MLflow refused since a run or its experiment is deleted."""
    return "Current state is deleted" in str(error)


def is_unknown(error: Exception) -> bool:
    """Whether MLflow says that it has no such run."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def without_password(text: str) -> str:
    """http://name:word@host/x -> http://host/x."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _schema_cause(found: str, expected: str, uri: str) -> Cause:
    import mlflow

    folder = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
    if not any(folder.glob(f"{found}_*.py")):
        return Cause(
            f"is a database of another MLflow (schema {found}) than the installed {mlflow.__version__} ({expected})",
            "install the MLflow that wrote it, or set tracking.mlflow_uri to another database",
        )
    return Cause(
        f"is a database of an older MLflow (schema {found}, expected {expected})",
        f"make a backup of it, then run `mlflow db upgrade {shlex.quote(without_password(uri))}`",
    )


def _mlflow(uri: str, words: str) -> str:
    return f"MLFLOW_TRACKING_URI={shlex.quote(without_password(uri))} mlflow {words}"


def _status_of(error: Exception) -> int:
    status_of = getattr(error, "get_http_status_code", None)
    return int(status_of()) if status_of is not None else 0


def _short(error: Exception, text: str) -> str:
    """The library's words without the SQL and links that follow them."""
    words = re.split(r"\s*(?:\[SQL:|\(Background on this error)", text)[0]
    return f"{type(error).__name__}: {textwrap.shorten(words, MAX_FOUND_CHARS, placeholder=' ...')}"
