"""What is sent to a server and what it sends back: the completions and the chat API of OpenAI, as far as we use them.

Fields that a server adds are passed over. Nothing is streamed: an answer comes whole.
"""

from pydantic import BaseModel, ValidationError

from wmtp_ray.config.engine import Api
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings
from wmtp_ray.evaluation.decoding.decoding_request import Finish
from wmtp_ray.evaluation.decoding.stops import cut_at_stop
from wmtp_ray.evaluation.served import Served, ServedModel

ENDPOINTS: dict[Api, str] = {"completions": "/completions", "chat": "/chat/completions"}
_SEED_BITS = 31  # fits the integers of every server
_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}


class Torn(Exception):
    """An answer of which a part is missing, or that is none; asked again, the server may give a whole one."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    finish_reason: str | None = None
    text: str | None = None
    message: _Message | None = None


class _Usage(BaseModel):
    completion_tokens: int | None = None


class _Answer(BaseModel):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


def sent_seed(request: DecodingRequest) -> int:
    """Return the seed that a server is sent for a request: 31 bits of the request's own."""
    return request.seed % (1 << _SEED_BITS)


def request_body(
    request: DecodingRequest, settings: DecodingSettings, served: ServedModel, *, send_seed: bool
) -> dict[str, object]:
    """Return the JSON object that asks for one answer; the server adds its begin token, or its chat template."""
    assert request.text is not None, "a server is asked in text"
    asked: dict[str, object] = {"prompt": request.text}
    if served.api == "chat":
        asked = {"messages": [{"role": "user", "content": request.text}]}
    sampling = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_new_tokens}
    stop: dict[str, object] = {"stop": list(settings.stop)} if settings.stop else {}
    seed = {"seed": sent_seed(request)} if send_seed else {}
    return {"model": served.model, **asked, **sampling, **stop, **seed}


def read_answer(
    content: bytes, request: DecodingRequest, settings: DecodingSettings, served: ServedModel, *, send_seed: bool
) -> Decoded:
    """Read a server's answer to a request; raises Torn for what is no whole answer.

    The text is cut as a decoder of ours would have ended it: at the earliest stop string, which some servers leave in
    the text, and behind the line with which the request's `is_finished` is content.
    """
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError as error:
        raise Torn(f"an answer that is none of this API ({error.errors()[0]['msg']})") from error
    if len(answer.choices) != 1:
        raise Torn(f"an answer with {len(answer.choices)} choices, expected 1")
    [choice] = answer.choices
    if choice.finish_reason not in _FINISHES:
        raise Torn(f"an answer with finish_reason {choice.finish_reason!r}, expected stop or length")
    raw_text = _text(choice, served.api)
    text = cut_at_stop(raw_text[: _finished_chars(raw_text, request)], settings.stop)
    tokens = answer.usage.completion_tokens if answer.usage is not None else None
    return Decoded(
        key=request.key,
        ids=(),
        raw_text=raw_text,
        text=text,
        finish="stop" if len(text) < len(raw_text) else _FINISHES[choice.finish_reason],
        num_forwards=0,
        drafted_H=(),
        accepted_H=(),
        served=Served(
            model=answer.model or served.model,
            url=served.url,
            seed=sent_seed(request) if send_seed else None,
            num_tokens=tokens or 0,
        ),
    )


def _text(choice: _Choice, api: Api) -> str:
    if api == "chat":
        if choice.message is None:
            raise Torn("an answer without a message")
        return choice.message.content or ""
    if choice.text is None:
        raise Torn("an answer without text")
    return choice.text


def _finished_chars(text: str, request: DecodingRequest) -> int:
    """Return how much of a text a decoder would have made that asks `is_finished` after every line."""
    end = 0
    while request.is_finished is not None and (end := text.find("\n", end) + 1):
        if request.is_finished(text[:end]):
            return end
    return len(text)
