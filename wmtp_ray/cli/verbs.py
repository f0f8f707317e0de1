"""Functions that several modules of verbs use."""

import argparse
from pathlib import Path
from typing import TypeAlias

from wmtp_ray.config.arguments import CommandParser

Verbs: TypeAlias = "argparse._SubParsersAction[CommandParser]"
DTYPES = ("float32", "bfloat16", "float16")


def absolute(path: Path | None) -> Path | None:
    """Return a path that does not depend on the current directory."""
    return None if path is None else path.absolute()
