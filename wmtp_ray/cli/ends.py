"""How a command ends: its last message and its exit code. No other module maps errors to exit codes.

| end | message | exit code |
|---|---|---|
| it returns | what it printed | 0, or the code that it returns: a check that found something |
| `Failed`, `TrainingError`, `TrackingError`, `EngineError` | failed: ... | 1 |
| any other `WmtpError` | error: ... | 2: refused, nothing was begun |
| `Interrupted`, KeyboardInterrupt | interrupted: ... | 130 |
"""

import sys
from collections.abc import Callable

from wmtp_ray.errors import EngineError, Failed, Interrupted, TrackingError, TrainingError, WmtpError
from wmtp_ray.interrupts import INTERRUPTED

DONE, FAILED, REFUSED = 0, 1, 2


def exit_code_of(verb: Callable[[], int | None]) -> int:
    """Run a verb, report an error on stderr, and return the exit code."""
    try:
        return verb() or DONE
    except (Interrupted, KeyboardInterrupt) as stop:
        return _ended("interrupted", stop, INTERRUPTED)
    except (Failed, TrainingError, TrackingError, EngineError) as error:
        return _ended("failed", error, FAILED)
    except WmtpError as error:
        return _ended("error", error, REFUSED)


def _ended(how: str, reason: BaseException, code: int) -> int:
    print(f"{how}: {reason}" if str(reason) else how, file=sys.stderr)
    return code
