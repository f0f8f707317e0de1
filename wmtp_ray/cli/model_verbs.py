"""`wmtp import` and `wmtp export`: models of other libraries in, models for other engines out."""

import argparse
from pathlib import Path

from wmtp_ray.cli.verbs import DTYPES, Verbs
from wmtp_ray.config.arguments import CommandParser
from wmtp_ray.errors import ArtifactError


def add_verbs(verbs: Verbs) -> None:
    """Add the verbs of this module."""
    _add_import(verbs.add_parser("import", help="a LLaMA of Hugging Face or a GGUF file to a multi-token model"))
    _add_export(verbs.add_parser("export", help="a run's checkpoint to a model directory, ours or Hugging Face's"))


def _add_import(parser: CommandParser) -> None:
    parser.add_argument("model", type=Path, help="directory with config.json, or a .gguf file")
    parser.add_argument("--out", type=Path, required=True, help="new folder for params.json, weights and tokenizer")
    parser.add_argument("--heads", type=int, default=4, help="horizons; each starts as the last block (4)")
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
    parser.add_argument("--step", type=int, help="a run's checkpoint after so many steps (the newest)")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the model")
    parser.add_argument("--tokenizer", type=Path, help="for hf: its tokenizer (the run's, or the one in DIR)")
    parser.add_argument("--dtype", choices=DTYPES, help="for hf: dtype of all tensors (each keeps its own)")
    parser.set_defaults(run=_export)


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
        print(f"{out}: {export_hf(source, step, out, tokenizer=arguments.tokenizer, dtype=dtype)}")
    elif arguments.dtype or arguments.tokenizer:
        raise ArtifactError(
            "found --dtype or --tokenizer without --format hf, expected them with it; Meta's has neither"
        )
    else:
        print(f"{out}: policy {export_policy(source, step, out)}")
