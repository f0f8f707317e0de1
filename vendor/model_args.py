"""What a params.json says of a model: Meta's keys, their defaults, and the sizes that follow from them.

Our own definition, not Meta's code. It is apart from `vendor.meta_llama` so that a model can be described without
importing torch. A new key of params.json is a field here: `wmtp_ray.model.spec.ModelSpec`, which reads the file,
inherits it. Keys behind `max_batch_size` are ours: models of other families have them, Meta's own never do.
"""

from dataclasses import dataclass

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "smollm3", "olmo2")
QUERY_KEY_NORMS = ("head", "width")


@dataclass(frozen=True)
class ModelArgs:
    """Meta's params.json, key by key. `max_seq_len` and `max_batch_size` are accepted and bound nothing here.

    What other families add; a model of Meta's layout has none of it:

        family                  what the model is exported as; it changes nothing here
        attention_head_dim      channels of a head, where they are not dim / n_heads
        attention_window        a position sees itself and the positions before it, so many together; None: all of them
        qkv_bias, attention_output_bias, mlp_bias   a bias on wq, wk, wv; on wo; on w1, w2, w3
        query_key_norm          an RMS norm of queries and keys before they are rotated: "head" by head, or over the
                                whole "width" of all heads
        norm_after              the norms of a block stand behind attention and feed-forward, not before them
        rope_scaling_factor     what rotary frequencies are divided by: all of them, or with `rope_original_seq_len`
                                the low ones alone (LLaMA 3.1), between the two frequency factors in part
        blocks_without_rope     blocks whose queries and keys are not rotated, counted through trunk and heads

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
    family: str = "llama"
    attention_head_dim: int | None = None
    attention_window: int | None = None
    qkv_bias: bool = False
    attention_output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: str | None = None
    norm_after: bool = False
    rope_scaling_factor: float = 1.0
    rope_low_freq_factor: float | None = None
    rope_high_freq_factor: float | None = None
    rope_original_seq_len: int | None = None
    blocks_without_rope: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks_without_rope", tuple(sorted(set(self.blocks_without_rope))))  # JSON has lists
        divides = self.attention_head_dim is not None or self.dim % self.n_heads == 0
        problems = {
            f"vocab_size is {self.vocab_size}; write the tokenizer's size": self.vocab_size < 1,
            f"n_heads {self.n_heads} does not divide dim {self.dim}": not divides,
            f"the head dimension {self.head_dim} is odd": self.head_dim % 2 != 0,
            f"n_kv_heads {self.num_kv_heads} does not divide n_heads {self.n_heads}": self.n_heads % self.num_kv_heads,
            f"n_future_tokens {self.n_future_tokens} is not in 1..n_layers ({self.n_layers})": not (
                1 <= self.n_future_tokens <= self.n_layers
            ),
        }
        if found := [text for text, wrong in (problems | self._family_problems()).items() if wrong]:
            raise ValueError(f"params.json describes no model: {'; '.join(found)}")

    def _family_problems(self) -> dict[str, bool]:
        bands = (self.rope_low_freq_factor, self.rope_high_freq_factor, self.rope_original_seq_len)
        low, high, _ = bands
        outside = set(self.blocks_without_rope) - set(range(self.n_layers))
        return {
            f"family {self.family!r} is none of {', '.join(FAMILIES)}": self.family not in FAMILIES,
            f"query_key_norm {self.query_key_norm!r} is none of {', '.join(QUERY_KEY_NORMS)}": (
                self.query_key_norm not in (None, *QUERY_KEY_NORMS)
            ),
            f"attention_window {self.attention_window} is below 1": (
                self.attention_window is not None and self.attention_window < 1
            ),
            f"rope_scaling_factor {self.rope_scaling_factor} is not above 0": self.rope_scaling_factor <= 0,
            f"blocks_without_rope {sorted(outside)} are not in 0..{self.n_layers - 1}": bool(outside),
            "rope_low_freq_factor, rope_high_freq_factor and rope_original_seq_len belong together": (
                any(each is None for each in bands) != all(each is None for each in bands)
            ),
            f"rope_high_freq_factor {high} is not above rope_low_freq_factor {low}": (
                low is not None and high is not None and high <= low
            ),
        }

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads if self.attention_head_dim is None else self.attention_head_dim

    @property
    def query_dim(self) -> int:
        """Width of all queries together, which attention gives back to `wo`."""
        return self.n_heads * self.head_dim

    @property
    def num_kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def kv_dim(self) -> int:
        """Width of all keys together, and of all values."""
        return self.num_kv_heads * self.head_dim

    def biased(self) -> tuple[str, ...]:
        """Return the matrices of a block that have a bias."""
        attention = ("wq", "wk", "wv") if self.qkv_bias else ()
        output = ("wo",) if self.attention_output_bias else ()
        return (*attention, *output, *(("w1", "w2", "w3") if self.mlp_bias else ()))

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
