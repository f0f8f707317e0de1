"""The model behind a server, as far as a server tells: its name, never its weights."""

import time
from datetime import UTC, datetime

import httpx2
from pydantic import BaseModel, ValidationError

from wmtp_ray.config.engine import EngineConfig
from wmtp_ray.errors import ConfigError
from wmtp_ray.evaluation.engine.back_off import BackOff
from wmtp_ray.evaluation.engine.server import Refused, Unanswered, api_key, content_of, headers, lost, remedy
from wmtp_ray.evaluation.served import ServedModel

_NAMED = 10
_NO_LIST = (404, 405)


class _Listed(BaseModel):
    id: str
    root: str | None = None


class _Models(BaseModel):
    data: list[_Listed]


def find_served_model(engine: EngineConfig) -> ServedModel:
    """Ask the server for its models; returns the one of `engine.model`, or the only one.

    Waits `engine.connect_s` for a server that does not answer yet. ConfigError past that, for a server that refuses,
    that is of another kind, or that leaves open which model is meant.
    """
    assert engine.url is not None, "the schema asks for it"
    listed: list[_Listed] = []
    try:
        content = _awaited(engine)
        listed = [] if content is None else _listed(content, engine)
    except Refused as refused:
        if refused.status not in _NO_LIST or engine.model is None:
            hint = ", and give engine.model where the server has no list" if refused.status in _NO_LIST else ""
            raise ConfigError(f"{engine.url}/models: {refused}; {remedy(refused, engine)}{hint}") from refused
    name = engine.model or _only(listed, engine)
    root = next((each.root for each in listed if each.id == name), None)
    return ServedModel(engine.url, engine.api, name, root)


def _awaited(engine: EngineConfig) -> bytes | None:
    """Return the content of the list of models, None where making it fails and it is not needed."""
    key, back_off, deadline = api_key(engine), BackOff(seed=0), time.monotonic() + engine.connect_s
    while True:
        try:
            return _asked_once(engine, key, max(deadline - time.monotonic(), 0.1))
        except Unanswered as failure:
            if failure.status == httpx2.codes.INTERNAL_SERVER_ERROR and engine.model is not None:
                return None  # `transformers serve` without a cache of the hub; a server that is loading says 503
            wait_s = back_off.next_s(failure.retry_after_s)
            if time.monotonic() + wait_s > deadline:
                raise ConfigError(
                    f"{engine.url}/models did not answer within {engine.connect_s:g} s (engine.connect_s): {failure}; "
                    "start the server, or set engine.url to where it is; raise engine.connect_s for one that is still "
                    "loading its model"
                ) from failure
        time.sleep(wait_s)


def _asked_once(engine: EngineConfig, key: str | None, timeout_s: float) -> bytes:
    try:
        response = httpx2.get(f"{engine.url}/models", headers=headers(key), timeout=timeout_s)
    except httpx2.RequestError as error:
        raise lost(error) from error
    return content_of(response, key, datetime.now(UTC))


def _listed(content: bytes, engine: EngineConfig) -> list[_Listed]:
    try:
        return _Models.model_validate_json(content).data
    except ValidationError as error:
        raise ConfigError(
            f"{engine.url}/models: found no list of models, expected that of a server with OpenAI's API; set "
            "engine.url to its base address, which mostly ends in /v1"
        ) from error


def _only(listed: list[_Listed], engine: EngineConfig) -> str:
    if len(listed) == 1:
        return listed[0].id
    names = ", ".join(each.id for each in listed[:_NAMED]) + (", .." if len(listed) > _NAMED else "")
    raise ConfigError(
        f"{engine.url} lists {len(listed)} models{f' ({names})' if names else ''}, expected one; set engine.model to "
        "the name of the model that shall answer"
    )
