"""The families of models that can be imported and exported, a row each. It reads no files.

A row says what a family's config class in transformers takes where config.json is silent, which settings of config.json
change its forward pass (`Option`), and what holds for each of its models whatever config.json says. Nothing else in
this project asks which family a model is of; what its blocks compute stands in `vendor.model_args.ModelArgs`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wmtp_ray.model.known_keys import Neutral
from wmtp_ray.model.spec import ModelSpec

Config = Mapping[str, Any]  # config.json
_NULL_MEANS_SOMETHING = ("num_key_value_heads", "head_dim", "sliding_window", "max_position_embeddings")


@dataclass(frozen=True)
class Option:
    """A setting of config.json: `read` turns it into fields of a ModelSpec, `write` a ModelSpec into it.

    `read` is given the whole config.json, defaults filled in; ValueError for a value that means nothing. `keys` are
    those that it reads, the first one is written.
    """

    keys: tuple[str, ...]
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[ModelSpec], Any]


@dataclass(frozen=True)
class Family:
    """One family. `defaults` by keys of config.json, `always` by fields of ModelSpec.

    The first of `architectures` is written. `unread` are keys that the family's model does not read, with the values
    that make no difference to anybody; `written` goes into each config.json as it stands.
    """

    model_type: str
    architectures: tuple[str, ...]
    defaults: Config
    always: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    harmless: tuple[str, ...] = ()
    unread: Neutral = field(default_factory=dict)
    written: Config = field(default_factory=dict)

    def settled(self, config: Config) -> Config:
        """Return config.json with this family's defaults where it is silent, or null where null means nothing."""
        told = {key: value for key, value in config.items() if value is not None or key in _NULL_MEANS_SOMETHING}
        return {**self.defaults, **told}

    @property
    def option_keys(self) -> set[str]:
        return {key for option in self.options for key in option.keys}


def _truth(config: Config, key: str) -> bool:
    if not isinstance(config[key], bool):
        raise ValueError(f"{key} is {config[key]!r}, neither true nor false")
    return bool(config[key])


def _attention_bias(config: Config) -> dict[str, Any]:
    biased = _truth(config, "attention_bias")
    return {"qkv_bias": biased, "attention_output_bias": biased}


def _window(config: Config) -> dict[str, Any]:
    window = config["sliding_window"]
    if window is not None and (type(window) is not int or window < 1):
        raise ValueError(f"sliding_window is {window!r}, neither null nor a whole number above 0")
    return {"attention_window": window}


def _blocks_without_rope(config: Config) -> dict[str, Any]:
    """Read a list with 0 for each block without rotary positions; without a list it is every interval-th block."""
    num_blocks, interval = config["num_hidden_layers"], config["no_rope_layer_interval"]
    rotated = config.get("no_rope_layers")
    if rotated is None:
        if type(interval) is not int or interval < 1:
            raise ValueError(f"no_rope_layer_interval is {interval!r}, no whole number above 0")
        rotated = [(block + 1) % interval != 0 for block in range(num_blocks)]
    if not isinstance(rotated, list) or len(rotated) < num_blocks or set(rotated[:num_blocks]) - {0, 1}:
        raise ValueError(f"no_rope_layers is {rotated!r}, no list of 0 and 1 for each of {num_blocks} blocks")
    return {"blocks_without_rope": tuple(block for block in range(num_blocks) if not rotated[block])}


def _rotated_blocks(args: ModelSpec) -> list[int]:
    return [int(block not in args.blocks_without_rope) for block in range(args.num_trunk_blocks + 1)]


ATTENTION_BIAS = Option(("attention_bias",), _attention_bias, lambda args: args.attention_output_bias)
MLP_BIAS = Option(("mlp_bias",), lambda config: {"mlp_bias": _truth(config, "mlp_bias")}, lambda args: args.mlp_bias)
WINDOW = Option(("sliding_window",), _window, lambda args: args.attention_window)
NO_ROPE = Option(("no_rope_layers", "no_rope_layer_interval"), _blocks_without_rope, _rotated_blocks)

_COMMON: dict[str, Any] = {
    "num_key_value_heads": None,  # as many as heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
_WINDOW_UNUSED = ("sliding_window", "max_window_layers")  # of families that use them where use_sliding_window is true

_NO_PADDING = {"pad_token_id": None}  # instead of the config class's own, which a small vocabulary need not have

FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "llama",
            ("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
            _COMMON | {"max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
            options=(ATTENTION_BIAS, MLP_BIAS),
        ),
        Family(
            "qwen2",
            ("Qwen2ForCausalLM", "Qwen2Model"),
            _COMMON | {"num_key_value_heads": 32},
            always={"qkv_bias": True},
            harmless=_WINDOW_UNUSED,
            unread={"attention_bias": (True, False)},
            written={"use_sliding_window": False},
        ),
        Family(
            "qwen3",
            ("Qwen3ForCausalLM", "Qwen3Model"),
            _COMMON | {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
            always={"query_key_norm": "head"},
            options=(ATTENTION_BIAS,),
            harmless=_WINDOW_UNUSED,
            written={"use_sliding_window": False},
        ),
        Family(
            "mistral",
            ("MistralForCausalLM", "MistralModel"),
            _COMMON | {"num_key_value_heads": 8, "max_position_embeddings": 4096 * 32, "sliding_window": 4096},
            options=(WINDOW,),
        ),
        Family(
            "smollm3",
            ("SmolLM3ForCausalLM", "SmolLM3Model"),
            _COMMON
            | {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_theta": 2000000.0}
            | {"attention_bias": False, "mlp_bias": False, "no_rope_layer_interval": 4},
            options=(ATTENTION_BIAS, MLP_BIAS, NO_ROPE),
            harmless=_WINDOW_UNUSED,
            written={"use_sliding_window": False} | _NO_PADDING,
        ),
        Family(
            "olmo2",
            ("Olmo2ForCausalLM", "Olmo2Model"),
            _COMMON | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "attention_bias": False},
            always={"query_key_norm": "width", "norm_after": True},
            options=(ATTENTION_BIAS,),
            written=_NO_PADDING,
        ),
    )
}
