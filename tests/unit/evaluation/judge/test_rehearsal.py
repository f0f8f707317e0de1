import subprocess
import sys
from pathlib import Path

from wmtp_ray.evaluation.judge.rehearsal import rehearse

SPECIALISED = """
import dis
from wmtp_ray.evaluation.judge import channel, program_side, remote_session, test_side
from wmtp_ray.evaluation.judge.rehearsal import rehearse
rehearse()
for function in (channel.encode, program_side.Server._perform, remote_session.Session._exchange, test_side.judge):
    names = {instruction.opname for instruction in dis.get_instructions(function, adaptive=True)}
    print(function.__name__, len(names - set(dis.opmap)) > 0)
"""


def test_a_rehearsal_leaves_neither_a_module_nor_a_descriptor():
    num_open = len(list(Path("/dev/fd").iterdir()))
    rehearse()
    assert "program" not in sys.modules
    assert len(list(Path("/dev/fd").iterdir())) == num_open


def test_bytecode_of_both_sides_is_specialised_by_a_rehearsal():
    run = subprocess.run([sys.executable, "-c", SPECIALISED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["encode", "True", "_perform", "True", "_exchange", "True", "judge", "True"]
