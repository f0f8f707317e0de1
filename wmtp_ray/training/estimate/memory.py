"""Bytes of one rank of stage 2, and of an actor that scores, moment by moment: closed forms, nothing is allocated.

What autograd keeps of a block was read off the block and is held against measured runs in a test, float32 to the byte.
The peak is looked for at four kinds of moments, because different parts are largest at each:

    forward's end   every block's activations, the fused loss with its two gradients and its logits
    backward of k   activations of the blocks up to k, gradients of those above it, block k's temporaries
    embedding       its gradient comes last and at once
    update          gradients and AdamW's temporary, no activations

Not counted: the CUDA context, NCCL's buffers and the caching allocator's fragmentation (`hardware.py` keeps room for
them). On a CPU `process_memory` adds Python and its libraries, and what glibc's allocator has freed and keeps. LoRA
counts the activations of full training, which is more than it keeps.
Letters in comments: T tokens of a micro-batch, D width, F feed-forward width, K key/value width, V vocabulary,
H horizons; N attention heads; Q width of all queries together (D in most models).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from wmtp_ray.model.spec import ModelSpec, Target
from wmtp_ray.model.value_spec import ValueSpec

FLOAT, HALF = 4, 2
MIB = 2**20
# How much more the heap holds, as a share of what comes and goes in a step: glibc 2.36 leaves holes where aligned
# blocks of the same size were, and peft makes more that comes and goes. Measured: bench/results/memory.md.
FREED_FRAC, FREED_FRAC_LORA = 0.35, 0.55
_SCORING_LOGITS_BYTES = 16 * MIB  # of `fused.token_cross_entropies`


@dataclass(frozen=True)
class Lora:
    """Adapters on the targets of every block; everything else is frozen but the value head."""

    rank: int
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class RankWork:
    """What a rank holds and does in a step. `num_micro_batches` above 1 keeps gradients through every forward."""

    micro_batch_tokens: int
    num_micro_batches: int
    activation_checkpointing: bool
    dtype: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    parallel: Literal["ddp", "fsdp2"]
    reduce_gradients: Literal["step", "micro_batch"]
    num_ranks: int
    lora: Lora | None
    max_logits_mb: float
    value: ValueSpec

    @property
    def shards(self) -> int:
        return self.num_ranks if self.parallel == "fsdp2" else 1

    @property
    def autocasts(self) -> bool:
        """Whether weights stay float32 and every product gets a copy; FSDP2 gathers bfloat16 weights instead."""
        return self.dtype == "bfloat16" and self.shards == 1

    @property
    def stays_whole(self) -> bool:
        """Whether FSDP2 keeps weights and gradients whole between the micro-batches of a step."""
        return self.shards > 1 and self.num_micro_batches > 1 and self.reduce_gradients == "step"

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients live through the forward: they accumulate, or lie in DDP's buckets."""
        return self.num_micro_batches > 1 or (self.parallel == "ddp" and self.num_ranks > 1)

    @property
    def item_bytes(self) -> int:
        return HALF if self.dtype == "bfloat16" else FLOAT


@dataclass(frozen=True)
class Memory:
    """Bytes by part at one moment."""

    moment: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def rank_memory(size: ModelSpec, work: RankWork) -> Memory:
    """Return the moment at which a rank of stage 2 holds most."""
    return max(_Moments(size, work).all(), key=lambda memory: memory.total)


def process_memory(memory: Memory, *, base_bytes: int, file_bytes: int, freed_frac: float) -> Memory:
    """Return the peak of a CPU process around tensors: while its weights are read, or at the moment that is given.

    `base_bytes` is the process without a tensor, `file_bytes` the weights' file, which is mapped while it is read;
    `freed_frac` is `FREED_FRAC` or `FREED_FRAC_LORA`.
    """
    weights = memory.parts["parameters"]
    reading = {"Python and its libraries": base_bytes, "parameters": weights, "mapped file": file_bytes}
    lasting = sum(memory.parts.get(name, 0) for name in ("parameters", "optimizer"))
    kept = {"freed, kept by the allocator": int(freed_frac * (memory.total - lasting))}
    running = {"Python and its libraries": base_bytes} | memory.parts | kept
    loaded, at_work = Memory("reading the weights", reading), Memory(memory.moment, running)
    return max(loaded, at_work, key=lambda each: each.total)


def scorer_memory(size: ModelSpec, tokens: int, value: ValueSpec | None, *, autocast: bool) -> Memory:
    """Return the peak of a critic (`value` given) or of a reference (None) on one micro-batch, without gradient."""
    if value is None:
        parameters, blocks = size.parameters, size.n_layers
    else:
        parameters, blocks = value.critic_parameters(size), value.critic_blocks(size.num_trunk_blocks)
    makes_logits = value is None or value.surprisal
    num_trunks = value.members if value is not None and value.trunks == "own" else 1
    copies = HALF * num_trunks * (blocks * size.block_matrix_parameters + makes_logits * size.table_parameters)
    stream = 4 * FLOAT * max(size.dim, size.query_dim)
    mask = window_mask_bytes(size, tokens, FLOAT, varlen_kernel=autocast)
    middle = 3 * (HALF if autocast else FLOAT) * size.hidden_dim  # of a feed-forward, gone before there are logits
    logits = min(_SCORING_LOGITS_BYTES, FLOAT * size.vocab_size * tokens) if makes_logits else 0
    parts = {
        "parameters": FLOAT * parameters,
        "bfloat16 copies": copies if autocast else 0,
        "activations": tokens * (stream + FLOAT * size.head_dim) + mask,
        "feed-forward or logits": max(tokens * middle, logits),
    }
    return Memory("scoring", parts)


def saved_block_bytes(size: ModelSpec, work: RankWork) -> int:
    """Return what autograd keeps of one block for one token, the block's input included.

    float32: input, normed and scaled of both norms, the residual between them (6 D), queries, attention's output and
    its copy in document order (3 Q), keys and values (2 K), four states of the feed-forward (4 F). A norm of queries
    and keys keeps its input, in float32, and the normed (2 (Q + K)). Under autocast the residual stream stays float32
    and each of five products keeps a bfloat16 copy of its input; norms behind the blocks read bfloat16.
    """
    dim, queries, kv, wide = size.dim, size.query_dim, size.kv_dim, size.hidden_dim
    # Attention's log-sum-exp and the two norms' scales, then those of the norms of queries and keys.
    scales = {None: 0, "head": size.n_heads + size.num_kv_heads, "width": 2}[size.query_key_norm]
    sums = FLOAT * (size.n_heads + 2 + scales)
    normed = queries + kv if size.query_key_norm else 0
    if work.dtype == "float32":
        return FLOAT * (6 * dim + 3 * queries + 2 * kv + 2 * normed + 4 * wide) + sums
    copied_Q = int(work.device == "cpu")  # the CUDA kernel writes all documents at once
    inside = HALF * ((2 + copied_Q) * queries + 2 * kv + 4 * wide) + (FLOAT + HALF) * normed + sums
    if work.autocasts:
        stream = 2 * (FLOAT + HALF) if size.norm_after else 4 * FLOAT
        return dim * (stream + 5 * HALF) + inside
    return dim * (2 * FLOAT + 4 * HALF) + inside


def window_mask_bytes(size: ModelSpec, tokens: int, item_bytes: int, *, varlen_kernel: bool) -> int:
    """Return what the mask of an attention window takes, which all blocks share."""
    window = size.attention_window
    if window is None or tokens <= window or varlen_kernel:
        return 0
    return item_bytes * window * (2 * window - 1)


class _Moments:
    """All moments of one optimizer step."""

    def __init__(self, size: ModelSpec, work: RankWork) -> None:
        self._size, self._work = size, work
        self._tokens = work.micro_batch_tokens
        self._block_grads = FLOAT * self._trained_in_a_block() // work.shards
        self._table_grads = 0 if work.lora else FLOAT * size.table_parameters // work.shards
        self._all_grads = self._gradients_of_all()

    def all(self) -> Iterator[Memory]:
        yield self._forward_end()
        for blocks_left in range(self._size.n_layers, 0, -1):
            yield self._backward(blocks_left)
        yield self._embedding()
        yield self._update()

    # --------------------------------------------------------------------------------------- what stays all the time

    def _trained_in_a_block(self) -> int:
        lora = self._work.lora
        if lora is None:
            return self._size.block_parameters
        return self._size.adapter_parameters(lora.rank, lora.targets) // self._size.n_layers

    def _value_parameters(self) -> int:
        return self._work.value.head_parameters(self._size.dim)

    def _trained(self) -> int:
        own = self._size.n_layers * self._trained_in_a_block() + self._value_parameters()
        return own if self._work.lora else own + 2 * self._size.table_parameters + self._size.dim

    def _gradients_of_all(self) -> int:
        """Return the gradients at the end of a backward, or all through a step that accumulates them."""
        whole = FLOAT * self._trained()
        return whole // self._work.shards + (whole if self._work.stays_whole else 0)

    def _static(self) -> dict[str, int]:
        work, size = self._work, self._size
        adapters = self._trained() - self._value_parameters() if work.lora else 0
        weights = size.parameters + self._value_parameters() + adapters
        return {
            "parameters": FLOAT * weights // work.shards,
            "optimizer": 2 * FLOAT * self._trained() // work.shards,
        }

    def _gathered(self) -> int:
        """FSDP2's whole weights: both tables all the time, and two blocks, one of them on its way."""
        if self._work.shards == 1:
            return 0
        blocks = self._size.n_layers if self._work.stays_whole else min(2, self._size.n_layers)
        return self._work.item_bytes * (2 * self._size.table_parameters + blocks * self._size.block_parameters)

    def _copies(self, blocks: int) -> int:
        """Autocast's bfloat16 weights of so many blocks and of the unembedding."""
        if not self._work.autocasts:
            return 0
        return HALF * (blocks * self._size.block_matrix_parameters + self._size.table_parameters)

    # ---------------------------------------------------------------------------------------------- activations

    def _kept(self, blocks: int) -> int:
        """What is kept for the backward of the lowest `blocks` blocks (trunk, then heads), contexts included."""
        size, work = self._size, self._work
        heads = max(0, blocks - size.num_trunk_blocks)
        trunk = blocks - heads
        stream = self._stream_bytes()
        if work.activation_checkpointing:
            bodies = trunk * stream
        else:
            # The heads share their input, which is the trunk's output.
            bodies = blocks * saved_block_bytes(size, work) - heads * stream
        normed = FLOAT + FLOAT * size.dim + stream  # the last norm of each head
        outputs = {"value": 1, "logit": 3, "bins": 4 * work.value.num_bins}[work.value.output]
        value = FLOAT * (2 * size.dim + outputs + 2 * work.value.hidden_units)
        if channels := work.value.pool_channels:  # queries, keys, values, their mix twice, its sum; the joined inputs
            value += FLOAT * (5 * channels + 1 + size.dim + channels)
        contexts = FLOAT * size.head_dim * (1 + size.num_horizons)
        return self._window_mask() + self._tokens * (bodies + stream + heads * normed + value + contexts)

    def _window_mask(self) -> int:
        work = self._work
        varlen = work.device == "cuda" and work.dtype == "bfloat16"
        return window_mask_bytes(self._size, self._tokens, work.item_bytes, varlen_kernel=varlen)

    def _stream_bytes(self) -> int:
        """One state of the residual stream: float32 under autocast, the weights' precision under FSDP2."""
        return self._size.dim * (FLOAT if self._work.autocasts else self._work.item_bytes)

    def _temporaries(self) -> int:
        """Of one block's backward: two gradients of the feed-forward, two of the stream, one matrix's gradient."""
        size, work = self._size, self._work
        stream = 2 * self._stream_bytes() + 2 * work.item_bytes * size.hidden_dim
        matrix = 0 if work.lora else FLOAT * size.dim * size.hidden_dim
        recomputed = 0
        if work.activation_checkpointing:
            recomputed = saved_block_bytes(size, work) - self._stream_bytes()
        scattered = FLOAT * 2 * size.block_parameters if work.shards > 1 and not work.lora else 0
        return self._tokens * (stream + recomputed) + matrix + scattered

    def _hidden(self) -> int:
        """The stack [H, T, D] that the fused loss reads, or its gradient."""
        return self._size.num_horizons * self._tokens * self._size.dim * self._work.item_bytes

    # ----------------------------------------------------------------------------------------------- the moments

    def _forward_end(self) -> Memory:
        size, work = self._size, self._work
        row = size.vocab_size * (FLOAT if work.dtype == "float32" else FLOAT + HALF)
        rows = min(max(1, int(work.max_logits_mb * MIB) // row), size.num_horizons * self._tokens)
        table_grads = 0 if work.lora else FLOAT * size.table_parameters * (1 if work.dtype == "float32" else 2)
        return self._moment(
            "the fused loss",
            gradients=self._all_grads if work.keeps_gradients else 0,
            activations=self._kept(size.n_layers),
            loss=2 * self._hidden() + table_grads + rows * (row + 2 * work.item_bytes * size.dim),
            copies=self._copies(size.n_layers),
        )

    def _backward(self, blocks_left: int) -> Memory:
        """The backward of block number `blocks_left`, counted from 1 at the trunk's bottom."""
        size, work = self._size, self._work
        done = size.n_layers - blocks_left
        in_heads = blocks_left > size.num_trunk_blocks
        return self._moment(
            f"the backward of {'prediction head' if in_heads else 'trunk block'} "
            f"{blocks_left - size.num_trunk_blocks if in_heads else blocks_left}",
            gradients=self._all_grads if work.keeps_gradients else self._table_grads + done * self._block_grads,
            activations=self._kept(blocks_left) + self._temporaries(),
            loss=self._hidden() if in_heads else 0,
            copies=self._copies(1 if work.activation_checkpointing else blocks_left),
        )

    def _embedding(self) -> Memory:
        size, work = self._size, self._work
        table = 0 if work.lora else FLOAT * size.table_parameters
        return self._moment(
            "the embedding's gradient",
            gradients=self._all_grads if work.keeps_gradients else self._all_grads - self._table_grads,
            activations=self._tokens * (self._stream_bytes() + FLOAT * size.head_dim) + table,
        )

    def _update(self) -> Memory:
        """AdamW takes all square roots at once on CUDA (foreach), one tensor's at a time on a CPU."""
        size, work = self._size, self._work
        whole = FLOAT * self._trained() // work.shards
        largest = FLOAT * max(size.dim * size.hidden_dim, size.table_parameters) // work.shards
        temporary = whole if work.device == "cuda" else min(whole, 2 * largest)
        return self._moment(
            "the update", gradients=FLOAT * self._trained() // work.shards, temporary=temporary, gathered=False
        )

    def _moment(
        self,
        moment: str,
        *,
        gradients: int,
        activations: int = 0,
        loss: int = 0,
        copies: int = 0,
        temporary: int = 0,
        gathered: bool = True,
    ) -> Memory:
        parts = self._static() | {
            "gradients": gradients,
            "activations": activations,
            "loss: states, gradients, logits": loss,
            "bfloat16 copies": copies,
            "gathered weights": self._gathered() if gathered else 0,
            "AdamW's temporary": temporary,
        }
        return Memory(moment, {name: count for name, count in parts.items() if count})
