"""The levels of isolation, as the zygote carries them out.

A level is prepared once, in the zygote; `confine` then holds each child to it, for good, and `clean` leaves nothing of
a check behind. Two roles: the program (hostile), and the tests on it, which write nothing and read only the
interpreter's files.
"""

import os
import signal
import stat
import sys
from typing import Literal, Protocol

from wmtp_ray.evaluation.judge import landlock, namespaces, seatbelt, seccomp, syscalls
from wmtp_ray.evaluation.judge.limits import Limits, apply_rlimits

Role = Literal["program", "tests"]
_DEVICES_READ = ("/dev/zero", "/dev/random", "/dev/urandom")
_DEVICES_WRITTEN = ("/dev/null",)


class Confinement(Protocol):
    """One level, in one zygote."""

    scratch: str

    def before_fork(self) -> None:
        """Prepare the zygote for its next child."""

    def confine(self, role: Role, limits: Limits) -> None:
        """Hold this process, a child that has only its own descriptors left, to the level."""

    def clean(self) -> None:
        """Remove what a check left, once its processes are gone."""


class RlimitsConfinement:
    """Rlimits and a session of its own: no protection of files, of other processes, or of the network."""

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        if sys.platform == "linux":
            syscalls.forbid_new_privileges()
            syscalls.adopt_orphans()

    def before_fork(self) -> None:
        """Nothing to prepare."""

    def confine(self, role: Role, limits: Limits) -> None:
        """Apply the rlimits, and give up capabilities."""
        os.setsid()
        apply_rlimits(limits)
        if sys.platform == "linux":
            syscalls.die_with_parent()
            syscalls.drop_capabilities()

    def clean(self) -> None:
        """Kill what outlived its parent, and empty the scratch directory."""
        _kill_orphans()
        empty_directory(self.scratch)


class LandlockConfinement(RlimitsConfinement):
    """Landlock for files, seccomp for everything else; works without privileges and in containers."""

    def __init__(self, scratch: str, readable: list[str]) -> None:
        super().__init__(scratch)
        self._filter = seccomp.filter_for_this_machine()
        read = [*readable, *_DEVICES_READ]
        self._rulesets: dict[Role, int] = {
            "program": landlock.create_ruleset(read, [*_DEVICES_WRITTEN, *self._writable()]),
            "tests": landlock.create_ruleset(read, _DEVICES_WRITTEN),
        }

    def _writable(self) -> list[str]:
        return [self.scratch]

    def confine(self, role: Role, limits: Limits) -> None:
        """Apply all of it; the filter last, since it forbids the rest."""
        landlock.restrict_self(self._rulesets[role])
        super().confine(role, limits)
        self._filter.install(os.getpid())

    def clean(self) -> None:
        """Empty the scratch directory; there can be no orphans."""
        empty_directory(self.scratch)


class NamespaceConfinement(LandlockConfinement):
    """Landlock and seccomp within namespaces: a root of its own, no network, no other process in sight."""

    def __init__(self, new_root: str, readable: list[str], scratch_bytes: int) -> None:
        self._pids = namespaces.enter(new_root, readable, scratch_bytes)
        self._scratch_bytes = scratch_bytes
        super().__init__(namespaces.SCRATCH, readable)

    def _writable(self) -> list[str]:
        # The rule stands on the directory above: the one beneath is covered by another file system after each check.
        return [namespaces.SCRATCH_PARENT]

    def before_fork(self) -> None:
        """Give the next child a process-id namespace."""
        self._pids.next_child()

    def clean(self) -> None:
        """Replace the scratch file system if anything is in it, however deep; processes ended with their namespace."""
        if os.listdir(self.scratch):  # noqa: PTH208
            namespaces.unmount_scratch()
            namespaces.mount_scratch(self._scratch_bytes)


class SeatbeltConfinement(RlimitsConfinement):
    """The sandbox of macOS."""

    def __init__(self, scratch: str, readable: list[str]) -> None:
        super().__init__(scratch)
        self._profiles: dict[Role, str] = {
            "program": seatbelt.profile(readable, [scratch]),
            "tests": seatbelt.profile(readable, []),
        }

    def confine(self, role: Role, limits: Limits) -> None:
        """Apply rlimits and the profile."""
        super().confine(role, limits)
        seatbelt.restrict_self(self._profiles[role])


def prepare(level: str, scratch: str, readable: list[str], scratch_bytes: int) -> Confinement:
    """Bring this process, a zygote, to a level; raises OSError naming the primitive that is missing."""
    if level == "namespace":
        return NamespaceConfinement(scratch, readable, scratch_bytes)
    if level in ("landlock", "landlock-weak"):
        return LandlockConfinement(scratch, readable)
    if level == "seatbelt":
        return SeatbeltConfinement(scratch, readable)
    assert level == "rlimits", level
    return RlimitsConfinement(scratch)


def empty_directory(path: str) -> None:
    """Remove everything beneath a directory that no process writes any more, however deep: one level open at a time."""
    here = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    trail: list[tuple[str, list[str]]] = []  # names of the levels above, and what is still to remove there
    directories = _unlink_files(here)
    while directories or trail:
        if directories:
            name = directories.pop()
            os.chmod(name, 0o700, dir_fd=here)
            trail.append((name, directories))
            here = _step(here, name)
            directories = _unlink_files(here)
        else:
            name, directories = trail.pop()
            here = _step(here, "..")
            os.rmdir(name, dir_fd=here)
    os.close(here)


def _step(here: int, name: str) -> int:
    there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
    os.close(here)
    return there


def _unlink_files(directory: int) -> list[str]:
    """Remove all but the directories of a directory; return those."""
    left = []
    for name in os.listdir(directory):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            left.append(name)
        else:
            os.unlink(name, dir_fd=directory)
    return left


def _kill_orphans() -> None:
    """Kill and reap all children that were adopted, until there are none: a fork may race with the kill."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in _children():
            os.kill(pid, signal.SIGKILL)


def _children() -> list[int]:
    """Return the children of this process, which has one thread."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return []
