"""A policy on one device as a Ray actor, decoding its share of the requests. It is loaded once and never changes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from actors.stalls import enter_run
from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.config.schema import RunConfig
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.evaluation.decoding import Decoded, DecodingRequest, DecodingSettings, decode
from wmtp_ray.tracking.decisions import Place, note_place
from wmtp_ray.training.parallel import choose_device, device_words


class Decoder:
    """Holds the transformer of a model directory. Without a GPU share it is on the CPU, even where there is a GPU."""

    def __init__(self, model: Path, tokenizer: Path, config: RunConfig, directory: Path, number: int) -> None:
        torch.set_num_threads(config.cluster.threads_per_worker)
        enter_run(directory, f"decoder_{number}")
        has_gpu = config.cluster.gpus_per_decoder > 0 or config.train.device != "cuda"
        device = choose_device(config.train.device if has_gpu else "cpu", local_rank=0)
        is_half = device.type == "cuda" and config.train.dtype == "bfloat16"
        dtype = torch.bfloat16 if is_half else torch.float32
        self._model = load_transformer(model, dtype=dtype).to(device).eval().requires_grad_(False)
        self._tokenizer = CodeTokenizer(tokenizer)
        note_place(directory, Place(f"decoder_{number}", device_words(device), str(dtype).removeprefix("torch.")))
        self._batch_size = config.evaluation.batch_size

    def ready(self) -> bool:
        """Return once the model is loaded."""
        return True

    def decode(self, requests: Sequence[DecodingRequest], settings: DecodingSettings) -> Iterator[Decoded]:
        """Yield every request's continuation as it is done; the order is the same whenever it is asked for."""
        # Not `yield from`: Ray sends values into the generator, which an iterator further in may not take.
        for decoded in decode(self._model, self._tokenizer, requests, settings, batch_size=self._batch_size):  # noqa: UP028
            yield decoded
