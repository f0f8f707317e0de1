"""`python -m wmtp_ray.launch recipe=verifiable ...`: the same as `wmtp launch`. Defines only main().

Nothing that crosses a process may be defined here: in a worker this module would be another `__main__`.
"""

import sys

from wmtp_ray.interrupts import end_on_signals


def main() -> int:
    """Run what the command line asks for; return the exit code (0 done, 2 refused, 1 failed, 130 interrupted)."""
    end_on_signals()
    from wmtp_ray.cli import main as run_verb  # half a second, in which a signal may come

    return run_verb(["launch", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
