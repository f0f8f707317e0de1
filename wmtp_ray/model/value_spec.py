"""How a value is read off a model's trunk, and what that takes. Imports no torch; `value_model.py` builds it."""

from dataclasses import dataclass
from typing import Literal, get_args

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.model.spec import ModelSpec

MLP_UNITS = 256  # of the hidden layer of a head that has one
POOL_CHANNELS = 64  # of the attention of an attention head

Head = Literal["linear", "mlp", "attention"]

Output = Literal["value", "logit", "bins"]  # what the head gives: V, u with V = sigmoid(u), a logit for each bin of V


@dataclass(frozen=True)
class ValueSpec:
    """How a value is read off the trunk; see `CriticConfig` for each field. ValueError where a field means nothing.

    `num_bins` is that of `output="bins"`, 0 otherwise.
    """

    head: Head
    value_layer: float
    features: Literal["none", "surprisal"]
    output: Output = "value"
    num_bins: int = 0

    def __post_init__(self) -> None:
        known = self.head in get_args(Head) and self.features in ("none", "surprisal")
        counted = self.num_bins >= 2 if self.output == "bins" else self.num_bins == 0
        if not known or not counted or self.output not in get_args(Output) or not 0.0 < self.value_layer <= 1.0:
            raise ValueError(f"no such value path: {self}")

    @classmethod
    def of(cls, config: RunConfig) -> "ValueSpec":
        """Return the value path that the configuration asks for."""
        critic = config.critic
        outputs: dict[str, Output] = {"bce": "logit", "categorical": "bins"}
        output = outputs.get(critic.value_error, "value")
        return cls(
            critic.head, critic.value_layer, critic.features, output, critic.value_bins if output == "bins" else 0
        )

    @property
    def surprisal(self) -> bool:
        """Whether the head also reads each token's surprisal, which takes horizon 1 and the unembedding."""
        return self.features == "surprisal"

    @property
    def num_features(self) -> int:
        """Inputs of the head beside the state."""
        return int(self.surprisal)

    @property
    def num_outputs(self) -> int:
        """Numbers that the head gives for a state."""
        return self.num_bins or 1

    def num_blocks(self, num_trunk_blocks: int) -> int:
        """Trunk blocks below the value head, at least 1: 0.67 of 3 is 2."""
        return max(1, round(self.value_layer * num_trunk_blocks))

    def critic_blocks(self, num_trunk_blocks: int) -> int:
        """Blocks that a critic of its own holds: with the surprisal the whole trunk and the head of horizon 1."""
        return num_trunk_blocks + 1 if self.surprisal else self.num_blocks(num_trunk_blocks)

    @property
    def pool_channels(self) -> int:
        """Channels of what the head reads of the states before it; 0 where it reads none."""
        return POOL_CHANNELS if self.head == "attention" else 0

    @property
    def hidden_units(self) -> int:
        """Units of the head's hidden layer; 0 where it has none."""
        return 0 if self.head == "linear" else MLP_UNITS

    def head_weights(self, dim: int) -> int:
        """Weights of the head without its biases, on a trunk of width `dim`."""
        inputs = dim + self.num_features
        if self.head == "linear":
            return inputs * self.num_outputs
        pool = 3 * inputs * self.pool_channels
        return pool + (inputs + self.pool_channels + self.num_outputs) * self.hidden_units

    def head_parameters(self, dim: int) -> int:
        """Weights and biases of the head."""
        return self.head_weights(dim) + self.num_outputs + self.hidden_units

    def critic_parameters(self, model: ModelSpec) -> int:
        """Parameters of a critic of its own."""
        tables = 2 if self.surprisal else 1
        blocks = self.critic_blocks(model.num_trunk_blocks) * model.block_parameters
        return blocks + tables * model.table_parameters + model.dim + self.head_parameters(model.dim)
