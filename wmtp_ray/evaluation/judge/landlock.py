"""Landlock: which files a process may touch, whoever it runs as (Linux 5.13 and later).

Paths that no rule names can be neither read nor written. Landlock does not govern changes of mode, owner, times and
extended attributes; seccomp refuses those (`seccomp.py`).

Source: the kernel's userspace-api/landlock documentation; constants from linux/landlock.h. ABI 3 (Linux 6.2) is the
first that governs truncation, ABI 6 (6.12) the first that scopes signals and abstract sockets.
"""

import ctypes
import os
import struct
from collections.abc import Iterable

from wmtp_ray.evaluation.judge.syscalls import syscall

FULL_ABI = 3
_CREATE_VERSION = 1
_RULE_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REG, _MAKE_FIFO, _MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_FILE_RIGHTS = _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_WRITE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_FIFO | _MAKE_SYM | _REFER | _TRUNCATE
_NUM_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # rights are bits 0, 1, 2, ...; later ABIs add none for files
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


def abi_version() -> int:
    """Return the ABI of this kernel's Landlock; raises OSError where there is none."""
    return syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_VERSION))


def create_ruleset(read: Iterable[str], write: Iterable[str]) -> int:
    """Return the descriptor of a ruleset that allows these paths and what is beneath them; absent paths are skipped."""
    abi = abi_version()
    handled = (1 << _NUM_RIGHTS_OF_ABI.get(abi, 16)) - 1
    attributes = struct.pack(
        "=QQQ",
        handled,
        _BIND_AND_CONNECT_TCP if abi >= 4 else 0,
        _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0,
    )
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscall("landlock_create_ruleset", attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    for path in read:
        _allow(ruleset, path, _READ & handled)
    for path in write:
        _allow(ruleset, path, (_READ | _WRITE) & handled)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112 the zygote is forked every few milliseconds: it carries no pathlib
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights, fd)
        syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint32(0))
    finally:
        os.close(fd)


def restrict_self(ruleset: int) -> None:
    """Hold this process and its future children to a ruleset, permanently."""
    syscall("landlock_restrict_self", ruleset, ctypes.c_uint32(0))
