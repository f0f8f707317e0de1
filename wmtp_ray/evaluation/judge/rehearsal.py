"""A rehearsal of a check in the zygote, for children that write to fewer of its pages: each costs a copy.

Bytecode that has run a few times is specialised, and the attributes that it looks up are in the interpreter's cache. A
child that finds both leaves them as they are.
"""

import os
import socket
import sys
from typing import Any

from wmtp_ray.evaluation.judge import program_side, test_side
from wmtp_ray.evaluation.judge.channel import Channel
from wmtp_ray.evaluation.judge.remote_session import Session

_NUM_CHECKS = 16  # enough for CPython to specialise what runs once in a check
_VALUES: tuple[object, ...] = (0, 1.5, "a", True, None, [1, 2], ["a"], [[1], [2]], [], (1, 2), {"a": 1})
_PROGRAM = "def f(value): return value"
_TESTS = f"""
def check(candidate):
    for value in {_VALUES}:
        assert candidate(value) == value
"""


class _BothEnds(Channel):
    """The tests' end of a channel, in a process that is the program's too."""

    def __init__(self, tests_end: int, program_end: int) -> None:
        super().__init__(tests_end)
        self.server = program_side.Server(Channel(program_end))

    def receive(self) -> Any:
        """Have the program answer, and return the answer."""
        self.server.answer(None)
        return super().receive()


def rehearse() -> None:
    """Run tests on a program in this process; nothing of them stays but what the interpreter has learnt."""
    ends = [end.detach() for end in socket.socketpair()]
    code = compile(_TESTS, "<tests>", "exec")
    compiled = {"sources": {}, "codes": [code], "names": ["f"], "module_attributes": {}, "streams": [], "seeds": False}
    for _ in range(_NUM_CHECKS):
        channel = _BothEnds(*ends)
        channel.server.run(_PROGRAM)
        job = {"entry_point": "f", "call_check": True, "compiled": compiled}
        outcome = test_side.judge(job, Session(channel))
        assert outcome == ("pass", ""), outcome
    for end in ends:
        os.close(end)
    del sys.modules[program_side.MODULE_NAME]
