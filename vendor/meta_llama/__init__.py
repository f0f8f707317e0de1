"""Meta's LLaMA interface (class names, parameter names, params.json). Our own definition, written for training."""

from vendor.meta_llama.generation import generate
from vendor.meta_llama.model import KVCache, ModelArgs, Transformer, TransformerBlock
from vendor.meta_llama.tokenizer import Tokenizer

__all__ = ["KVCache", "ModelArgs", "Tokenizer", "Transformer", "TransformerBlock", "generate"]
