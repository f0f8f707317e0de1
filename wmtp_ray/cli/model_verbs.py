"""`wmtp import`, `export` and `export-weights`: models of other libraries in, models and weights for others out."""

import argparse
from pathlib import Path

from wmtp_ray.cli.verbs import DTYPES, Verbs, step_or_best
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.errors import ArtifactError


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_import(verbs.add_parser("import", help="a LLaMA of Hugging Face or a GGUF file to a multi-token model"))
    _add_export(verbs.add_parser("export", help="a run's checkpoint to a model directory, ours or Hugging Face's"))
    _add_export_weights(
        verbs.add_parser("export-weights", help="a run's planned rows with their token weights, for other trainers")
    )


def _add_import(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, help="directory with config.json, or a .gguf file")
    parser.add_argument("--out", type=Path, required=True, help="new folder for params.json, weights and tokenizer")
    parser.add_argument(
        "--heads", type=int, help="horizons; each starts as the last block (4, or those that MODEL was exported with)"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="dtype of all tensors (each keeps its own)")
    parser.set_defaults(run=_import)


def _add_export(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, metavar="RUN|DIR", help="a run's folder; for hf a model directory, too")
    parser.add_argument(
        "--format",
        choices=("meta", "hf"),
        default="meta",
        help="Meta's layout, or horizon 1 for other engines (meta)",
    )
    parser.add_argument(
        "--step", type=step_or_best, metavar="N|best", help="a run's checkpoint after N steps, or its best (the newest)"
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--tokenizer", type=Path, help="for hf: its tokenizer (the run's, or the one in DIR)")
    parser.add_argument("--dtype", choices=DTYPES, help="for hf: dtype of all tensors (each keeps its own)")
    parser.add_argument(
        "--with-heads", action="store_true", help="for hf: the prediction heads, and custom_generate to draft with them"
    )
    parser.set_defaults(run=_export)


def _add_export_weights(parser: CommandParser) -> None:
    parser.add_argument("source", type=Path, metavar="RUN|FILE", help="a run's folder, or a JSONL to plan a run over")
    parser.add_argument("words", nargs="*", metavar="key=value", help="with FILE, as for launch: recipe=NAME, ...")
    parser.add_argument("--out", type=Path, required=True, help="new folder for weights.parquet, .jsonl, manifest.json")
    parser.add_argument("--steps", type=_steps, default=(0, None), metavar="A:B", help="from step A to before B (all)")
    parser.add_argument("--limit", type=int, metavar="ROWS", help="stop after so many rows")
    parser.add_argument(
        "--policy-steps",
        type=int,
        default=0,
        metavar="N",
        help="weigh with a run's policy and its critic of step N (0)",
    )
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), help="where models compute (train.device)")
    parser.add_argument("--config-dir", metavar="DIR", help="recipes and defaults of your own, as for launch")
    parser.set_defaults(run=_export_weights)


def _steps(text: str) -> tuple[int, int | None]:
    first, _, stop = text.partition(":")
    return int(first or 0), int(stop) if stop else None


def _import(arguments: argparse.Namespace) -> None:
    import torch

    from wmtp_ray.artifacts.hf.import_model import import_model

    dtype = arguments.dtype and getattr(torch, arguments.dtype)
    imported = import_model(arguments.model, arguments.out, num_horizons=arguments.heads, dtype=dtype)
    print(f"{arguments.out}: {imported.render()}")


def _export(arguments: argparse.Namespace) -> None:
    import torch

    from wmtp_ray.training.export_policy import export_hf, export_policy

    source, step, out = arguments.source.absolute(), arguments.step, arguments.out
    if arguments.format == "hf":
        dtype = arguments.dtype and getattr(torch, arguments.dtype)
        tokenizer, with_heads = arguments.tokenizer, arguments.with_heads
        name = export_hf(source, step, out, tokenizer=tokenizer, dtype=dtype, with_heads=with_heads)
        print(f"{out}: {name}")
    elif arguments.dtype or arguments.tokenizer:
        raise ArtifactError(
            "found --dtype or --tokenizer without --format hf, expected them with it; Meta's has neither"
        )
    elif arguments.with_heads:
        raise ArtifactError(
            "found --with-heads without --format hf, expected it with it; Meta's layout holds the heads anyway"
        )
    else:
        print(f"{out}: policy {export_policy(source, step, out)}")


def _export_weights(arguments: argparse.Namespace) -> None:
    from wmtp_ray.flows.data.export_weights_command import export_weights_command
    from wmtp_ray.training.export_weights import Wanted

    first, stop = arguments.steps
    wanted = Wanted(first, stop, arguments.limit, arguments.policy_steps, arguments.device)
    own = [] if arguments.config_dir is None else ["--config-dir", arguments.config_dir]
    source, words = arguments.source.absolute(), [*arguments.words, *own]
    print(export_weights_command(source, arguments.out, words, wanted, arguments.now))
