"""Functions that several modules of verbs use."""

import argparse
from pathlib import Path
from typing import Literal, TypeAlias

from wmtp_ray.config.arguments import CommandParser

Verbs: TypeAlias = "argparse._SubParsersAction[CommandParser]"
DTYPES = ("float32", "bfloat16", "float16")


def absolute(path: Path | None) -> Path | None:
    """Return a path that does not depend on the current directory."""
    return None if path is None else path.absolute()


def step_or_best(text: str) -> int | Literal["best"]:
    """Read which checkpoint of a run is meant: that after so many steps, or the best one."""
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number of steps such as 100, or best")
    return int(text)
