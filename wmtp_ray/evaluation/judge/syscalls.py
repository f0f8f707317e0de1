"""System calls of Linux that Python has no function for, by ctypes.

Numbers are those of the kernel's own tables (x86_64, and the generic table for aarch64). Constants are copied from the
kernel's headers of the same names.
"""

import ctypes
import os
import platform
import signal
import struct

MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
_LIBC = ctypes.CDLL(None, use_errno=True)
# name: (x86_64, aarch64)
_NUMBERS = {
    "capset": (126, 91),
    "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "seccomp": (317, 277),
}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
_NO_CAPABILITIES = bytes(24)
_ZERO = ctypes.c_ulong(0)


def syscall(name: str, *arguments: object) -> int:
    """Call the kernel; raises OSError naming the call."""
    if MACHINE is None:
        raise OSError(f"{name}: system call numbers of {platform.machine()} are not known")
    result = int(_LIBC.syscall(ctypes.c_long(_NUMBERS[name][MACHINE]), *arguments))
    return _checked(name, result)


def libc(name: str, *arguments: object) -> int:
    """Call a function of the C library that sets errno; raises OSError naming it."""
    return _checked(name, int(getattr(_LIBC, name)(*arguments)))


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _prctl(option: int, value: int) -> None:
    libc("prctl", option, ctypes.c_ulong(value), _ZERO, _ZERO, _ZERO)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Make it impossible for this process and its children to gain privileges, which Landlock and seccomp require."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability; without exec and with no_new_privs there is no way back."""
    syscall("capset", _CAPABILITY_HEADER, _NO_CAPABILITIES)
