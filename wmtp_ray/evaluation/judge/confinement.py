"""The levels of isolation, as the zygote carries them out.

A level is prepared once, in the zygote; `confine` then applies it to each child, permanently, and `clean` leaves
nothing of a check behind. Two roles: the program (hostile), and the tests on it, which write nothing and read only the
interpreter's files.
"""

import os
import signal
import sys
from typing import Literal, Protocol

from wmtp_ray.evaluation.judge import disk, landlock, namespaces, seatbelt, seccomp, syscalls
from wmtp_ray.evaluation.judge.limits import Limits, apply_rlimits

Role = Literal["program", "tests"]
ROLES: tuple[Role, ...] = ("program", "tests")
_DEVICES_READ = ("/dev/zero", "/dev/random", "/dev/urandom")
_DEVICES_WRITTEN = ("/dev/null",)


class Confinement(Protocol):
    """One level, in one zygote."""

    scratch: str

    def before_fork(self, role: Role) -> None:
        """Prepare the zygote for its next child."""

    def confine(self, role: Role, limits: Limits) -> None:
        """Hold this process, a child that has only its own descriptors left, to the level."""

    def used_bytes(self) -> int:
        """Return what a check keeps in the scratch directory. Raises UnmeasurableError where it cannot be measured."""

    def clean(self) -> None:
        """Remove what a check left, once its processes are gone. Raises OSError where that is impossible."""


class RlimitsConfinement:
    """Rlimits and a session of its own: no protection of files, of other processes, or of the network."""

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        if sys.platform == "linux":
            syscalls.forbid_new_privileges()
            syscalls.adopt_orphans()

    def before_fork(self, role: Role) -> None:
        """Nothing to prepare."""

    def confine(self, role: Role, limits: Limits) -> None:
        """Apply the rlimits, and give up capabilities."""
        os.setsid()
        apply_rlimits(limits)
        if sys.platform == "linux":
            syscalls.die_with_parent()
            syscalls.drop_capabilities()

    def used_bytes(self) -> int:
        """Return what the files take, by looking at each."""
        return disk.used_bytes(self.scratch)

    def clean(self) -> None:
        """Kill what outlived its parent, and empty the scratch directory."""
        _kill_orphans()
        disk.empty(self.scratch)


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
        disk.empty(self.scratch)


class NamespaceConfinement(LandlockConfinement):
    """Landlock and seccomp within namespaces: a root of its own, no network, no other process in sight."""

    def __init__(self, new_root: str, readable: list[str], scratch_bytes: int) -> None:
        self._pids = namespaces.enter(new_root, readable, scratch_bytes, ROLES)
        self._scratch_bytes = scratch_bytes
        super().__init__(namespaces.SCRATCH, readable)

    def _writable(self) -> list[str]:
        # The rule stands on the directory above: the one beneath is covered by another file system after each check.
        return [namespaces.SCRATCH_PARENT]

    def before_fork(self, role: Role) -> None:
        """Let the next child be born into the process-id namespace of its role."""
        self._pids.enter(role)

    def used_bytes(self) -> int:
        """Return what is in the scratch file system, which has a size of its own."""
        status = os.statvfs(self.scratch)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def clean(self) -> None:
        """Replace the scratch file system if anything is in it, however deep; there can be no orphans."""
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
