"""Namespaces for a zygote: users, mounts, network, IPC, host name, and process ids.

`enter` puts the zygote into its own root: a read-only tree that holds the interpreter's files, a few devices and a
scratch file system of limited size, and nothing else of this machine, not even /proc. There is no network interface.
Programs run in a process-id namespace below that of the zygote, the tests on them in another; process 1 of each is a
copy of the zygote that only sleeps. A program is not process 1, which the kernel spares the signals that end others.

Source: user_namespaces(7), pid_namespaces(7), mount_setattr(2), pivot_root(2).
"""

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from typing import NoReturn

from wmtp_ray.evaluation.judge.disk import MAX_FILES
from wmtp_ray.evaluation.judge.syscalls import die_with_parent, libc, syscall

_NEW_NS, _NEW_UTS, _NEW_IPC = 0x20000, 0x4000000, 0x8000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE, _MS_BIND = 2, 4, 1 << 14, 1 << 18, 1 << 12
_MNT_DETACH = 2
_ATTR_RDONLY_AND_NOSUID = 3
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
SCRATCH_PARENT = "/scratch"
SCRATCH = "/scratch/tmp"


class PidNamespaces:
    """Process-id namespaces below that of this process, which sees into them; one has a name each."""

    def __init__(self, names: Iterable[str]) -> None:
        self._own = os.open("/proc/thread-self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._by_name = {name: self._start() for name in names}

    def enter(self, name: str) -> None:
        """Make the next forks start in this namespace."""
        libc("setns", self._by_name[name], _NEW_PID)

    def _start(self) -> int:
        """Start a namespace with a process 1 that sleeps, and return its descriptor."""
        libc("setns", self._own, _NEW_PID)
        libc("unshare", _NEW_PID)
        if not os.fork():
            _sleep()
        return os.open("/proc/thread-self/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)


def _sleep() -> NoReturn:
    """Hold a process-id namespace open until the zygote ends."""
    die_with_parent()
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    while True:
        signal.pause()


def enter(new_root: str, readable: list[str], scratch_bytes: int, pid_namespaces: Iterable[str]) -> PidNamespaces:
    """Move this process into namespaces rooted at an empty directory `new_root`, which stays empty for everyone else.

    Forks: the caller goes on as process 1 of the namespaces, and its former self only waits for it.
    """
    uid, gid = os.getuid(), os.getgid()
    libc("unshare", _NEW_USER | _NEW_NS | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_PID)
    _map_ids(uid, gid)
    _become_process_one()
    pids = PidNamespaces(pid_namespaces)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", new_root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64k,mode=755")
    for path in readable:
        _show(path, new_root, writable=False)
    for path in _DEVICES:
        _show(path, new_root, writable=True)
    os.makedirs(new_root + SCRATCH, exist_ok=True)  # noqa: PTH103
    _change_root(new_root)
    mount_scratch(scratch_bytes)
    return pids


def mount_scratch(num_bytes: int) -> None:
    """Cover the scratch directory with an empty file system."""
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={num_bytes},nr_inodes={MAX_FILES},mode=700")


def unmount_scratch() -> None:
    """Drop the file system that covers the scratch directory, with all it holds."""
    libc("umount2", SCRATCH.encode(), _MNT_DETACH)


def _map_ids(uid: int, gid: int) -> None:
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


def _become_process_one() -> None:
    child = os.fork()
    if child:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    die_with_parent()


def _show(path: str, new_root: str, writable: bool) -> None:
    """Make a file or directory of this machine appear under the new root."""
    target = new_root + path
    if not os.path.exists(path) or os.path.lexists(target):  # noqa: PTH110
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(path):  # noqa: PTH114
        os.symlink(os.readlink(path), target)  # noqa: PTH115, PTH211
        return
    if os.path.isdir(path):  # noqa: PTH112
        os.mkdir(target)  # noqa: PTH102
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(path, target, None, _MS_BIND | _MS_REC)
    if not writable:
        _make_read_only(target)


def _make_read_only(target: str) -> None:
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY_AND_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    syscall("mount_setattr", _AT_FDCWD, target.encode(), _AT_RECURSIVE, attributes, size)


def _change_root(new_root: str) -> None:
    """Stack the new root on the old one, then drop the old one from under it."""
    os.chdir(new_root)
    syscall("pivot_root", b".", b".")
    libc("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    _make_read_only("/")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    arguments = [text.encode() if text is not None else None for text in (source, target, kind, options)]
    libc("mount", arguments[0], arguments[1], arguments[2], ctypes.c_ulong(flags), arguments[3])
