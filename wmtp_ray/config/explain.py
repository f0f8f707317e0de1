"""What is wrong with a configuration, in words: the dotted key, what was found, what was expected, what to do.

The words for "expected" come from the schema itself (its JSON schema), so a range is written once, in
`wmtp_ray.config.schema`. Reads nothing but what it is given.
"""

import difflib
import functools
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from wmtp_ray.config.layers import UNSET, Key
from wmtp_ray.config.other_names import other_name
from wmtp_ray.config.schema_nodes import Node, is_path, run_schema

MAX_FOUND_CHARS = 80
SAME_NAME_RATIO = 0.8  # similarity above which one suggestion is enough


def dotted(key: Key) -> str:
    """("train", "adam_betas", 0) -> train.adam_betas[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def unset_keys(values: dict[str, Any]) -> list[Key]:
    """List the keys that no layer gave a value."""
    return [key for key, value in _leaves(values) if value == UNSET]


def misplaced_booleans(values: dict[str, Any]) -> dict[Key, str]:
    """Find true/false where a number is expected; pydantic would read them as 1 and 0."""
    nodes = {key: run_schema().node_at(key) for key, value in _leaves(values) if isinstance(value, bool)}
    return {
        key: f"found {_shown(_value_at(values, key))}, expected {_in_words(node)}"
        for key, node in nodes.items()
        if node is not None
        and "boolean" not in run_schema().types(node)
        and run_schema().types(node) & {"integer", "number"}
    }


def path_keys(values: dict[str, Any]) -> list[Key]:
    """List the keys of `values` that hold paths, as the schema types them."""
    return [key for key, value in _leaves(values) if isinstance(value, str) and is_path(run_schema().node_at(key))]


def explain_unset(key: Key) -> str:
    """Report that `key` has no value, and what values it accepts."""
    return f"no value was given, expected {_expected(key)}"


def explain_errors(error: ValidationError) -> list[tuple[Key, str]]:
    """Translate pydantic's errors; an unknown section gives one entry for each key that was put below it."""
    explained: list[tuple[Key, str]] = []
    for item in error.errors(include_url=False):
        key: Key = tuple(item["loc"])
        if item["type"] == "extra_forbidden":
            explained += [((*key, *below), _unknown((*key, *below))) for below, _ in _leaves(item["input"])]
        elif item["type"] == "value_error":
            explained.append((key, str(item["ctx"]["error"])))
        elif item["type"] == "missing":
            explained.append((key, explain_unset(key)))
        else:
            finite = "a finite number: " if item["type"] == "finite_number" else ""
            explained.append((key, f"found {_shown(item['input'])}, expected {finite}{_expected(key)}"))
    return explained


def one_message(problems: list[tuple[Key, str]], source_of: Callable[[Key], str | None]) -> str:
    """Write all problems as one message, each with its key and the place that set it."""
    head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"the configuration has {head}:"]
    for key, text in problems:
        source = source_of(key) if key else None
        lines.append(f"  {dotted(key) + ': ' if key else ''}{text}" + (f" [from {source}]" if source else ""))
    return "\n".join(lines)


def nearest_keys(key: str) -> list[str]:
    """Suggest up to three existing keys for a misspelt or misplaced one.

    `weighting.bta` -> [weighting.beta]; `beta` -> [weighting.beta]; `max_steps` -> [train.max_steps, ...].
    """
    known = _known_keys()

    def similarity(candidate: str) -> float:
        return difflib.SequenceMatcher(None, key, candidate).ratio()

    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    close = difflib.get_close_matches(key, known, n=1, cutoff=SAME_NAME_RATIO)
    if close and "." in key:
        return close
    if same_leaf:
        return sorted(same_leaf, key=similarity, reverse=True)[:3]
    leaf = key.rpartition(".")[2]
    leaves = difflib.get_close_matches(leaf, {name.rpartition(".")[2] for name in known}, n=1, cutoff=0.7)
    with_leaf = [name for name in known if leaves and name.rpartition(".")[2] == leaves[0]]
    return sorted(with_leaf, key=similarity, reverse=True)[:3] or difflib.get_close_matches(key, known, n=1)


def suggested_keys(key: str) -> tuple[list[str], str]:
    """Suggest our keys for a key of another trainer, each with its meaning, and a remark.

    train.lr -> train.learning_rate; critic_stage.lr -> critic_stage.learning_rate first; nothing for another name.
    """
    found = other_name(key)
    if found is None:
        return [], ""
    section = key.rpartition(".")[0]
    in_section = [target for target in found.targets if section and target.rpartition(".")[0] == section]
    targets = [*in_section, *(target for target in found.targets if target not in in_section)]
    return [f"{target} ({_described_key(target)})" for target in targets], found.note


def _described_key(target: str) -> str:
    node = run_schema().node_at(tuple(target.partition("=")[0].split(".")))
    assert node is not None, f"{target} is not in the schema"
    return _described(node)


def _unknown(key: Key) -> str:
    meant, note = suggested_keys(dotted(key))
    if meant:
        return f"there is no such key; did you mean {' or '.join(meant)}?" + (f" Here: {note}" if note else "")
    nearest = nearest_keys(dotted(key))
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else "configs/defaults.yaml lists every key"
    return f"there is no such key; {hint}"


def _expected(key: Key) -> str:
    node = run_schema().node_at(key)
    assert node is not None, f"{dotted(key)} failed validation but is not in the schema"
    description = _described(node)
    return _in_words(node) + (f" ({description})" if description else "")


def _in_words(node: Node) -> str:
    """Describe in words what a schema node accepts."""
    node = run_schema().deref(node)
    if "expected" in node:
        return str(node["expected"])
    if "anyOf" in node:
        return ", or ".join(_in_words(option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    words = _WORDS[node["type"]]
    return words if isinstance(words, str) else words(node)


def _number_in_words(node: Node) -> str:
    noun = "a whole number" if node["type"] == "integer" else "a number"
    if "minimum" in node and "maximum" in node:
        return f"{noun} from {node['minimum']:g} to {node['maximum']:g}"
    bounds = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{words} {node[bound]:g}" for bound, words in bounds.items() if bound in node]
    return " ".join([noun, " and ".join(limits)]).strip()


def _list_in_words(node: Node) -> str:
    if "prefixItems" in node:
        return f"a list [{', '.join(_in_words(item) for item in node['prefixItems'])}]"
    return f"a list whose entries are each {_in_words(node['items'])}"


def _mapping_in_words(node: Node) -> str:
    if "properties" in node:
        return f"a section with the keys {', '.join(node['properties'])}"
    return f"a mapping of names, each to {_in_words(node['additionalProperties'])}"


_WORDS: dict[str, str | Callable[[Node], str]] = {
    "null": "null",
    "boolean": "true or false",
    "string": lambda node: "a path" if is_path(node) else "text",
    "integer": _number_in_words,
    "number": _number_in_words,
    "array": _list_in_words,
    "object": _mapping_in_words,
}


def _described(node: Node) -> str:
    """The field's description; sections are named by their keys instead."""
    return "" if "$ref" in node else str(node.get("description", "")).rstrip(".")


@functools.cache
def _known_keys() -> list[str]:
    def below(node: Node, prefix: str) -> list[str]:
        names: list[str] = []
        for name, child in run_schema().deref(node).get("properties", {}).items():
            names += below(child, f"{prefix}{name}.") or [prefix + name]
        return names

    return below(run_schema().root, "")


def _leaves(values: Any, key: Key = ()) -> list[tuple[Key, Any]]:
    """Every (key, value) below `values` that is no mapping or list; an empty one counts as a leaf."""
    if isinstance(values, dict) and values:
        return [leaf for name, value in values.items() for leaf in _leaves(value, (*key, name))]
    if isinstance(values, list) and values:
        return [leaf for index, value in enumerate(values) for leaf in _leaves(value, (*key, index))]
    return [(key, values)]


def _value_at(values: Any, key: Key) -> Any:
    return functools.reduce(lambda node, part: node[part], key, values)


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_FOUND_CHARS else text[: MAX_FOUND_CHARS - 3] + "..."
