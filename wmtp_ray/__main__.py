"""`wmtp` and `python -m wmtp_ray`: installs the signal handlers before heavy imports, then runs `cli/`."""

import sys

from wmtp_ray.interrupts import end_on_signals


def main() -> int:
    """Run one verb; return the exit code (0 done, 2 refused, 1 failed, 130 interrupted)."""
    end_on_signals()
    from wmtp_ray.cli import main as run_verb  # half a second, in which a signal may come

    return run_verb()


if __name__ == "__main__":
    sys.exit(main())
