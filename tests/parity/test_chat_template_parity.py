"""Chat templates against transformers: the same text as of `apply_chat_template`, for what templates use."""

import json
from pathlib import Path

import pytest

from tests.byte_level_tokenizer import write_byte_level
from wmtp_ray.data.chat_template import render_chat
from wmtp_ray.errors import ArtifactError

transformers = pytest.importorskip("transformers")

INSTRUCTION = "a<b & 'c' \"d\" é\n  {{ 1 }}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "ChatML": CHATML,
    "ends": "{{ bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
    "other tokens": "{{ pad_token }}|{{ unk_token is defined }}|{{ sep_token is defined }}|{{ sep_token }}",
    "generation": "{% for m in messages %}{% generation %}\n{{ m.content }}\n{% endgeneration %}\n{% endfor %}!",
    "generation sets": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "generation in a loop": (
        "{% for m in messages %}{%- generation -%} {{ loop.index }} {%- if loop.first %}first{% endif %}"
        "{%- endgeneration -%}{% endfor %}"
    ),
    "break": "{% for m in messages %}{{ m.role }}{% break %}{{ m.content }}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}x",
    "tojson": "{% for m in messages %}{{ m | tojson }}{{ m.content | tojson }}{% endfor %}",
    "tojson options": (
        "{{ {'b': '<é>', 'a': [1, none]} | tojson(indent=2, ensure_ascii=true, sort_keys=true) }}"
        "{{ {'a': [1, 2]} | tojson(separators=(',', ':')) }}{{ {'a': 1} | tojson(indent=4) | upper }}"
    ),
    "strftime_now": "{{ strftime_now('%Y-%m') }}",
    "no tools": "{{ tools is none }} {{ tools is defined }} {% if tools is not none %}TOOLS{% endif %}{{ documents }}",
    "undefined": "{{ date_string is defined }} {{ custom_tools is defined }} {{ enable_thinking is defined }}",
    "blocks": "  {% if true %}\n    a\n  {% endif %}\n   {# a note #}\n  b",
    "namespace": "{% set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = 2 %}{% endfor %}{{ ns.a }}",
    "dict": "{{ dict(a=1) | tojson }}{{ dict(a=1, b=2).items() | list | length }}",
    "macro": "{% macro m(x) %}[{{ x.content | trim }}]{% endmacro %}{{ m(messages[-1]) }}",
    "slices": "{{ messages[1:] | length }}{{ messages[0]['content'].split('<')[0].strip() }}",
}


def written(directory: Path, template: object) -> Path:
    write_byte_level(directory, chat_template=template, pad_token="<|end|>")
    return directory


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_renders_as_in_transformers(tmp_path: Path, template: str) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, template))
    messages = [{"role": "user", "content": INSTRUCTION}]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert render_chat(tmp_path, INSTRUCTION) == expected


@pytest.mark.parametrize("bos_token", [None, "<|begin|>"])
def test_a_token_that_the_tokenizer_does_not_have_is_undefined_as_in_transformers(
    tmp_path: Path, bos_token: str | None
) -> None:
    template = "{{ bos_token is defined }}{{ bos_token }}{{ eos_token }}"
    write_byte_level(tmp_path, bos_token=bos_token, chat_template=template)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert render_chat(tmp_path, "x") == expected


def test_the_default_of_several_templates_is_rendered_wherever_they_stand(tmp_path: Path) -> None:
    several = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": CHATML}]
    expected = render_chat(written(tmp_path / "one", CHATML), INSTRUCTION)
    assert expected is not None
    assert render_chat(written(tmp_path / "list", several), INSTRUCTION) == expected
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "list")
    theirs.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "additional_chat_templates" / "tool_use.jinja").exists()
    assert render_chat(tmp_path / "saved", INSTRUCTION) == expected


def test_several_templates_without_a_default_are_named(tmp_path: Path) -> None:
    written(tmp_path, [{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}])
    with pytest.raises(ArtifactError, match="the chat templates rag, tool_use"):
        render_chat(tmp_path, INSTRUCTION)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{% if %}", "{{ ''.__class__.__mro__ }}", "{{ [].append(1) }}", "{{ 1 + 'a' }}"],
)
def test_what_fails_in_transformers_is_an_artifact_error(tmp_path: Path, template: str) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(written(tmp_path, template))
    with pytest.raises(Exception):  # noqa: B017, PT011  # whatever it is there
        theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    with pytest.raises(ArtifactError, match="chat template fails"):
        render_chat(tmp_path, "x")


def test_a_chat_template_json_is_no_chat_template(tmp_path: Path) -> None:
    """It belongs to processors of images; a tokenizer of transformers passes it over, too."""
    write_byte_level(tmp_path)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "x"}))
    assert render_chat(tmp_path, "x") is None
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template is None
