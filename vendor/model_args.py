"""What a params.json says of a model: Meta's keys, their defaults, and the sizes that follow from them.

Our own definition, not Meta's code. It is apart from `vendor.meta_llama` so that a model can be described without
importing torch. A new key of params.json is a field here: `wmtp_ray.model.spec.ModelSpec`, which reads the file,
inherits it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelArgs:
    """Meta's params.json, key by key. `max_seq_len` and `max_batch_size` are accepted and bound nothing here.

    Raises ValueError for a shape that cannot be built (among them vocab_size -1, which some of Meta's files carry).
    """

    dim: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_kv_heads: int | None = None
    n_future_tokens: int = 1
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    max_seq_len: int | None = None
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        problems = {
            f"vocab_size is {self.vocab_size}; write the tokenizer's size": self.vocab_size < 1,
            f"n_heads {self.n_heads} does not divide dim {self.dim}": self.dim % self.n_heads != 0,
            f"the head dimension {self.head_dim} is odd": self.head_dim % 2 != 0,
            f"n_kv_heads {self.num_kv_heads} does not divide n_heads {self.n_heads}": self.n_heads % self.num_kv_heads,
            f"n_future_tokens {self.n_future_tokens} is not in 1..n_layers ({self.n_layers})": not (
                1 <= self.n_future_tokens <= self.n_layers
            ),
        }
        if found := [text for text, wrong in problems.items() if wrong]:
            raise ValueError(f"params.json describes no model: {'; '.join(found)}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def num_kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def num_trunk_blocks(self) -> int:
        return self.n_layers - self.n_future_tokens

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward: 8/3 dim, scaled by `ffn_dim_multiplier`, rounded up to `multiple_of`."""
        width = 2 * 4 * self.dim // 3
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of
