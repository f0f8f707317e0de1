"""What a running process uses, read from outside: CPU time, memory, threads, and time spent waiting for a CPU.

On Linux from /proc and the process's CPU clock; on macOS from libproc, written from its header and not run by this
project's tests.
"""

import ctypes
import os
import struct
import sys
import time
from dataclasses import dataclass

_BLOCK_BYTES = 512
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What one process uses. `queued_s` is the time its first thread was ready to run and another had the CPU;
    `written_bytes` is what it wrote to disks, whether it is there still or not. Both are 0 where the kernel does not
    say."""

    cpu_s: float
    memory_bytes: int
    num_threads: int
    queued_s: float
    written_bytes: int


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
            written_bytes=self._written_bytes(pid_outside),
        )

    def _written_bytes(self, pid_outside: int) -> int:
        try:
            fields = dict(line.split(": ") for line in self._read(f"{pid_outside}/io").splitlines())
        except (FileNotFoundError, PermissionError):
            return 0  # a kernel without CONFIG_TASK_IO_ACCOUNTING
        return int(fields["write_bytes"])

    def nameless_bytes(self, pid_outside: int, directory: str) -> int:
        """Return what files take that a child removed from beneath a directory and still uses.

        A file that is only mapped does not say its size, and is boundless. Raises OSError once the child is gone.
        """
        if sys.platform != "linux":
            return 0
        device = os.stat(directory).st_dev  # noqa: PTH116
        if any(line.endswith(" (deleted)") and directory in line for line in self._lines(f"{pid_outside}/maps")):
            return sys.maxsize
        open_files = os.open(f"{pid_outside}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            found = [os.stat(name, dir_fd=open_files) for name in os.listdir(open_files)]  # noqa: PTH208
        finally:
            os.close(open_files)
        return sum(file.st_blocks * _BLOCK_BYTES for file in found if file.st_nlink == 0 and file.st_dev == device)

    def _queued_s(self, pid_outside: int) -> float:
        try:
            return int(self._read(f"{pid_outside}/schedstat").split()[1]) / 1e9
        except FileNotFoundError:
            return 0.0  # a kernel without CONFIG_SCHED_INFO

    def _lines(self, path: str) -> list[str]:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), errors="replace") as file:  # noqa: PTH123
            return file.read().splitlines()

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
