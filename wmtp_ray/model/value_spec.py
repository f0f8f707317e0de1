"""How a value is read off a model's trunk, and what that takes. Imports no torch; `value_model.py` builds it."""

from dataclasses import dataclass
from typing import Literal

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.model.spec import ModelSpec

MLP_UNITS = 256  # of the hidden layer of an mlp head


@dataclass(frozen=True)
class ValueSpec:
    """How a value is read off the trunk; see `CriticConfig` for each field. ValueError where a field means nothing."""

    head: Literal["linear", "mlp"]
    value_layer: float
    features: Literal["none", "surprisal"]

    def __post_init__(self) -> None:
        known = self.head in ("linear", "mlp") and self.features in ("none", "surprisal")
        if not known or not 0.0 < self.value_layer <= 1.0:
            raise ValueError(f"no such value path: {self.head}, {self.value_layer}, {self.features}")

    @classmethod
    def of(cls, config: RunConfig) -> "ValueSpec":
        """Return the value path that the configuration asks for."""
        return cls(config.critic.head, config.critic.value_layer, config.critic.features)

    @property
    def surprisal(self) -> bool:
        """Whether the head also reads each token's surprisal, which takes horizon 1 and the unembedding."""
        return self.features == "surprisal"

    @property
    def num_features(self) -> int:
        """Inputs of the head beside the state."""
        return int(self.surprisal)

    def num_blocks(self, num_trunk_blocks: int) -> int:
        """Trunk blocks below the value head, at least 1: 0.67 of 3 is 2."""
        return max(1, round(self.value_layer * num_trunk_blocks))

    def critic_blocks(self, num_trunk_blocks: int) -> int:
        """Blocks that a critic of its own holds: with the surprisal the whole trunk and the head of horizon 1."""
        return num_trunk_blocks + 1 if self.surprisal else self.num_blocks(num_trunk_blocks)

    def head_weights(self, dim: int) -> int:
        """Weights of the head without its biases, on a trunk of width `dim`."""
        inputs = dim + self.num_features
        return inputs if self.head == "linear" else (inputs + 1) * MLP_UNITS

    def head_parameters(self, dim: int) -> int:
        """Weights and biases of the head."""
        return self.head_weights(dim) + (1 if self.head == "linear" else MLP_UNITS + 1)

    def critic_parameters(self, model: ModelSpec) -> int:
        """Parameters of a critic of its own."""
        tables = 2 if self.surprisal else 1
        blocks = self.critic_blocks(model.num_trunk_blocks) * model.block_parameters
        return blocks + tables * model.table_parameters + model.dim + self.head_parameters(model.dim)
