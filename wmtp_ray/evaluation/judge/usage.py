"""What a running process uses, read from outside: CPU time, memory, threads, and time spent waiting for a CPU.

On Linux from /proc and the process's CPU clock; on macOS from libproc, written from its header and not run by this
project's tests.
"""

import contextlib
import ctypes
import os
import struct
import sys
import time
from dataclasses import dataclass

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MAX_COUNTED_FILES = 1000
_MAX_COUNTED_DEPTH = 32
_BLOCK_BYTES = 512


@dataclass(frozen=True)
class Usage:
    """What one process uses. `queued_s` is the time its first thread was ready to run and another had the CPU;
    `disk_bytes` is what it wrote to disks, also to files that have no name any more. Both are 0 where the kernel does
    not say."""

    cpu_s: float
    memory_bytes: int
    num_threads: int
    queued_s: float
    disk_bytes: int


class UsageReader:
    """Reads the usage of children. Made before the zygote loses sight of /proc, which it keeps open."""

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            self._proc = -1

    def pid_outside(self, pid: int) -> int:
        """Return the id that /proc knows a child by, which differs inside a process-id namespace."""
        if sys.platform != "linux":
            return pid
        fd = os.pidfd_open(pid)
        try:
            for line in self._read(f"self/fdinfo/{fd}").splitlines():
                if line.startswith("Pid:"):
                    return int(line.split()[1])
        finally:
            os.close(fd)
        raise ProcessLookupError(pid)

    def read(self, pid: int, pid_outside: int) -> Usage:
        """Return a child's usage; raises OSError once it is gone."""
        if sys.platform != "linux":
            return self._read_macos(pid)
        stat = self._read(f"{pid_outside}/stat").rpartition(")")[2].split()
        resident = int(self._read(f"{pid_outside}/statm").split()[1])
        return Usage(
            cpu_s=_cpu_clock_s(pid),
            memory_bytes=resident * _PAGE_BYTES,
            num_threads=int(stat[17]),
            queued_s=self._queued_s(pid_outside),
            disk_bytes=self._disk_bytes(pid_outside),
        )

    def _disk_bytes(self, pid_outside: int) -> int:
        try:
            fields = dict(line.split(": ") for line in self._read(f"{pid_outside}/io").splitlines())
        except (FileNotFoundError, PermissionError):
            return 0  # a kernel without CONFIG_TASK_IO_ACCOUNTING
        return int(fields["write_bytes"])

    def _queued_s(self, pid_outside: int) -> float:
        try:
            return int(self._read(f"{pid_outside}/schedstat").split()[1]) / 1e9
        except FileNotFoundError:
            return 0.0  # a kernel without CONFIG_SCHED_INFO

    def _read(self, path: str) -> str:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            return os.read(fd, 4096).decode(errors="replace")
        finally:
            os.close(fd)

    def _read_macos(self, pid: int) -> Usage:
        """struct proc_taskinfo: six 64-bit counters (virtual, resident, user and system time, ...), then 12 ints."""
        buffer = ctypes.create_string_buffer(96)
        if ctypes.CDLL("/usr/lib/libproc.dylib").proc_pidinfo(pid, 4, ctypes.c_uint64(0), buffer, len(buffer)) != len(
            buffer
        ):
            raise ProcessLookupError(pid)
        fields = struct.unpack("=6Q12i", buffer.raw)
        return Usage((fields[2] + fields[3]) / 1e9, fields[1], fields[15], 0.0, 0)


def _cpu_clock_s(pid: int) -> float:
    """Read another process's CPU clock: the id of clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def directory_bytes(path: str) -> int:
    """Return what the files beneath a directory take on disk; what cannot be counted quickly is boundless."""
    total, count, pending = 0, 0, [(path, 0)]
    while pending:
        directory, depth = pending.pop()
        try:
            entries = list(os.scandir(directory))
        except FileNotFoundError:
            continue
        except OSError:
            return sys.maxsize  # made unreadable by its owner, for one
        count += len(entries)
        if count > _MAX_COUNTED_FILES or depth > _MAX_COUNTED_DEPTH:
            return sys.maxsize
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append((entry.path, depth + 1))
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
    return total
