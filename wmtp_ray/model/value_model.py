"""The value path: the value head, the critic that holds no more than a value needs, and the reference's token losses.

It scores; it neither trains itself nor knows of versions or actors (`scoring/`). The head is linear and unbounded and
reads `norm(h)` of the trunk (`objective.md`, "Losses"), so a critic needs neither prediction heads nor, without
surprisal, the unembedding. The names of its tensors are a subset of Meta's, plus `value_head`:

    7 layers, 4 horizons, value_layer 1.0          tok_embeddings  layers.0 .1 .2  norm  value_head
    the same with value_layer 0.67                 tok_embeddings  layers.0 .1     norm  value_head
    any value_layer with features = surprisal      tok_embeddings  layers.0 .1 .2 .3  norm  output  value_head

Shape suffixes: B sequences (1: flat batches), T positions, D model width, V vocabulary, I inputs of the head, N heads
of attention (1), C channels.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vendor.meta_llama.attention import RopeScaling, causal_attention, sequence_context
from vendor.meta_llama.model import RMSNorm, Transformer, run_blocks, transformer_blocks
from vendor.model_args import ModelArgs
from wmtp_ray.config.schema import LoraConfig
from wmtp_ray.model.batch_tensors import BatchTensors
from wmtp_ray.model.lora import attach_adapters, is_adapter
from wmtp_ray.model.value_outputs import ValueScores, scores_of, values_of
from wmtp_ray.model.value_spec import ValueSpec
from wmtp_ray.objective.fused import token_cross_entropies


class PrefixPool(nn.Module):
    """What a state looks for in the states of its document up to its own: one head of causal attention, float32."""

    def __init__(self, num_inputs: int, channels: int):
        super().__init__()
        self.queries = nn.Linear(num_inputs, channels, bias=False)
        self.keys = nn.Linear(num_inputs, channels, bias=False)
        self.values = nn.Linear(num_inputs, channels, bias=False)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw all three so that they keep a normed state's scale."""
        for layer in (self.queries, self.keys, self.values):
            layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)

    def forward(self, inputs_BTI: Tensor, document_lengths: Sequence[int] | None) -> Tensor:
        """Return the mix of values [B, T, C] of every position; a position sees its own document up to itself."""
        projected = [layer(inputs_BTI)[:, None] for layer in (self.queries, self.keys, self.values)]
        lengths = [inputs_BTI.shape[1]] if document_lengths is None else list(document_lengths)
        documents = zip(*(x_BNTC.split(lengths, dim=2) for x_BNTC in projected), strict=True)
        mixed = [causal_attention(queries, keys, values) for queries, keys, values in documents]
        return torch.cat(mixed, dim=2)[:, 0]


class ValueHead(nn.Module):
    """The outputs that V of a state is made from (`value_outputs.values_of`), float32.

    Until trained they are 0 everywhere, since the last layer starts at zero: V is 0, or 0.5 where it is a probability.
    Its parameters stay float32 whatever the trunk's dtype: values differ by hundredths (`objective.md`, "Losses").
    """

    def __init__(self, dim: int, spec: ValueSpec):
        super().__init__()
        num_inputs = dim + spec.num_features
        self.pool = PrefixPool(num_inputs, spec.pool_channels) if spec.pool_channels else None
        self.hidden = nn.Linear(num_inputs + spec.pool_channels, spec.hidden_units) if spec.hidden_units else None
        self.output = nn.Linear(spec.hidden_units or num_inputs, spec.num_outputs)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Zero the output layer; draw the others (biases zero) so that they keep a normed state's scale."""
        if self.pool is not None:
            self.pool.init_weights(generator)
        if self.hidden is not None:
            self.hidden.weight.normal_(0.0, self.hidden.in_features**-0.5, generator=generator)
            self.hidden.bias.zero_()
        self.output.weight.zero_()
        self.output.bias.zero_()

    def forward(
        self, state_BTD: Tensor, features_BTF: Tensor | None = None, document_lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return outputs_BTO (float32) of normed states; `features_BTF` are appended to them.

        A state is read with those before it in its document, where the head reads them: with `document_lengths` in the
        flat batch's documents, without in its row.
        """
        with torch.autocast(state_BTD.device.type, enabled=False):
            inputs = state_BTD.float()
            if features_BTF is not None:
                inputs = torch.cat((inputs, features_BTF.float()), dim=-1)
            if self.pool is not None:
                inputs = torch.cat((inputs, self.pool(inputs, document_lengths)), dim=-1)
            if self.hidden is not None:
                inputs = F.gelu(self.hidden(inputs))
            return self.output(inputs)  # type: ignore[no-any-return]


class HeadEnsemble(nn.Module):
    """The heads of an ensemble over one trunk; gives the outputs of all, as `value_outputs.py` shows them."""

    def __init__(self, dim: int, spec: ValueSpec):
        super().__init__()
        self.members = nn.ModuleList(ValueHead(dim, spec.member) for _ in range(spec.members))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draw each member anew, one after the other."""
        for member in self.members:
            assert isinstance(member, ValueHead)
            member.init_weights(generator)

    def forward(
        self, state_BTD: Tensor, features_BTF: Tensor | None = None, document_lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Return outputs [B, T, N O] of normed states, as `ValueHead` of each member."""
        return torch.cat([member(state_BTD, features_BTF, document_lengths) for member in self.members], dim=-1)


def build_value_head(dim: int, spec: ValueSpec) -> ValueHead | HeadEnsemble:
    """Return a fresh head for each member of the value path; all draw from torch's generator."""
    return ValueHead(dim, spec) if spec.members == 1 else HeadEnsemble(dim, spec)


class Critic(nn.Module):
    """What gives V of a batch's states: a `ValueModel`, or a `ValueEnsemble` of several with trunks of their own."""

    spec: ValueSpec

    def outputs(self, batch: BatchTensors) -> Tensor:
        """Return what the heads give, [B, T, N O]."""
        raise NotImplementedError

    def values(self, batch: BatchTensors) -> Tensor:
        """Return values_BT: `values[t]` = V of the state after token t. Gradient flows down to the embedding."""
        return values_of(self.outputs(batch), self.spec)

    def scores(self, batch: BatchTensors) -> ValueScores:
        """Return `values` and, of an ensemble, its disagreement."""
        return scores_of(self.outputs(batch), self.spec)

    def forward(self, batch: BatchTensors) -> Tensor:
        """Return `values(batch)`."""
        return self.values(batch)

    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a version; RuntimeError when it is of another critic."""
        self.load_state_dict(dict(tensors))


class ValueModel(Critic):
    """The critic: the part of a policy that values need, under the policy's own names.

    It is loaded, never trained from scratch: `policy.value_path_state` gives what `load_learned` takes.
    `activation_checkpointing` as in `Transformer`.
    """

    def __init__(self, args: ModelArgs, spec: ValueSpec):
        super().__init__()
        assert args.num_trunk_blocks >= 1, "a value needs a trunk"
        assert spec.trunks == "shared", "members with trunks of their own are a ValueEnsemble"
        self.args = args
        self.spec = spec
        self.activation_checkpointing = False
        self.tok_embeddings = nn.Embedding(args.vocab_size, args.dim)
        self.rope_scaling = RopeScaling.of(args)
        self.layers = transformer_blocks(args, 0, spec.critic_blocks(args.num_trunk_blocks))
        self.norm = RMSNorm(args.dim, args.norm_eps)
        self.output = nn.Linear(args.dim, args.vocab_size, bias=False) if spec.surprisal else None
        self.value_head = build_value_head(args.dim, spec)

    def add_adapters(self, lora: LoraConfig) -> None:
        """Keep the weights as the base of adapters that `load_learned` brings; until then these change nothing."""
        attach_adapters(self, lora, seed=0)

    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a version: all tensors, or adapters and value head where there are adapters; RuntimeError otherwise."""
        adapted = any(is_adapter(name) for name in self.state_dict())
        base = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if adapted and not is_adapter(name) and not name.startswith("value_head.")
        }
        self.load_state_dict(base | dict(tensors))

    def outputs(self, batch: BatchTensors) -> Tensor:
        """Return what the head gives of every state. Gradient flows down to the embedding."""
        h_BTD = self.tok_embeddings(batch.tokens_BT)
        context = sequence_context(
            h_BTD,
            head_dim=self.args.head_dim,
            rope_theta=self.args.rope_theta,
            positions_BT=batch.positions_BT,
            document_lengths=batch.document_lengths,
            rope_scaling=self.rope_scaling,
            window=self.args.attention_window,
        )
        recompute = self.activation_checkpointing and self.training
        num_blocks = self.spec.num_blocks(self.args.num_trunk_blocks)
        blocks = list(self.layers)
        h_BTD = run_blocks(blocks[:num_blocks], h_BTD, context, recompute=recompute)
        features_BTF = None
        if self.output is not None:
            with torch.no_grad():
                h_next_BTD = run_blocks(blocks[num_blocks:], h_BTD, context)
                features_BTF = next_token_losses(self.norm(h_next_BTD), self.output.weight, batch)[..., None]
        return self.value_head(self.norm(h_BTD), features_BTF, batch.document_lengths)  # type: ignore[no-any-return]

    def train_value_path_only(self, *, train_trunk: bool) -> None:
        """Freeze all but the head and, if asked for, the trunk below it."""
        self.requires_grad_(False)
        trained = [self.value_head, *(trunk_below(self, self.spec) if train_trunk else ())]
        for module in trained:
            module.requires_grad_(True)


def trunk_below(model: "Transformer | ValueModel", spec: ValueSpec) -> list[nn.Module]:
    """Return the modules of a trunk that a value is read through."""
    num_blocks = spec.num_blocks(model.args.num_trunk_blocks)
    return [model.tok_embeddings, *list(model.layers)[:num_blocks], model.norm]


@torch.no_grad()
def next_token_losses(hidden_BTD: Tensor, output_weight_VD: Tensor, batch: BatchTensors) -> Tensor:
    """Return losses_BT (float32): the cross-entropy of token t, read from the normed hidden state of token t - 1.

    Tokens 5 6 | 7 8: the losses of 6 and 8 stand at positions 1 and 3; a document's first token has 0.
    """
    losses_BT = torch.zeros(batch.tokens_BT.shape, dtype=torch.float32, device=hidden_BTD.device)
    follows_BT = batch.document_ids_BT[:, 1:] == batch.document_ids_BT[:, :-1]
    losses_BT[:, 1:][follows_BT] = token_cross_entropies(
        hidden_BTD[:, :-1][follows_BT], output_weight_VD, batch.tokens_BT[:, 1:][follows_BT]
    ).float()
    return losses_BT


@torch.no_grad()
def reference_losses(transformer: Transformer, batch: BatchTensors) -> Tensor:
    """Return losses_BT of a next-token model (horizon 1): CE(x_t | x_<t) within t's document, 0 at its start."""
    positions_BT, lengths = batch.positions_BT, batch.document_lengths
    h_trunk_BTD = transformer.trunk(batch.tokens_BT, positions_BT=positions_BT, document_lengths=lengths)
    hidden_BTD = transformer.head_hidden(h_trunk_BTD, 1, positions_BT=positions_BT, document_lengths=lengths)
    return next_token_losses(hidden_BTD, transformer.output.weight, batch)
