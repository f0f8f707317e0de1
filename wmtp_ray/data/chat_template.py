"""A model's own chat format: the Jinja template in its tokenizer's files, rendered for one instruction.

Templates come with models, so they run in Jinja's sandbox. They see what transformers shows them without tools and
documents: the messages, the special tokens that the tokenizer has, `{% generation %}` blocks, `{% break %}` and
`{% continue %}`, a `tojson` that writes JSON and not HTML, `raise_exception` and `strftime_now`. The same text comes
out as of `tokenizer.apply_chat_template(messages, add_generation_prompt=True)`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from wmtp_ray.data.tokenizer_settings import named_tokens, read_object
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model_folder import TokenizerFolder

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension

_DEFAULT = "default"


def render_chat(directory: Path, instruction: str) -> str | None:
    """Return the text before the answer to `instruction`, None where the tokenizer in `directory` has no template.

    ArtifactError for a template that fails or refuses.
    """
    return render_messages(directory, [{"role": "user", "content": instruction}])


def render_messages(
    directory: Path,
    messages: Sequence[Mapping[str, str]],
    *,
    now: datetime | None = None,
    add_generation_prompt: bool = True,
) -> str | None:
    """Return messages as text; `now` is the time that the template sees, None for the clock's; as `render_chat`."""
    source = chat_template(directory)
    if source is None:
        return None
    time = {} if now is None else {"strftime_now": now.strftime}
    try:
        return _compiled(source).render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **named_tokens(directory),
            **time,
        )
    except Exception as error:  # a template is a program of somebody else: it may fail with anything
        raise ArtifactError(
            f"{directory}: the chat template fails ({type(error).__name__}: {error}), expected one that renders "
            "a single message of a user; use another prompt format (evaluation.formats, data.template), or correct the "
            "template"
        ) from error


def chat_template(directory: Path) -> str | None:
    """Return the default template of the tokenizer in `directory`, None where there is none.

    ArtifactError where there are several and none is the default.
    """
    folder = TokenizerFolder(directory)
    if folder.chat_template.exists():
        return folder.chat_template.read_text(encoding="utf-8")
    settings_path = folder.config
    if not settings_path.exists():
        return None
    written: Any = read_object(settings_path.read_bytes(), settings_path).get("chat_template")
    if isinstance(written, list):
        written = {each["name"]: each["template"] for each in written}
    if not isinstance(written, dict):
        template: str | None = written
        return template
    if written and _DEFAULT not in written:
        raise ArtifactError(
            f"{settings_path} names the chat templates {', '.join(written)}, expected one with the name {_DEFAULT}; "
            "give one of them that name, or use another prompt format"
        )
    return written.get(_DEFAULT)


@lru_cache(maxsize=8)
def _compiled(source: str) -> "Template":
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # here: rows are encoded without it

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_blocks()]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(source)


def _generation_blocks() -> "type[Extension]":
    """`{% generation %}...{% endgeneration %}` marks what an assistant wrote; here its content is rendered in place."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationBlocks(Extension):
        tags = {"generation"}  # noqa: RUF012  # Jinja's own form

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    return GenerationBlocks


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
