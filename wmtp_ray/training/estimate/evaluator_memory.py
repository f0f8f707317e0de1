"""Bytes that evaluating the policy while it trains takes: rank 0's copy of the weights, and the evaluator's process.

The evaluator holds a whole model and the cache of the answers that it decodes at a time; while it takes a policy the
policy's file is mapped. Closed forms over the model's shape, as in `memory.py`.
"""

from dataclasses import dataclass

from wmtp_ray.model.spec import ModelSpec
from wmtp_ray.training.estimate.memory import FLOAT, FREED_FRAC, HALF, MIB, Memory, process_memory
from wmtp_ray.training.estimate.process_overhead import EVALUATOR_MIB


@dataclass(frozen=True)
class EvaluatorWork:
    """`num_rows` answers at a time, of at most `longest_tokens` with their prompts, drafted by `draft_horizons` heads.

    `learned_parameters` are handed over: those of the transformer, or of its adapters. `on_gpu`: the evaluator is on a
    card that ranks have as well; its weights are bfloat16 where `is_half`.
    """

    size: ModelSpec
    num_rows: int
    longest_tokens: int
    draft_horizons: int
    learned_parameters: int
    on_gpu: bool = False
    is_half: bool = False

    @property
    def copy_bytes(self) -> int:
        """Of rank 0, in the machine's memory: the weights that are written while training goes on."""
        return FLOAT * self.learned_parameters

    def tensors(self) -> Memory:
        """What decoding holds: weights, keys and values of every row, logits of one token a row."""
        item_bytes, size = HALF if self.is_half else FLOAT, self.size
        blocks = size.num_trunk_blocks + 1 + self.draft_horizons
        parts = {
            "parameters": item_bytes * size.parameters,
            "cache": 2 * item_bytes * size.kv_dim * blocks * self.num_rows * self.longest_tokens,
            "logits": FLOAT * size.vocab_size * self.num_rows * (1 + self.draft_horizons),
        }
        return Memory("decoding", parts)

    def process(self) -> Memory:
        """The evaluator's process on a machine."""
        base_bytes = EVALUATOR_MIB * MIB
        return process_memory(self.tensors(), base_bytes=base_bytes, file_bytes=self.copy_bytes, freed_frac=FREED_FRAC)
