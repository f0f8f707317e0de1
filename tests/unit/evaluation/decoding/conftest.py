"""A tokenizer of bytes and a few merges, and a random model over it that ends some of its texts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch

from vendor.meta_llama import ModelArgs, Transformer
from wmtp_ray.artifacts.train_tokenizer import train_tokenizer
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import DecodingRequest, request_seed

CORPUS = [
    "def add(a, b):\n    return a + b\n",
    "for x in range(3):\n    print(x)\n",
    "naïve € = 1\n",
    "# end\ndef g():\n",
]
PROMPTS = (
    "def f(x):\n    ",
    "x",
    "print(",
    "# naïve €\nfor i in range(10):\n",
    "def f(x):\n    ",
    "return a + b\n",
    "a",
)


@dataclass(frozen=True)
class World:
    """A model and its tokenizer, and what is asked of them."""

    model: Transformer
    tokenizer: CodeTokenizer

    def requests(self, num_samples: int = 1) -> list[DecodingRequest]:
        """Prompts of 1 to some 30 tokens, two of them equal, with different seeds."""
        bodies = [[self.tokenizer.bos_id, *self.tokenizer.encode(text)] for text in PROMPTS]
        prompts = [(self.tokenizer.bos_id,), *map(tuple, bodies)]
        return [
            DecodingRequest(f"{number}/{sample}", prompt_ids, request_seed(3, str(number), sample))
            for sample in range(num_samples)
            for number, prompt_ids in enumerate(prompts)
        ]

    def to(self, dtype: torch.dtype) -> "World":
        """Return the same model in another dtype, on its own."""
        model = Transformer(self.model.args)
        model.load_state_dict(self.model.state_dict())
        return World(model.to(dtype), self.tokenizer)


def random_model(vocab_size: int, eos_id: int, *, seed: int = 0, end_scale: float = 1.0, **changes: Any) -> Transformer:
    """A model whose logits are far apart; `end_scale` makes the end of a text more likely and more certain."""
    args = ModelArgs(
        dim=32, n_layers=5, n_heads=4, n_kv_heads=2, vocab_size=vocab_size, n_future_tokens=4, multiple_of=8
    )
    model = Transformer(replace(args, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.output.weight[eos_id] *= end_scale
    return model


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(CORPUS, path, 320)
    tokenizer = CodeTokenizer(path)
    return World(random_model(tokenizer.vocab_size, tokenizer.eos_id, end_scale=1.5), tokenizer)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Seven pieces, so that every text of a few tokens can be enumerated."""
    path: Path = tmp_path_factory.mktemp("tiny") / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["abcd" * 3, "dcab"]),
            model_writer=file,
            model_type="char",
            vocab_size=7,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    with pytest.warns(UserWarning, match="does not survive"):
        tokenizer = CodeTokenizer(path)
    return World(random_model(tokenizer.vocab_size, tokenizer.eos_id), tokenizer)
