"""How a value is read off a model's trunk, and what that takes. Imports no torch; `value_model.py` builds it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from wmtp_ray.config.schema import RunConfig
from wmtp_ray.errors import ArtifactError
from wmtp_ray.model.spec import ModelSpec

MLP_UNITS = 256  # of the hidden layer of a head that has one
POOL_CHANNELS = 64  # of the attention of an attention head
_OF_ENSEMBLES = ("members", "trunks")

Head = Literal["linear", "mlp", "attention"]

Output = Literal["value", "logit", "bins"]  # what the head gives: V, u with V = sigmoid(u), a logit for each bin of V

Trunks = Literal["shared", "own"]  # of an ensemble: its heads read one trunk, or each member has a trunk of its own


@dataclass(frozen=True)
class ValueSpec:
    """How a value is read off the trunk; see `CriticConfig` for each field. ValueError where a field means nothing.

    `num_bins` is that of `output="bins"`, 0 otherwise. V is the mean of `members` of the form that the other fields
    describe; one member has no trunk but the shared one.
    """

    head: Head
    value_layer: float
    features: Literal["none", "surprisal"]
    output: Output = "value"
    num_bins: int = 0
    members: int = 1
    trunks: Trunks = "shared"

    def __post_init__(self) -> None:
        known = self.head in get_args(Head) and self.features in ("none", "surprisal")
        counted = self.num_bins >= 2 if self.output == "bins" else self.num_bins == 0
        grouped = self.trunks == "shared" if self.members == 1 else self.trunks in get_args(Trunks)
        is_path = known and counted and self.output in get_args(Output) and 0.0 < self.value_layer <= 1.0
        if not is_path or not grouped or self.members < 1:
            raise ValueError(f"no such value path: {self}")

    @classmethod
    def of(cls, config: RunConfig) -> "ValueSpec":
        """Return the value path of the critic that the configuration asks for."""
        critic = config.critic
        outputs: dict[str, Output] = {"bce": "logit", "categorical": "bins"}
        output = outputs.get(critic.value_error, "value")
        return cls(
            critic.head,
            critic.value_layer,
            critic.features,
            output,
            num_bins=critic.value_bins if output == "bins" else 0,
            members=critic.ensemble,
            trunks="own" if critic.ensemble > 1 and critic.train_trunk else "shared",
        )

    @property
    def member(self) -> "ValueSpec":
        """The value path of one member alone."""
        return replace(self, members=1, trunks="shared")

    def fits(self, asked: "ValueSpec") -> bool:
        """Whether a stored value path is the one asked for; whose trunks its members read is the stored one's affair.

        `critic.train_trunk` concerns stage 1: stage 2 takes what stage 1 has left.
        """
        return self.members == asked.members and self == replace(asked, trunks=self.trunks)

    def record(self) -> dict[str, str | float | int]:
        """Return the fields as value_head.json holds them: those of an ensemble only where there is one."""
        return {name: value for name, value in asdict(self).items() if self.members > 1 or name not in _OF_ENSEMBLES}

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
        """Numbers that the head of a member gives for a state."""
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
        """Weights of the heads of all members without their biases, on a trunk of width `dim`."""
        inputs = dim + self.num_features
        if self.head == "linear":
            return self.members * inputs * self.num_outputs
        pool = 3 * inputs * self.pool_channels
        return self.members * (pool + (inputs + self.pool_channels + self.num_outputs) * self.hidden_units)

    def head_parameters(self, dim: int) -> int:
        """Weights and biases of the heads of all members."""
        return self.head_weights(dim) + self.members * (self.num_outputs + self.hidden_units)

    def critic_parameters(self, model: ModelSpec) -> int:
        """Parameters of a critic of its own."""
        if self.trunks == "own":
            return self.members * self.member.critic_parameters(model)
        tables = 2 if self.surprisal else 1
        blocks = self.critic_blocks(model.num_trunk_blocks) * model.block_parameters
        return blocks + tables * model.table_parameters + model.dim + self.head_parameters(model.dim)


def require_value_path(directory: Path, stored: ValueSpec, asked: ValueSpec) -> None:
    """Raise ArtifactError where a stored value path is not the one that the configuration asks for."""
    if stored.fits(asked):
        return
    held = f"{directory} holds a value head {_described(stored)}, the configuration wants {_described(asked)}. "
    if stored.member == asked.member:
        raise ArtifactError(
            f"{held}Set critic.ensemble={stored.members}, or train a critic of {asked.members} with stage 1. Where "
            "stage 1 shall begin with the trunk alone, give it a copy of the folder without its value_head files."
        )
    raise ArtifactError(
        f"{held}Set critic.head, critic.value_layer, critic.features and critic.value_error to the stored ones, or "
        "train another head."
    )


def _described(spec: ValueSpec) -> str:
    bins = f" of {spec.num_bins}" if spec.num_bins else ""
    members = f", {spec.members} members" if spec.members > 1 else ""
    return (
        f"(head {spec.head}, value_layer {spec.value_layer}, features {spec.features}, output {spec.output}{bins}"
        f"{members})"
    )
