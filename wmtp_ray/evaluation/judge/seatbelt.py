"""Seatbelt: the sandbox of macOS. Written from its documentation and not run by this project's tests.

The profile denies by default and allows what an interpreter needs: its files, its scratch directory, its own threads.
`sandbox_init` is what the command sandbox-exec calls; like it, it is marked deprecated and still there.
"""

import ctypes
import os

_PROFILE = """
(version 1)
(deny default)
(allow process-info* (target self))
(allow signal (target self))
(allow sysctl-read)
(allow file-read-metadata)
(allow file-read* (literal "/") (literal "/dev/null") (literal "/dev/random") (literal "/dev/urandom") {read})
(allow file-write* (literal "/dev/null") {write})
"""
_SYSTEM_LIBRARIES = ("/usr/lib", "/System/Library", "/private/var/db/dyld")


def profile(read: list[str], write: list[str]) -> str:
    """Return a profile that can read and write beneath these paths only."""
    return _PROFILE.format(read=_subpaths([*_SYSTEM_LIBRARIES, *read, *write]), write=_subpaths(write))


def restrict_self(text: str) -> None:
    """Hold this process to a profile, permanently."""
    library = ctypes.CDLL("/usr/lib/libSystem.B.dylib")
    message = ctypes.c_char_p()
    if library.sandbox_init(text.encode(), ctypes.c_uint64(0), ctypes.byref(message)):
        raise OSError(f"sandbox_init: {(message.value or b'').decode(errors='replace')}")


def _subpaths(paths: list[str]) -> str:
    quoted = (os.path.realpath(path).replace("\\", "\\\\").replace('"', '\\"') for path in paths)
    return " ".join(f'(subpath "{path}")' for path in quoted)
