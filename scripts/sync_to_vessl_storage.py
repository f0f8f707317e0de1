"""Send models, data and runs to VESSL storage or a mounted folder; only what differs, and nothing is deleted there."""

import argparse
import sys
from pathlib import Path

from wmtp_ray.artifacts.storage_sync import MountedFolder, list_files, sync
from wmtp_ray.artifacts.vessl_volume import VesslVolume
from wmtp_ray.cli.ends import exit_code_of
from wmtp_ray.interrupts import end_on_signals

FOLDERS = ("models_v2", "datasets_v2", "datasets_local_small", "runs")


def main() -> int:
    """Send what the command line names; return the exit code (0 done or nothing to do, 2 refused or failed)."""
    return exit_code_of(_send)


def _send() -> None:
    words = _parser().parse_args()
    folders = words.folders or [name for name in FOLDERS if (words.storage / name).is_dir()]
    if words.to.startswith("volume://"):
        volume = VesslVolume(words.to, words.storage, asks=not words.dry_run)
        counts = sync(list_files(words.storage, folders), volume, print, dry_run=words.dry_run)
    else:
        mounted = MountedFolder(Path(words.to), reread=words.verify)
        counts = sync(list_files(words.storage, folders), mounted, print, dry_run=words.dry_run)
    verb = "to send" if words.dry_run else "sent"
    print(f"{counts.sent} files {verb}, {counts.sent_bytes / 1e9:.2f} GB; {counts.there_already} there already")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", type=Path, default=Path("storage"), help="what is sent (storage)")
    parser.add_argument("--to", required=True, help="a mounted folder, or volume://STORAGE/VOLUME[/FOLDER]")
    parser.add_argument("--folders", nargs="+", metavar="NAME", help=f"parts of it ({', '.join(FOLDERS)})")
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent; contacts no VESSL")
    parser.add_argument("--verify", action="store_true", help="read every file of a mounted folder anew")
    return parser


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main())
