"""A byte-level BPE like LLaMA 3's and SmolLM2's, trained on a few lines of code and written as a model carries it."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END = "<|begin|>", "<|end|>"
TEXTS = [
    "### Instruction:\nAdd two numbers and print the sum.\n\n### Response:\n",
    "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))",
    "for i in range(int(input())):\n    words = input().split()\n    print(len(words))",
    "    if x == 1:\n        x = 2\n    else:\n\t\tx = 3",
]


def write_byte_level(
    directory: Path, *, vocab_size: int = 340, bos_token: str | None = BEGIN, **settings: object
) -> Path:
    """Write tokenizer.json and tokenizer_config.json; `settings` are more keys of the latter."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(token, special=True, normalized=False) for token in (BEGIN, END)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos_token, "eos_token": END} | settings
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path
