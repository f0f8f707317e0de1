"""Meta's LLaMA surface (class names, parameter names, params.json), implemented by this project for training."""

from vendor.meta_llama.generation import generate
from vendor.meta_llama.model import KVCache, ModelArgs, Transformer, TransformerBlock
from vendor.meta_llama.tokenizer import Tokenizer

__all__ = ["KVCache", "ModelArgs", "Tokenizer", "Transformer", "TransformerBlock", "generate"]
