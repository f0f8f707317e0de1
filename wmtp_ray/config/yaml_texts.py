"""YAML whose plain scalars stay texts: the schema decides what `on`, `010` or `12:30` mean, not YAML 1.1."""

from collections.abc import Hashable
from typing import Any

import yaml

from wmtp_ray.config.schema_nodes import Plain


class _TextLoader(yaml.SafeLoader):
    """Resolves only merge keys, distinguishes quoted from plain text, and refuses a key that is given twice."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012 of the library

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {key.value}", key.start_mark)
            seen.add(str(key.value))
        return {str(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


def _text(loader: _TextLoader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    return Plain(text) if node.style is None else text


_TextLoader.add_constructor("tag:yaml.org,2002:str", _text)


def load_texts(text: str) -> Any:
    """Return mappings, lists and texts; None for nothing. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_TextLoader)
