"""A model's own chat format: the Jinja template that stands in its tokenizer's files, rendered for one instruction.

Templates come with models, so they run in Jinja's sandbox. They see what transformers shows them, and no tools.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from wmtp_ray.data.byte_level_model import SETTINGS, read_end_tokens, read_object
from wmtp_ray.errors import ArtifactError

TEMPLATE = "chat_template.jinja"


def render_chat(directory: Path, instruction: str) -> str | None:
    """Return the text before the answer to `instruction`, None where the tokenizer in `directory` has no template.

    ArtifactError for a template that fails or refuses.
    """
    template = _template(directory)
    if template is None:
        return None
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # here: rows are encoded without it

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    begin, end = read_end_tokens(directory / SETTINGS)
    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": instruction}],
            add_generation_prompt=True,
            bos_token=begin,
            eos_token=end,
            raise_exception=_refuse,
            strftime_now=lambda form: datetime.now().strftime(form),
        )
    except TemplateError as error:
        raise ArtifactError(f"{directory}: the chat template fails ({error}); use another prompt format") from error


def _template(directory: Path) -> str | None:
    if (directory / TEMPLATE).exists():
        return (directory / TEMPLATE).read_text(encoding="utf-8")
    settings_path = directory / SETTINGS
    written: Any = read_object(settings_path.read_bytes(), settings_path).get("chat_template")
    if isinstance(written, list):  # several, by name
        written = {each["name"]: each["template"] for each in written}.get("default")
    template: str | None = written
    return template


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
