"""Tiny random models of every family, made with transformers: no bias is zero and no norm is one."""

from typing import Any

import torch

BASE = {
    "hidden_size": 64,
    "intermediate_size": 97,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 352,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 4.0}
WINDOW = 8
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": LINEAR, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    "llama, all at once": (
        "llama",
        {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "head_dim": 10, "num_key_value_heads": 1}
        | {"tie_word_embeddings": True},
    ),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, linear": ("qwen2", {"rope_parameters": LINEAR, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {"head_dim": 32, "rms_norm_eps": 1e-5}),
    "qwen3, all at once": (
        "qwen3",
        {"head_dim": 12, "attention_bias": True, "rope_parameters": LLAMA3, "tie_word_embeddings": True},
    ),
    "mistral": ("mistral", {"sliding_window": WINDOW, "head_dim": 20}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "smollm3, last block without rope": (
        "smollm3",
        {"num_hidden_layers": 4, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    ),
    "smollm3, a list": ("smollm3", {"no_rope_layers": [0, 1, 0], "rope_parameters": LINEAR}),
    "olmo2": ("olmo2", {"attention_bias": True}),
    "olmo2, one key head": ("olmo2", {"num_key_value_heads": 1, "rope_parameters": LLAMA3}),
}


def random_model(name: str, **changes: Any) -> Any:
    """Return the model of a case, with weights so large that every part of it shows in the logits."""
    import transformers

    model_type, differences = FAMILIES[name]
    config = transformers.AutoConfig.for_model(model_type, **(BASE | differences | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model
