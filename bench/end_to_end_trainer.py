"""One process of bench/end_to_end.py: Hugging Face's Trainer over a LLaMA of the same size; prints, as JSON, its clock.

    PYTHON bench/end_to_end_trainer.py FOLDER THREADS BATCHING

PYTHON is one with torch and transformers; nothing of this project is imported. BATCHING: `padded` pads each batch to
its longest row and groups rows of like length; `flattened` lays the rows of a batch behind one another (padding-free).
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def model_of(params: dict[str, Any]) -> torch.nn.Module:
    """Return a LLaMA with the sizes of a params.json, by our rule for the feed-forward's width."""
    width = -(-(2 * 4 * params["dim"] // 3) // params["multiple_of"]) * params["multiple_of"]
    config = transformers.LlamaConfig(
        hidden_size=params["dim"],
        intermediate_size=width,
        num_hidden_layers=params["n_layers"],
        num_attention_heads=params["n_heads"],
        vocab_size=params["vocab_size"],
        max_position_embeddings=4096,
        attn_implementation="sdpa",
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


def examples_of(folder: Path) -> tuple[list[dict[str, list[int]]], int]:
    """Return the planned rows in order, prompts masked, and the rows of a step."""
    rows = np.load(folder / "rows.npz")
    ends = np.cumsum(rows["lengths_N"])
    found = []
    for end, length, prompt in zip(ends, rows["lengths_N"], rows["prompts_N"], strict=True):
        tokens = rows["tokens_T"][end - length : end].tolist()
        found.append({"input_ids": tokens, "labels": [-100] * int(prompt) + tokens[int(prompt) :]})
    return found, int(rows["step_starts_S"][1])


class Clock(transformers.TrainerCallback):
    """Notes the time at each optimizer step's end."""

    def __init__(self) -> None:
        self.started, self.seconds = 0.0, []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad on the right to the longest row."""
    longest = max(len(each["input_ids"]) for each in batch)
    columns = {"input_ids": 0, "labels": -100}
    tensors = {
        name: torch.tensor([each[name] + [fill] * (longest - len(each[name])) for each in batch])
        for name, fill in columns.items()
    }
    lengths = torch.tensor([len(each["input_ids"]) for each in batch])
    return tensors | {"attention_mask": (torch.arange(longest) < lengths[:, None]).long()}


class Counted:
    """Notes the supervised tokens of each batch, in the order in which they are trained on."""

    def __init__(self, collate: Any) -> None:
        self.collate, self.supervised = collate, []

    def __call__(self, batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        self.supervised.append(sum(label != -100 for each in batch for label in each["labels"]))
        return self.collate(batch)


def main() -> None:
    """Train over all rows once."""
    folder, threads, batching = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    params = json.loads((folder / "model" / "params.json").read_text())
    examples, batch_rows = examples_of(folder)
    clock = Clock()
    by_length: dict[str, Any] = {"train_sampling_strategy": "group_by_length"} if batching == "padded" else {}
    with tempfile.TemporaryDirectory() as output:
        arguments = transformers.TrainingArguments(
            output_dir=output,
            per_device_train_batch_size=batch_rows,
            num_train_epochs=1,
            learning_rate=3e-4,
            adam_beta2=0.95,
            weight_decay=0.1,
            lr_scheduler_type="cosine",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **by_length,
        )
        collator = Counted(padded if batching == "padded" else transformers.DataCollatorWithFlattening())
        trainer = transformers.Trainer(
            model_of(params), arguments, train_dataset=examples, data_collator=collator, callbacks=[clock]
        )
        trainer.train()
    print(json.dumps({"seconds": clock.seconds, "supervised": collator.supervised[: len(clock.seconds)]}))


if __name__ == "__main__":
    main()
