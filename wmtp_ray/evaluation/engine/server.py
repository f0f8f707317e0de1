"""A server over HTTP: which failures are worth asking again, and what to do about others. A key stays in its header.

| what comes | what it is |
|---|---|
| 200 | an answer |
| 408, 409, 425, 429, 5xx but 501 and 505; no connection, one that breaks, no answer in time | `Unanswered`: ask again |
| anything else | `Refused`: it would be refused again |
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2

from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.errors import ConfigError

_ASK_AGAIN = frozenset((408, 409, 425, 429))
_NEVER_AGAIN = frozenset((501, 505))
_EXCERPT_CHARS = 300
_HIDDEN = "(key)"


class Unanswered(Exception):
    """A failure that may pass; `retry_after_s` is what the server asks to wait, None where it says nothing.

    `status` is the HTTP status, None where nothing came.
    """

    def __init__(self, why: str, retry_after_s: float | None = None, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """An answer that says that the request is wrong; `status` is its HTTP status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def api_key(engine: EngineConfig) -> str | None:
    """Return the key in the environment, None where there is none; ConfigError for one that no header can carry."""
    key = os.environ.get(engine.api_key_env, "").strip()
    if not all("!" <= each <= "~" for each in key):
        raise ConfigError(
            f"{engine.api_key_env}: found characters that no key has (blanks, line breaks, letters beyond ASCII), "
            "expected the key alone; set the variable again"
        )
    return key or None


def headers(key: str | None) -> dict[str, str]:
    """Return the headers that carry the key."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def content_of(response: httpx2.Response, key: str | None, now: datetime) -> bytes:
    """Return the content of a whole answer; raises Unanswered or Refused, whose words never repeat the key."""
    status = response.status_code
    if status == httpx2.codes.OK:
        return response.content
    if response.is_redirect:
        raise Refused(status, f"status {status}, which names another address: {response.headers.get('location')}")
    why = f"status {status}: {_excerpt(response.text, key)}"
    if status in _ASK_AGAIN or (status >= 500 and status not in _NEVER_AGAIN):
        wait_s = _retry_after_s(response.headers, now)
        raise Unanswered(why if wait_s is None else f"{why} (Retry-After {wait_s:.0f} s)", wait_s, status)
    raise Refused(status, why)


def lost(error: httpx2.RequestError) -> Unanswered:
    """Return what a failed exchange means."""
    return Unanswered(f"{type(error).__name__}{f': {error}' if str(error) else ''}")


def remedy(refused: Refused, engine: EngineConfig) -> str:
    """Return what the user can do about a refusal."""
    if refused.status in (401, 403):
        state = "is set: check it" if engine.api_key_env in os.environ else "is not set: export it"
        return f"the server wants a key; the environment variable {engine.api_key_env} (engine.api_key_env) {state}"
    if refused.status == 404 or 300 <= refused.status < 400:
        return f"check engine.url={engine.url} (the base address, which mostly ends in /v1) and engine.model"
    return (
        "change what it names. A prompt too long for its context: serve it with a larger one, or lower "
        "evaluation.max_new_tokens; a seed that it does not know: engine.send_seed=false; another model: engine.model"
    )


def _excerpt(text: str, key: str | None) -> str:
    shown = " ".join((text if key is None else text.replace(key, _HIDDEN)).split())
    return shown if len(shown) <= _EXCERPT_CHARS else f"{shown[:_EXCERPT_CHARS]} .."


def _retry_after_s(found: Mapping[str, str], now: datetime) -> float | None:
    """Read Retry-After: seconds, or a date."""
    value = found.get("retry-after", "").strip()
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max((date - now).total_seconds(), 0.0)
