"""The policy: a multi-token transformer, with adapters or without, and a value head on its trunk.

It runs the trunk once and returns states; losses, weights and sharding are elsewhere. Norm and embedding are shared
by the value path and all prediction heads.

Shape suffixes: B sequences (1: flat batches), T positions, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vendor.meta_llama.model import Transformer
from vendor.model_args import ModelArgs
from wmtp_ray.config.schema import LoraConfig
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.lora import (
    AdapterSpec,
    adapted_matrix,
    adapter_tensors,
    attach_adapters,
    base_tensors,
    is_adapter,
    merge_adapters,
)
from wmtp_ray.model.value_ensemble import ValueEnsemble, build_critic, build_value_path
from wmtp_ray.model.value_model import ValueHead, next_token_losses, trunk_below
from wmtp_ray.model.value_outputs import values_of
from wmtp_ray.model.value_spec import ValueSpec

__all__ = ["Policy", "PolicyStates", "value_path_names", "value_path_state"]


@dataclass(frozen=True)
class PolicyStates:
    """One pass over the trunk: its output, before any norm or prediction head, and the values of its states.

    `value_outputs_BTO` is what the value head gave, for losses that are not functions of V alone.
    """

    h_trunk_BTD: Tensor
    values_BT: Tensor
    value_outputs_BTO: Tensor


class Policy(nn.Module):
    """What Stage 2 trains, and what is saved: `transformer` in Meta's names, `value_head` beside it.

    The value head of an ensemble is that of all members; where each has a trunk of its own, the trunks are part of it
    and the values do not read the transformer.
    """

    def __init__(self, transformer: Transformer, spec: ValueSpec):
        super().__init__()
        assert transformer.num_trunk_blocks >= 1, "a value needs a trunk"
        self.transformer = transformer
        self.spec = spec
        self.adapters: AdapterSpec | None = None
        self.value_head = build_value_path(transformer, spec)

    def add_adapters(self, lora: LoraConfig, *, base_sha256: str, seed: int) -> None:
        """Freeze the transformer and train adapters in its place; the value head is left as it is."""
        assert self.adapters is None
        attach_adapters(self.transformer, lora, seed)
        self.adapters = AdapterSpec(lora.rank, lora.alpha, lora.targets, base_sha256)

    def learned_state(self) -> dict[str, Tensor]:
        """Return what training changes and a checkpoint must hold: all tensors, or adapters and value head."""
        state = self.state_dict()
        if self.adapters is None:
            return state
        return {name: tensor for name, tensor in state.items() if is_adapter(name) or name.startswith("value_head.")}

    def merged(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the `state_dict` of this policy with adapters merged; a tensor without an adapter is not copied."""
        if self.adapters is None:
            return state
        return merge_adapters(base_tensors(state), adapter_tensors(state), self.adapters.scale)

    def states(self, batch: BatchTensors) -> PolicyStates:
        """Run the trunk once. Gradient flows from the values into the trunk, never through the surprisal."""
        h_value_BTD = self._below_value(batch)
        h_trunk_BTD = self._above_value(h_value_BTD, batch)
        if isinstance(self.value_head, ValueEnsemble):
            outputs_BTO = self.value_head.outputs(batch)
            return PolicyStates(h_trunk_BTD, values_of(outputs_BTO, self.spec), outputs_BTO)
        features_BTF = self._surprisal(h_trunk_BTD, batch)[..., None] if self.spec.num_features else None
        outputs_BTO = self.value_head(self.transformer.norm(h_value_BTD), features_BTF, batch.document_lengths)
        return PolicyStates(h_trunk_BTD, values_of(outputs_BTO, self.spec), outputs_BTO)

    def value_outputs(self, batch: BatchTensors, learns_NM: Tensor | None = None) -> Tensor:
        """Return what the heads give, [B, T, N O]; with trunks of their own members read the documents they learn."""
        if isinstance(self.value_head, ValueEnsemble):
            return self.value_head.outputs(batch, learns_NM)
        return self.states(batch).value_outputs_BTO

    def value_states(self, batch: BatchTensors) -> tuple[Tensor, Tensor]:
        """Return values_BT and the normed states [B, T, D] that they are read from; runs no block that they skip."""
        assert not isinstance(self.value_head, ValueEnsemble), "several trunks have no state in common"
        h_value_BTD = self._below_value(batch)
        features_BTF = None
        if self.spec.num_features:
            features_BTF = self._surprisal(self._above_value(h_value_BTD, batch), batch)[..., None]
        states_BTD = self.transformer.norm(h_value_BTD)
        outputs_BTO = self.value_head(states_BTD, features_BTF, batch.document_lengths)
        return values_of(outputs_BTO, self.spec), states_BTD

    def _below_value(self, batch: BatchTensors) -> Tensor:
        return self.transformer.trunk(
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            document_lengths=batch.document_lengths,
            num_blocks=self._num_value_blocks,
        )

    def _above_value(self, h_value_BTD: Tensor, batch: BatchTensors) -> Tensor:
        return self.transformer.trunk_above(
            h_value_BTD,
            self._num_value_blocks,
            positions_BT=batch.positions_BT,
            document_lengths=batch.document_lengths,
        )

    @property
    def _num_value_blocks(self) -> int:
        return self.spec.num_blocks(self.transformer.num_trunk_blocks)

    def forward(self, batch: BatchTensors) -> PolicyStates:
        """Return `states(batch)`: the entry that DDP and FSDP hook."""
        return self.states(batch)

    def head_hidden(self, states: PolicyStates, horizon: int, batch: BatchTensors) -> Tensor:
        """Return the normed hidden state [B, T, D] of one horizon (1 = next token), ready for `output`."""
        return self.transformer.head_hidden(
            states.h_trunk_BTD, horizon, positions_BT=batch.positions_BT, document_lengths=batch.document_lengths
        )

    @property
    def value_heads(self) -> list[ValueHead]:
        """The head of each member."""
        return [module for module in self.value_head.modules() if isinstance(module, ValueHead)]

    def train_value_path_only(self, *, train_trunk: bool) -> list[nn.Parameter]:
        """Freeze all that Stage 1 leaves alone and return what it trains: the value head, and the trunk below it.

        Undo with `policy.requires_grad_(True)`. The surprisal's block and `output` carry no gradient and stay frozen.
        """
        self.requires_grad_(False)
        if isinstance(self.value_head, ValueEnsemble):
            for member in self.value_head.models:
                member.train_value_path_only(train_trunk=train_trunk)
        else:
            self.value_head.requires_grad_(True)
            for module in trunk_below(self.transformer, self.spec) if train_trunk else ():
                module.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def _surprisal(self, h_trunk_BTD: Tensor, batch: BatchTensors) -> Tensor:
        hidden_BTD = self.transformer.head_hidden(
            h_trunk_BTD, 1, positions_BT=batch.positions_BT, document_lengths=batch.document_lengths
        )
        return next_token_losses(hidden_BTD, self.transformer.output.weight, batch)


def value_path_names(args: ModelArgs, spec: ValueSpec) -> list[str]:
    """Return the names of a critic's tensors, in its own order, without allocating one."""
    with torch.device("meta"):
        return list(build_critic(args, spec).state_dict())


def value_path_state(policy: Policy) -> dict[str, Tensor]:
    """Return what a critic has to load at each version: the value path, or its adapters and the value head.

    They share the policy's memory: copy before the next optimizer step if they are to outlive it. A critic without
    adapters loads them strictly, one with adapters has the base already (`ValueModel.load_learned`).
    """
    if isinstance(policy.value_head, ValueEnsemble):
        return policy.value_head.state_dict()
    available = policy.transformer.state_dict() | policy.value_head.state_dict(prefix="value_head.")
    names = value_path_names(policy.transformer.args, policy.spec)
    if policy.adapters is None:
        return {name: available[name] for name in names}
    learned = {name for name in available if is_adapter(name) and adapted_matrix(name) in names}
    learned |= {name for name in names if name.startswith("value_head.")}
    return {name: tensor for name, tensor in available.items() if name in learned}
