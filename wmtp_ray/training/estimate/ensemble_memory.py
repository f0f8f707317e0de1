"""Bytes of one rank of stage 1 where an ensemble trains trunks of its own: more than any of stage 2 may need.

Beside the model that it began with, a rank holds every member's weights, gradients and optimizer, and keeps what all
members have computed of a micro-batch until its backward: the two members of a split read each document once, so N
members keep what ceil(N / 2) passes over the micro-batch keep at most. The letters are `memory.py`'s.
"""

from dataclasses import dataclass

from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.training.estimate.memory import FLOAT, HALF, Memory, RankWork, saved_block_bytes, window_mask_bytes


@dataclass(frozen=True)
class EnsembleWork:
    """Stage 1 of members with trunks of their own; `size` is the model that their trunks are copies of."""

    size: ModelSpec
    work: RankWork

    def memory(self) -> Memory:
        """Return the moment at which a rank holds most: all is computed, all gradients are there, or the update."""
        moments = (self._forward_end(), self._backward_end(), self._update())
        return max(moments, key=lambda memory: memory.total)

    @property
    def _read_tokens(self) -> int:
        """Tokens that the members read of a micro-batch, all together, at most."""
        return -(-self.work.value.members // 2) * self.work.micro_batch_tokens

    @property
    def _blocks(self) -> int:
        return self.work.value.num_blocks(self.size.num_trunk_blocks)

    @property
    def _learned(self) -> int:
        size, value = self.size, self.work.value
        trunk = self._blocks * size.block_parameters + size.table_parameters + size.dim
        return value.members * trunk + value.head_parameters(size.dim)

    @property
    def _gradients(self) -> int:
        whole = FLOAT * self._learned
        return whole // self.work.shards + (whole if self.work.stays_whole else 0)

    def _static(self) -> dict[str, int]:
        weights = self.size.parameters + self.work.value.critic_parameters(self.size)
        return {
            "parameters": FLOAT * weights // self.work.shards,
            "optimizer": 2 * FLOAT * self._learned // self.work.shards,
        }

    def _gathered(self) -> int:
        """FSDP2's whole weights: the tables of the model and of all members, and two blocks, one on its way."""
        work, size = self.work, self.size
        if work.shards == 1:
            return 0
        blocks = work.value.members * self._blocks if work.stays_whole else min(2, self._blocks)
        tables = 2 + work.value.members
        return work.item_bytes * (tables * size.table_parameters + blocks * size.block_parameters)

    def _kept_of_a_token(self) -> int:
        """Of one member: its blocks, the last norm, the head, and rotary angles."""
        size, work = self.size, self.work
        stream = size.dim * (FLOAT if work.autocasts else work.item_bytes)
        body = stream if work.activation_checkpointing else saved_block_bytes(size, work)
        value = work.value
        outputs = {"value": 1, "logit": 3, "bins": 4 * value.num_bins}[value.output]
        head = FLOAT * (2 * size.dim + outputs + 2 * value.hidden_units)
        if channels := value.pool_channels:
            head += FLOAT * (5 * channels + 1 + size.dim + channels)
        return self._blocks * body + stream + head + FLOAT * size.head_dim

    def _window_masks(self) -> int:
        """The mask of an attention window, one of each member's pass."""
        work = self.work
        varlen = work.device == "cuda" and work.dtype == "bfloat16"
        mask = window_mask_bytes(self.size, work.micro_batch_tokens, work.item_bytes, varlen_kernel=varlen)
        return work.value.members * mask

    def _copies(self) -> int:
        """Autocast's bfloat16 weights of all members' blocks."""
        if not self.work.autocasts:
            return 0
        return HALF * self.work.value.members * self._blocks * self.size.block_matrix_parameters

    def _moment(self, moment: str, **parts: int) -> Memory:
        named = self._static() | {name.replace("_", " "): count for name, count in parts.items()}
        return Memory(f"{moment} of stage 1", {name: count for name, count in named.items() if count})

    def _forward_end(self) -> Memory:
        return self._moment(
            "the forward's end",
            gradients=self._gradients if self.work.keeps_gradients else 0,
            activations=self._read_tokens * self._kept_of_a_token() + self._window_masks(),
            bfloat16_copies=self._copies(),
            gathered_weights=self._gathered(),
        )

    def _backward_end(self) -> Memory:
        """The gradient of the last member's embedding comes last and at once."""
        size = self.size
        return self._moment(
            "the backward's end",
            gradients=self._gradients,
            activations=self.work.micro_batch_tokens * size.dim * FLOAT + FLOAT * size.table_parameters,
            gathered_weights=self._gathered(),
        )

    def _update(self) -> Memory:
        """AdamW takes all square roots at once on CUDA, one tensor's at a time on a CPU."""
        size, work = self.size, self.work
        whole = FLOAT * self._learned // work.shards
        largest = FLOAT * max(size.dim * size.hidden_dim, size.table_parameters) // work.shards
        temporary = whole if work.device == "cuda" else min(whole, 2 * largest)
        return self._moment("the update", gradients=whole, temporary=temporary)
