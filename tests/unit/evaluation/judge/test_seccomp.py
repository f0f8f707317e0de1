"""The filter on both architectures, run by an interpreter of its instructions."""

import errno
import struct

import pytest

from wmtp_ray.evaluation.judge import seccomp

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
KILL = 0x80000000
ARCH = (0xC000003E, 0xC00000B7)
PID = 4242
X86_64, AARCH64 = 0, 1


def decide(machine: int, number: int, *arguments: int, arch: int | None = None) -> int:
    """Run the filter on one call, as the kernel does."""
    program = seccomp.Filter(machine).instructions(PID)
    padded = [argument & (2**64 - 1) for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *padded)
    accumulator = position = 0
    for _ in range(len(program)):
        code, on_true, on_false, value = program[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            position += on_true if accumulator == value else on_false
        elif code == 0x35:
            position += on_true if accumulator >= value else on_false
        elif code == 0x05:
            position += value
        else:
            assert code == 0x06, code
            return value
    raise AssertionError("the filter ended without an answer")


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
def test_jumps_stay_within_the_filter(machine):
    program = seccomp.Filter(machine).instructions(PID)
    for position, (_, on_true, on_false, value) in enumerate(program):
        assert position + 1 + max(on_true, on_false) <= len(program)
        assert 0 <= value < 1 << 32
        assert max(on_true, on_false) < 256
    assert len(program) < 4096


@pytest.mark.parametrize("machine", [X86_64, AARCH64])
def test_every_call_without_arguments_to_look_at_is_allowed_if_and_only_if_it_is_listed(machine):
    looked_at = {numbers[machine] for numbers, _ in seccomp._ON_CONDITION}
    listed = set(seccomp._allowed_numbers(machine))
    found = {number for number in range(1100) if number not in looked_at and decide(machine, number) == ALLOW}
    assert found == listed


@pytest.mark.parametrize(
    ("name", "numbers", "arguments", "action"),
    [
        ("read", (0, 63), (), ALLOW),
        ("openat", (257, 56), (), ALLOW),
        ("futex", (202, 98), (), ALLOW),
        ("exit_group", (231, 94), (), ALLOW),
        ("socket", (41, 198), (2, 1, 0), EPERM),
        ("connect", (42, 203), (), EPERM),
        ("execve", (59, 221), (), EPERM),
        ("execveat", (322, 281), (), EPERM),
        ("ptrace", (101, 117), (), EPERM),
        ("prctl", (157, 167), (), EPERM),
        ("fchmodat", (268, 53), (), EPERM),
        ("fchownat", (260, 54), (), EPERM),
        ("utimensat", (280, 88), (), EPERM),
        ("setxattr", (188, 5), (), EPERM),
        ("memfd_create", (319, 279), (), EPERM),
        ("io_uring_setup", (425, 425), (), EPERM),
        ("pidfd_send_signal", (424, 424), (), EPERM),
        ("a call of tomorrow", (9999, 9999), (), EPERM),
        ("clone3", (435, 435), (), ENOSYS),
        ("clone of a thread", (56, 220), (0x3D0F00,), ALLOW),
        ("clone of a process", (56, 220), (17,), EPERM),
        ("clone of a thread in a user namespace", (56, 220), (0x3D0F00 | 0x10000000,), EPERM),
        ("signal itself", (62, 129), (PID, 15), ALLOW),
        ("kill itself", (62, 129), (PID, 9), EPERM),
        ("kill another", (62, 129), (PID + 1, 9), EPERM),
        ("kill everyone", (62, 129), (-1, 9), EPERM),
        ("kill the group", (62, 129), (0, 9), EPERM),
        ("abort", (234, 131), (PID, PID, 6), ALLOW),
        ("tgkill itself", (234, 131), (PID, PID, 9), EPERM),
        ("tgkill another", (234, 131), (1, 1, 9), EPERM),
        ("a stream pair", (53, 199), (1, 1 | 0x80000, 0), ALLOW),
        ("a datagram pair", (53, 199), (1, 2, 0), EPERM),
        ("a pair of another family", (53, 199), (2, 1, 0), EPERM),
        ("reading a limit", (302, 261), (0, 9, 0), ALLOW),
        ("setting a limit", (302, 261), (0, 9, 0x7FFF00000000), EPERM),
        ("setting a limit, low address bits zero", (302, 261), (0, 9, 1 << 32), EPERM),
        ("setting the stack's limit", (302, 261), (0, 3, 0x7FFF12345678), ALLOW),
        ("setting another's stack limit", (302, 261), (1, 3, 0x7FFF12345678), EPERM),
        ("asking for a terminal", (16, 29), (0, 0x5401), ALLOW),
        ("typing into it", (16, 29), (0, 0x5412), EPERM),
        ("duplicating", (72, 25), (0, 1030), ALLOW),
        ("owning signals", (72, 25), (0, 8), EPERM),
    ],
)
def test_calls(name, numbers, arguments, action):
    for machine, number in enumerate(numbers):
        assert decide(machine, number, *arguments) == action, (name, machine)


def test_calls_by_another_table_than_the_machine_s_end_the_process():
    assert decide(X86_64, 0, arch=0x40000003) == KILL
    assert decide(AARCH64, 63, arch=0x40000028) == KILL
    assert decide(X86_64, 0x40000000) == EPERM
