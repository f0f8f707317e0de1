"""A seccomp filter for a running interpreter: system calls that are not listed do not happen.

An allow list, because later kernels have system calls that are unknown today. It lets an interpreter compute, use
threads, read and write descriptors and its own files, and signal itself; there is no fork, exec, socket, signal to
others, ptrace, mount, change of mode or owner, io_uring, bpf, key, namespace, memfd. Which files, Landlock says. What
is refused fails with EPERM; calls that the C library tries first and can do without fail with ENOSYS.

A program cannot end itself by SIGKILL either: such an end always means that another process did it. `clone` must make
a thread. `fcntl` cannot name who gets a descriptor's signals: that would be a way to kill. `socketpair` must make a
connected stream, which cannot be pointed elsewhere (asyncio wakes itself with one). `prlimit64` may read, and set the
stack's limit, as contest programs do.

Numbers: the kernel's x86_64 and generic (aarch64) tables; 32-bit and x32 calls on x86_64 match no entry.
"""

import ctypes
import errno
import struct
from dataclasses import dataclass

from wmtp_ray.evaluation.judge.syscalls import MACHINE, syscall

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, value
Answer = tuple[Instruction, ...]  # what ends a call

_SET_MODE_FILTER = 1
_FLAG_SPEC_ALLOW = 4  # no mitigation beyond what unfiltered processes of this user have
_RET_KILL_PROCESS, _RET_ALLOW, _RET_ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD_WORD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP, _JUMP_EQUAL, _JUMP_NOT_BELOW = 0x05, 0x15, 0x35
_LONGEST_JUMP = 255  # of a conditional one
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_INSTRUCTION, _OFFSET_OF_VALUE = "=HBBI", 4
_REFUSE: Answer = ((_RETURN, 0, 0, _RET_ERRNO | errno.EPERM),)
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_OWN_PID = -1  # stands for the pid of the process that installs the filter
_ALL_BITS = 0xFFFFFFFF

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_RLIMIT_STACK = 3
_SIGKILL = 9
_TERMINAL_AND_DESCRIPTOR_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_DUPLICATE_FLAGS_AND_LOCKS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # F_DUPFD .. F_SETLKW, F_DUPFD_CLOEXEC

# name: (x86_64, aarch64); None where the architecture has no such call.
_ALLOWED: dict[str, tuple[int | None, int]] = {
    # descriptors
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68),
    "readv": (19, 65), "writev": (20, 66), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286),
    "pwritev2": (328, 287), "dup": (32, 23), "dup3": (292, 24), "pipe2": (293, 59), "close_range": (436, 436),
    "sendfile": (40, 71), "copy_file_range": (326, 285), "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32),
    "fadvise64": (221, 223), "fallocate": (285, 47), "ftruncate": (77, 46), "pselect6": (270, 72), "ppoll": (271, 73),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "sendto": (44, 206), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204),
    "getpeername": (52, 205), "getsockopt": (55, 209),
    # files
    "openat": (257, 56), "newfstatat": (262, 79), "fstat": (5, 80), "statx": (332, 291), "statfs": (137, 43),
    "fstatfs": (138, 44), "faccessat": (269, 48), "faccessat2": (439, 439), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "mkdirat": (258, 34), "unlinkat": (263, 35), "symlinkat": (266, 36),
    "readlinkat": (267, 78), "renameat2": (316, 276), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "msync": (26, 227), "mincore": (27, 232), "brk": (12, 214),
    # threads, signals to oneself, time
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283),
    "set_tid_address": (218, 96), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "getcpu": (309, 168), "exit": (60, 93), "exit_group": (231, 94),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "getitimer": (36, 102), "setitimer": (38, 103), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "times": (100, 153),
    # who and where am I
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getpgid": (121, 155), "getsid": (124, 156),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165),
    "getrlimit": (97, 163), "getrandom": (318, 278),
}  # fmt: skip
# Older forms of the calls above, on x86_64 only.
_ALLOWED_X86_64 = {
    "open": 2, "stat": 4, "lstat": 6, "poll": 7, "access": 21, "pipe": 22, "select": 23, "dup2": 33, "pause": 34,
    "alarm": 37, "getdents": 78, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "unlink": 87, "symlink": 88,
    "readlink": 89, "getpgrp": 111, "arch_prctl": 158, "time": 201, "epoll_create": 213, "epoll_wait": 232,
    "renameat": 264,
}  # fmt: skip
_RENAMEAT_AARCH64 = 38
_NOT_THERE = {"clone3": (435, 435), "openat2": (437, 437), "epoll_pwait2": (441, 441), "futex_waitv": (449, 449)}


@dataclass(frozen=True)
class _Condition:
    """Word `argument` of the call, masked, must equal one value, or differ; `high` looks at its upper half."""

    argument: int
    value: int
    mask: int = _ALL_BITS
    high: bool = False
    equal: bool = True


_ON_CONDITION: tuple[tuple[tuple[int, int], tuple[_Condition, ...]], ...] = (
    ((62, 129), (_Condition(0, _OWN_PID), _Condition(1, _SIGKILL, equal=False))),  # kill
    ((234, 131), (_Condition(0, _OWN_PID), _Condition(2, _SIGKILL, equal=False))),  # tgkill
    ((56, 220), (_Condition(0, _CLONE_THREAD, _CLONE_THREAD | _CLONE_NAMESPACES),)),  # clone
    ((53, 199), (_Condition(0, _AF_UNIX), _Condition(1, _SOCK_STREAM, _SOCK_TYPE_MASK))),  # socketpair
    ((302, 261), (_Condition(0, 0), _Condition(2, 0), _Condition(2, 0, high=True))),  # prlimit64 that only reads
    ((302, 261), (_Condition(0, 0), _Condition(1, _RLIMIT_STACK))),
    ((160, 164), (_Condition(0, _RLIMIT_STACK),)),  # setrlimit
    *(((16, 29), (_Condition(1, request),)) for request in _TERMINAL_AND_DESCRIPTOR_IOCTLS),  # ioctl
    *(((72, 25), (_Condition(1, command),)) for command in _DUPLICATE_FLAGS_AND_LOCKS),  # fcntl
)


def filter_for_this_machine() -> "Filter":
    """Return the filter; raises OSError where the numbers of system calls are not known."""
    if MACHINE is None:
        raise OSError("seccomp: the system calls of this architecture are not known")
    return Filter(MACHINE)


class Filter:
    """A filter, built once and installed by every process for itself."""

    def __init__(self, machine: int) -> None:
        self._program: list[Instruction] = []
        self._build(machine)
        # In place before the fork: a process for one check has no time for three hundred instructions, nor for a type.
        packed = b"".join(struct.pack(_INSTRUCTION, *instruction) for instruction in self.instructions(0))
        self._packed = ctypes.create_string_buffer(packed, len(packed))
        self._header = struct.pack("@HP", len(self._program), ctypes.addressof(self._packed))
        positions = (index for index, instruction in enumerate(self._program) if instruction[3] == _OWN_PID)
        self._pid_offsets = [index * struct.calcsize(_INSTRUCTION) + _OFFSET_OF_VALUE for index in positions]

    def instructions(self, pid: int) -> list[Instruction]:
        """Return the filter for the process with this pid."""
        return [(code, yes, no, pid if value == _OWN_PID else value) for code, yes, no, value in self._program]

    def install(self, pid: int) -> None:
        """Confine this process, whose pid is given, permanently; call it before the first thread."""
        for offset in self._pid_offsets:
            struct.pack_into("=I", self._packed, offset, pid)
        syscall("seccomp", ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_FLAG_SPEC_ALLOW), self._header)

    def _build(self, machine: int) -> None:
        self._add(_LOAD_WORD, _OFFSET_ARCH)
        self._add(_JUMP_EQUAL, _AUDIT_ARCH[machine], on_true=1)
        self._add(_RETURN, _RET_KILL_PROCESS)
        self._add(_LOAD_WORD, _OFFSET_NUMBER)
        self._program += _search(_ranges(_answers(machine)))

    def _add(self, code: int, value: int, on_true: int = 0, on_false: int = 0) -> None:
        self._program.append((code, on_true, on_false, value))


def _answers(machine: int) -> dict[int, Answer]:
    """Return what is answered to each number that is listed."""
    allow = ((_RETURN, 0, 0, _RET_ALLOW),)
    answers: dict[int, Answer] = dict.fromkeys(_allowed_numbers(machine), allow)
    for numbers in _NOT_THERE.values():
        answers[numbers[machine]] = ((_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS),)
    conditional: dict[int, list[Instruction]] = {}
    for numbers, conditions in _ON_CONDITION:
        conditional.setdefault(numbers[machine], []).extend(_allow_if(conditions))
    return answers | {number: (*checks, *_REFUSE) for number, checks in conditional.items()}


def _allow_if(conditions: tuple[_Condition, ...]) -> list[Instruction]:
    """Allow a call whose arguments meet all conditions; fall through otherwise."""
    length = 3 * len(conditions) + 1
    instructions: list[Instruction] = []
    for position, condition in enumerate(conditions):
        past = length - 3 * position - 3
        on_true, on_false = (0, past) if condition.equal else (past, 0)
        instructions += [
            (_LOAD_WORD, 0, 0, _OFFSET_ARGUMENTS + 8 * condition.argument + 4 * condition.high),
            (_AND, 0, 0, condition.mask),
            (_JUMP_EQUAL, on_true, on_false, condition.value),
        ]
    return [*instructions, (_RETURN, 0, 0, _RET_ALLOW)]


def _ranges(answers: dict[int, Answer]) -> list[tuple[int, Answer]]:
    """Cut the numbers from 0 on into ranges of one answer: (first number, answer), ascending."""
    ranges: list[tuple[int, Answer]] = []
    for number in sorted({0, *answers, *(number + 1 for number in answers)}):
        answer = answers.get(number, _REFUSE)
        if not ranges or answer != ranges[-1][1]:
            ranges.append((number, answer))
    return ranges


def _search(ranges: list[tuple[int, Answer]]) -> list[Instruction]:
    """Find the range of the loaded number by halving; at installation the kernel runs a filter for every number."""
    if len(ranges) == 1:
        return list(ranges[0][1])
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    first_of_high = ranges[middle][0]
    if len(low) <= _LONGEST_JUMP:
        return [(_JUMP_NOT_BELOW, len(low), 0, first_of_high), *low, *high]
    return [(_JUMP_NOT_BELOW, 0, 1, first_of_high), (_JUMP, 0, 0, len(low)), *low, *high]


def _allowed_numbers(machine: int) -> list[int]:
    numbers = [pair[machine] for pair in _ALLOWED.values()]
    older = list(_ALLOWED_X86_64.values()) if machine == 0 else [_RENAMEAT_AARCH64]
    return [number for number in numbers if number is not None] + older
