"""Convert a policy, a reference or a place for a reward model: `python scripts/setup_models.py --help`."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from wmtp_ray.artifacts.convert_checkpoint import open_checkpoint, shipped_tokenizer
from wmtp_ray.artifacts.model_directory import keep_place, say_how_to_run, write_model
from wmtp_ray.artifacts.reference_shards import open_reference
from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.interrupts import end_on_signals

MODELS = Path("storage/models_v2")
POLICY, REFERENCE, REWARD = (MODELS / each for each in ("meta-llama-mtp", "ref-sheared-llama-2.7b", "starling-rm-7b"))


def main() -> int:
    """Convert what the command line asks for; return the exit code (0 done or nothing to do, 2 refused)."""
    return exit_code_of(_convert)


def _convert() -> None:
    words = _parser().parse_args()
    now = datetime.now()
    if words.model == "policy":
        tokenizer = None if words.no_tokenizer else words.tokenizer or shipped_tokenizer(words.source)
        policy = open_checkpoint(words.source, tokenizer=tokenizer, version=words.version)
        write_model(words.out, policy, now, print, dry_run=words.dry_run)
        if words.out != POLICY and not words.dry_run:
            say_how_to_run(words.out, print)
    elif words.model == "reference":
        shared_with, tokenizer = words.tokenizer_shared_with, words.tokenizer
        reference = open_reference(words.source, words.out, shared_with, tokenizer, version=words.version)
        write_model(words.out, reference, now, print, dry_run=words.dry_run)
    else:
        keep_place(words.out, now, print, dry_run=words.dry_run)


def _parser() -> argparse.ArgumentParser:
    origin = argparse.ArgumentParser(add_help=False)
    origin.add_argument("--source", type=Path, required=True, help="folder that the model was downloaded to")
    origin.add_argument("--tokenizer", type=Path, help="tokenizer.model or tokenizer.json, if not in that folder")
    origin.add_argument("--version", help="name of what was downloaded, for metadata.json (the folder's name)")
    parser = argparse.ArgumentParser(description=__doc__)
    models = parser.add_subparsers(dest="model", required=True)
    policy = models.add_parser("policy", parents=[origin], help="Meta's consolidated.pth and params.json")
    policy.add_argument("--no-tokenizer", action="store_true", help="it lies elsewhere (tokenizer.path)")
    reference = models.add_parser("reference", parents=[origin], help="a LLaMA of Hugging Face, for Rho-1")
    reference.add_argument("--tokenizer-shared-with", type=Path, default=POLICY, help=f"converted policy ({POLICY})")
    reward = models.add_parser("reward", help="keep a place for a reward model, which no recipe needs")
    for model, out in ((policy, POLICY), (reference, REFERENCE), (reward, REWARD)):
        model.add_argument("--out", type=Path, default=out, help=f"folder ({out})")
        model.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    return parser


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
