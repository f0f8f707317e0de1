"""Critics with trunks of their own, whose mean is V: what `critic.ensemble` is where `critic.train_trunk` trains them.

Their names are those of the members, `members.0.layers.0...`; heads over one trunk are `value_model.HeadEnsemble`.

Shapes: N members, B sequences (1: flat batches), T positions, M documents, K kept tokens, O outputs of one head.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vendor.meta_llama.model import Transformer
from vendor.model_args import ModelArgs
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.value_model import Critic, HeadEnsemble, ValueHead, ValueModel, build_value_head
from wmtp_ray.model.value_spec import ValueSpec

_HEAD = "value_head."  # of a member's tensors


class ValueEnsemble(Critic):
    """N critics of one form."""

    def __init__(self, args: ModelArgs, spec: ValueSpec):
        super().__init__()
        assert spec.trunks == "own", "heads over one trunk are a HeadEnsemble"
        self.args = args
        self.spec = spec
        self.members = nn.ModuleList(ValueModel(args, spec.member) for _ in range(spec.members))

    @property
    def models(self) -> list[ValueModel]:
        """The members."""
        return [member for member in self.members if isinstance(member, ValueModel)]

    def outputs(self, batch: BatchTensors, learns_NM: Tensor | None = None) -> Tensor:
        """Return outputs [B, T, N O]. With `learns_NM` a member reads no document but its own; elsewhere it gives 0.

        A member without a document reads the first one, since under FSDP2 all ranks must run the same modules.
        """
        if learns_NM is None:
            return torch.cat([member.outputs(batch) for member in self.models], dim=-1)
        each = [_outputs_within(member, batch, own_M) for member, own_M in zip(self.models, learns_NM, strict=True)]
        return torch.cat(each, dim=-1)

    def load_heads(self, heads: Mapping[str, Tensor]) -> None:
        """Take over the heads of an ensemble over one trunk, named as in `HeadEnsemble.state_dict`."""
        alone = HeadEnsemble(self.args.dim, self.spec)
        alone.load_state_dict(dict(heads))
        for member, head in zip(self.models, alone.members, strict=True):
            member.value_head.load_state_dict(head.state_dict())


def ensemble_on(transformer: Transformer, spec: ValueSpec) -> ValueEnsemble:
    """Return members that all begin with a copy of the transformer's trunk, each with a fresh head of its own."""
    with torch.device("meta"):
        ensemble = ValueEnsemble(transformer.args, spec)
    trunk = transformer.state_dict()
    for member in ensemble.models:
        start = trunk | ValueHead(transformer.args.dim, spec.member).state_dict(prefix=_HEAD)
        copies = {name: start[name].detach().clone() for name in member.state_dict()}
        member.load_state_dict(copies, assign=True)
    return ensemble


def build_critic(args: ModelArgs, spec: ValueSpec) -> ValueModel | ValueEnsemble:
    """Return a critic whose weights are yet to be loaded."""
    return ValueEnsemble(args, spec) if spec.trunks == "own" else ValueModel(args, spec)


def build_value_path(transformer: Transformer, spec: ValueSpec) -> ValueHead | HeadEnsemble | ValueEnsemble:
    """Return what a policy holds beside its transformer to have values: heads, and trunks where these are their own."""
    own = spec.trunks == "own"
    return ensemble_on(transformer, spec) if own else build_value_head(transformer.args.dim, spec)


def _outputs_within(member: ValueModel, batch: BatchTensors, learns_M: Tensor) -> Tensor:
    is_read_M = learns_M.clone()
    is_read_M[0] |= not bool(learns_M.any())
    part, places_K = batch.part(is_read_M)
    outputs_BKO = member.outputs(part)
    batch_size, num_tokens = batch.tokens_BT.shape
    outputs_BTO = outputs_BKO.new_zeros(batch_size, num_tokens, outputs_BKO.shape[-1])
    return outputs_BTO.index_copy(1, places_K, outputs_BKO)
