"""Write a miniature model for a laptop: cut out of a base, or random. See `--help`; under 50 MB, float16."""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from wmtp_ray.artifacts.meta_checkpoint import load_transformer
from wmtp_ray.artifacts.micro import MicroShape, micro_args, open_random, open_slice
from wmtp_ray.artifacts.model_directory import write_model
from wmtp_ray.artifacts.rows_tokenizer import NUM_PIECES, train_on_rows
from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.data.tokenizer import CodeTokenizer
from wmtp_ray.interrupts import end_on_signals
from wmtp_ray.model.spec import ModelSpec

LAYERS, DIM, HEADS, HORIZONS, OUT = 7, 256, 4, 4, Path("storage/models_v2/micro-mtp")


def main() -> int:
    """Write the miniature and load it strictly; return the exit code (0 done or nothing to do, 2 refused)."""
    return exit_code_of(_prepare)


def _prepare() -> None:
    words = (parser := _parser()).parse_args()
    if words.base is words.tokenizer is words.rows is None:
        parser.error("give --base DIR to cut from, or --tokenizer FILE or --rows FILE for a random model")
    shape = MicroShape(words.layers, words.dim, words.heads, words.kv_heads, words.ffn, words.vocab, words.horizons)
    with TemporaryDirectory() as folder:
        if words.base is not None:
            model = open_slice(words.base, micro_args(shape, ModelSpec.read(words.base)), words.tokenizer)
        else:
            file = words.tokenizer or train_on_rows(words.rows, Path(folder) / "trained.model", words.pieces)
            llama = ModelSpec(DIM, LAYERS, HEADS, CodeTokenizer(file).vocab_size, n_future_tokens=HORIZONS)
            model = open_random(micro_args(shape, llama), words.seed, file)
        write_model(words.out, model, datetime.now(), print, dry_run=words.dry_run)
    if not words.dry_run:
        load_transformer(words.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder ({OUT}; for a reference, micro-ref beside it)")
    parser.add_argument("--base", type=Path, help="model directory to cut from")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model (the base's); alone: a random model")
    parser.add_argument("--rows", type=Path, help="JSONL: a random model, and a tokenizer trained on these rows")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    for name, size in (("layers", LAYERS), ("dim", DIM), ("heads", HEADS), ("pieces", NUM_PIECES), ("seed", 42)):
        parser.add_argument(f"--{name}", type=int, default=size, help=f"({size})")
    for name, rule in (("horizons", HORIZONS), ("kv-heads", "heads"), ("ffn", "8/3 dim"), ("vocab", "tokenizer's")):
        parser.add_argument(f"--{name}", type=int, help=f"(the base's; random: {rule})")
    return parser


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
