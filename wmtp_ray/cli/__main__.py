"""`python -m wmtp_ray.cli`: the same as `wmtp`."""

import sys

from wmtp_ray.interrupts import end_on_signals

if __name__ == "__main__":
    end_on_signals()
    from wmtp_ray.cli import main  # half a second, in which a signal may come

    sys.exit(main())
