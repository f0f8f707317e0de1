"""Keys of a server that decodes in place of our own decoders, over OpenAI's API. Holds no values (`configs/` does)."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from wmtp_ray.config.effects import EVALUATION, MACHINE, PLAN, setting
from wmtp_ray.config.section import Count, Seconds, Section

Api = Literal["completions", "chat"]
_EXAMPLE = "give the base address, such as http://localhost:8000/v1"
_ENDPOINTS = ("/completions", "/chat/completions", "/models")


def _base_address(url: str) -> str:
    """Return the address without a slash at its end; ValueError, which repeats no secret, for any other text."""
    try:
        parts = urlsplit(url.strip())
        port_is_one = parts.port != 0
    except ValueError:  # a port that is no number, a bracket without its pair
        raise ValueError(f"found what is no address, expected http:// or https://; {_EXAMPLE}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        raise ValueError(f"found what is no address of a server, expected http:// or https:// and a host; {_EXAMPLE}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "found a user, a password, or something behind ? or #, expected an address alone, since it is saved with "
            f"the results; put a key into the environment variable that engine.api_key_env names, and {_EXAMPLE}"
        )
    path = parts.path.rstrip("/")
    if path.endswith(_ENDPOINTS):
        raise ValueError(f"found the address of one endpoint ({path}), expected what stands before it; {_EXAMPLE}")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(
            "found what is no name of an environment variable, expected letters, digits and underscores; give the name "
            "of the variable that holds the key, such as OPENAI_API_KEY, never the key itself"
        )
    return name


class EngineConfig(Section):
    """The server of `evaluation.engine=openai`: vLLM, SGLang, llama.cpp, `transformers serve` (docs/engines.md)."""

    url: Annotated[str, AfterValidator(_base_address)] | None = setting(
        EVALUATION, "Base address of the server, such as http://localhost:8000/v1."
    )
    model: Annotated[str, Field(min_length=1)] | None = setting(
        EVALUATION, "The server's name for the model; None: the one model that it lists."
    )
    api: Api = setting(
        PLAN | EVALUATION, "completions: prompts as text; chat: as a message, in the server's own chat template."
    )
    api_key_env: Annotated[str, AfterValidator(_variable_name)] = setting(
        EVALUATION | MACHINE, "Environment variable with the server's key; not set: no key is sent."
    )
    send_seed: bool = setting(EVALUATION, "Send a seed with each request; false for servers that refuse the field.")
    max_in_flight: Count = setting(EVALUATION, "Requests that the server has at a time.")
    connect_s: Seconds = setting(EVALUATION | MACHINE, "The server answers at the start.")
    request_s: Seconds = setting(
        EVALUATION | MACHINE, "The server answers one request; past it the request is repeated."
    )
    silence_s: Seconds = setting(
        EVALUATION | MACHINE, "The next answer comes, whatever was repeated; past it: an error."
    )

    @model_validator(mode="after")
    def _silence_holds_a_request(self) -> Self:
        if self.silence_s < self.request_s:
            raise ValueError(
                f"silence_s={self.silence_s:g} is below request_s={self.request_s:g}: a request that may take that "
                "long would be silence already; raise silence_s or lower request_s"
            )
        return self
