"""Parameters of a model by part, from its params.json alone. Builds nothing and reads no weights.

The layout is that of `vendor/meta_llama/model.py`, which imports torch: a dry run may not. A test holds the two
against each other. Letters in comments: D width, F feed-forward width, K key/value width, V vocabulary, H horizons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MLP_UNITS = 256  # of `value_model.ValueHead`
Target = Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"]
TARGETS: tuple[Target, ...] = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a params.json that shapes depend on."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    vocab_size: int
    num_horizons: int

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "ModelSize":
        """Read Meta's keys, with the defaults of `ModelArgs`; KeyError where a shape is not given."""
        width = 2 * 4 * params["dim"] // 3
        if params.get("ffn_dim_multiplier") is not None:
            width = int(params["ffn_dim_multiplier"] * width)
        multiple_of = params.get("multiple_of", 256)
        return cls(
            dim=params["dim"],
            n_layers=params["n_layers"],
            n_heads=params["n_heads"],
            n_kv_heads=params.get("n_kv_heads") or params["n_heads"],
            hidden_dim=-(-width // multiple_of) * multiple_of,
            vocab_size=params["vocab_size"],
            num_horizons=params.get("n_future_tokens", 1),
        )

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def kv_dim(self) -> int:
        return self.n_kv_heads * self.head_dim

    @property
    def num_trunk_blocks(self) -> int:
        return self.n_layers - self.num_horizons

    def matrices(self) -> dict[Target, tuple[int, int]]:
        """Return (inputs, outputs) of the seven matrices of a block."""
        attention: dict[Target, tuple[int, int]] = {
            "wq": (self.dim, self.dim),
            "wk": (self.dim, self.kv_dim),
            "wv": (self.dim, self.kv_dim),
            "wo": (self.dim, self.dim),
        }
        up, down = (self.dim, self.hidden_dim), (self.hidden_dim, self.dim)
        return attention | {"w1": up, "w2": down, "w3": up}

    @property
    def block_matrix_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.matrices().values())

    @property
    def block_parameters(self) -> int:
        return self.block_matrix_parameters + 2 * self.dim

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


@dataclass(frozen=True)
class ValuePath:
    """How a value is read off the trunk; the fields of `value_model.ValueSpec`."""

    head: Literal["linear", "mlp"] = "linear"
    value_layer: float = 1.0
    surprisal: bool = False

    def num_blocks(self, size: ModelSize) -> int:
        return max(1, round(self.value_layer * size.num_trunk_blocks))

    def head_parameters(self, size: ModelSize) -> int:
        inputs = size.dim + int(self.surprisal)
        return inputs + 1 if self.head == "linear" else (inputs + 1) * MLP_UNITS + MLP_UNITS + 1

    def critic_blocks(self, size: ModelSize) -> int:
        """Blocks that a critic of its own holds: with the surprisal the whole trunk and the head of horizon 1."""
        return size.num_trunk_blocks + 1 if self.surprisal else self.num_blocks(size)

    def critic_parameters(self, size: ModelSize) -> int:
        tables = 2 if self.surprisal else 1
        blocks = self.critic_blocks(size) * size.block_parameters
        return blocks + tables * size.table_parameters + size.dim + self.head_parameters(size)
