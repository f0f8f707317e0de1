"""The description of a model: params.json read strictly, and the sizes that follow. It builds nothing, without torch.

`vendor.model_args.ModelArgs` holds the fields, their defaults and the shapes that `Transformer` is built with. No
other module reads or writes a params.json. Letters in comments: D width, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import orjson

from vendor.model_args import ModelArgs
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.json_object import read_json
from wmtp_ray.model.known_keys import deciding_keys
from wmtp_ray.model.meta_adapter import require_same_model
from wmtp_ray.model_folder import PARAMS, ModelFolder

Target = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]
TARGETS: tuple[Target, ...] = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")
_KEYS = tuple(field.name for field in fields(ModelArgs))
_TYPES = get_type_hints(ModelArgs)
_BINDS_NOTHING = ("max_seq_len", "max_batch_size")
_OF_OTHER_FAMILIES = _KEYS[_KEYS.index("family") :]  # written where a model has them, so that Meta's stay Meta's
_PUBLISHED = f"put the {PARAMS} that was published with the weights there"


@dataclass(frozen=True)
class ModelSpec(ModelArgs):
    """What params.json says of a model. ValueError, as of `ModelArgs`, for a shape that cannot be built."""

    @classmethod
    def read(cls, directory: Path) -> "ModelSpec":
        """Read the params.json of a model directory.

        ArtifactError when it describes no model that can be built, or another one than meta_adapter.yaml.
        """
        folder = ModelFolder(directory)
        spec = cls.from_params(read_json(folder.params), folder.params)
        require_same_model(folder.meta_adapter, folder.params, spec)
        return spec

    @classmethod
    def from_params(cls, params: Mapping[str, Any], path: Path) -> "ModelSpec":
        """Check the content of a params.json; ArtifactError names every key that is missing, wrong or unknown."""
        _require_values(params, path)
        _require_known_keys(params, path)
        try:
            return cls(**{key: params[key] for key in _KEYS if key in params})
        except ValueError as error:
            raise ArtifactError(f"{path} describes no model ({error}); correct the file") from error

    @classmethod
    def of(cls, args: ModelArgs) -> "ModelSpec":
        """Return the description of a model that is built."""
        return cls(**asdict(args))

    @property
    def num_horizons(self) -> int:
        return self.n_future_tokens

    def matrices(self) -> dict[Target, tuple[int, int]]:
        """Return (inputs, outputs) of the seven matrices of a block."""
        attention: dict[Target, tuple[int, int]] = {
            "wq": (self.dim, self.query_dim),
            "wk": (self.dim, self.kv_dim),
            "wv": (self.dim, self.kv_dim),
            "wo": (self.query_dim, self.dim),
        }
        up, down = (self.dim, self.hidden_dim), (self.hidden_dim, self.dim)
        return attention | {"w1": up, "w2": down, "w3": up}

    @property
    def block_matrix_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.matrices().values())

    @property
    def query_key_norm_parameters(self) -> int:
        sizes = {None: 0, "head": 2 * self.head_dim, "width": self.query_dim + self.kv_dim}
        return sizes[self.query_key_norm]

    @property
    def block_parameters(self) -> int:
        biased = self.biased()
        biases = sum(outputs for target, (_, outputs) in self.matrices().items() if target in biased)
        return self.block_matrix_parameters + biases + 2 * self.dim + self.query_key_norm_parameters

    @property
    def table_parameters(self) -> int:
        """Of one table [V, D]: the embedding is one, the unembedding another."""
        return self.vocab_size * self.dim

    @property
    def parameters(self) -> int:
        return self.n_layers * self.block_parameters + 2 * self.table_parameters + self.dim

    def adapter_parameters(self, rank: int, targets: tuple[Target, ...]) -> int:
        """Of LoRA's two factors on the targets of every block, prediction heads included."""
        matrices = self.matrices()
        return self.n_layers * sum(rank * sum(matrices[target]) for target in targets)


def params_bytes(args: ModelArgs) -> bytes:
    """Spell a params.json, without the keys that are None or that this model does not need."""
    written = asdict(args)
    kept = {
        field.name: written[field.name]
        for field in fields(ModelArgs)
        if field.name not in _OF_OTHER_FAMILIES or written[field.name] != field.default
    }
    return orjson.dumps({key: value for key, value in kept.items() if value is not None}, option=orjson.OPT_INDENT_2)


def _require_values(params: Mapping[str, Any], path: Path) -> None:
    """Every key that is there holds what its kind allows, and every key without a default is there."""
    checked = [field for field in fields(ModelArgs) if field.name not in _BINDS_NOTHING]
    wrong = {field.name: _value(params, field) for field in checked if not _is_usable(params, field)}
    if not wrong:
        return
    expected = " and ".join(dict.fromkeys(_expected(name) for name in wrong))
    open_vocabulary = "; some of Meta's files leave vocab_size open: write the tokenizer's size"
    raise ArtifactError(
        f"{path} describes no model: found {', '.join(f'{key}={value!r}' for key, value in wrong.items())}, expected "
        f"{expected} (Meta's layout, not a config.json of another library, "
        f"whose models `wmtp import` reads); {_PUBLISHED}{open_vocabulary if wrong.get('vocab_size') == -1 else ''}"
    )


def _value(params: Mapping[str, Any], field: Field[Any]) -> Any:
    return params.get(field.name, None if field.default is MISSING else field.default)


def _is_usable(params: Mapping[str, Any], field: Field[Any]) -> bool:
    value, kinds = _value(params, field), _kinds(field.name)
    if value is None:
        return type(None) in kinds
    if tuple in kinds:
        return isinstance(value, list | tuple) and all(type(each) is int and each >= 0 for each in value)
    if bool in kinds or str in kinds:
        return type(value) in kinds
    return type(value) in (kinds | {int} if float in kinds else kinds) and value > 0


def _expected(name: str) -> str:
    names = {bool: "true or false", str: "a name", tuple: "a list of whole numbers", int: "whole numbers above 0"}
    return next((words for kind, words in names.items() if kind in _kinds(name)), "numbers above 0")


def _kinds(name: str) -> set[type]:
    """Return the types that a key may have: those of a union, `tuple` for a list."""
    annotation = _TYPES[name]
    if get_origin(annotation) is tuple:
        return {tuple}
    return set(get_args(annotation)) or {annotation}


def _require_known_keys(params: Mapping[str, Any], path: Path) -> None:
    """Raise an ArtifactError for a key that may change the forward pass and that is not read."""
    if params.get("use_scaled_rope"):
        raise ArtifactError(
            f"{path}: found use_scaled_rope, the scaled rotary positions of LLaMA 3.1, without their numbers, which "
            "differ between its versions; choose a model without them (LLaMA 2, LLaMA 3.0), or run wmtp import on the "
            "same model in Hugging Face's layout, whose config.json names them"
        )
    unknown = deciding_keys(params, read=_KEYS, harmless=(), neutral={"use_scaled_rope": (False,)})
    if unknown:
        raise ArtifactError(
            f"{path} describes no model that is known here: found {'; '.join(unknown)}. Known keys: "
            f"{', '.join(_KEYS)}. Another key may change what the model computes: choose another model, "
            "or take the key out of the file if it does not"
        )
