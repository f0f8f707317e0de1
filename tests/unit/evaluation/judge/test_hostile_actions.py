"""Things a program tries to do to the machine: each must be refused, and leave no trace."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import wmtp_ray.errors

PROGRAM = """
import ctypes, fcntl, os, resource, socket, subprocess, sys, sysconfig, tempfile, time
libc = ctypes.CDLL(None, use_errno=True)

def raw(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def act(secret, judge):
    {action}
    return "done"

def attempt(secret, judge):
    try:
        return act(secret, judge)
    except (OSError, ValueError) as error:
        return "refused"
"""
FILE_ACTIONS = {
    "read": "open(secret).read()",
    "read through a symlink": "os.symlink(secret, 'own'); open('own').read()",
    "read through a link": "os.link(secret, 'own'); open('own').read()",
    "read through the parent": "open(os.path.relpath(secret)).read()",
    "list its directory": "os.listdir(os.path.dirname(secret))",
    "write": "open(secret, 'w').write('x')",
    "append": "open(secret, 'a').write('x')",
    "truncate": "os.truncate(secret, 0)",
    "delete": "os.unlink(secret)",
    "rename": "os.rename(secret, secret + '.moved')",
    "take away": "os.rename(secret, 'own')",
    "replace": "open('own', 'w').close(); os.rename('own', secret)",
    "remove the directory": "os.rmdir(os.path.dirname(secret))",
    "create beside": "open(secret + '.new', 'w')",
    "make a directory beside": "os.mkdir(secret + '.new')",
    "make a symlink beside": "os.symlink('x', secret + '.new')",
    "make a fifo beside": "os.mkfifo(secret + '.new')",
    "make a device": "os.mknod('own', 0o20666, os.makedev(1, 3))",
    "chmod": "os.chmod(secret, 0o777)",
    "chown": "os.chown(secret, 65534, 65534)",
    "utime": "os.utime(secret, (0, 0))",
    "setxattr": "os.setxattr(secret, 'user.x', b'x')",
    "read the password file": "open('/etc/passwd').read()",
    "read the home directory": "os.listdir(os.path.expanduser('~root'))",
    "list the root": "os.listdir('/home'); os.listdir('/proc')",
    "read its environment from /proc": "open('/proc/self/environ').read()",
    "read the judge's environment": "open(f'/proc/{judge}/environ').read()",
    "write the judge's memory": "open(f'/proc/{judge}/mem', 'r+b')",
    "write its parent's memory": "open(f'/proc/{os.getppid()}/mem', 'r+b')",
    "write to shared memory": "open('/dev/shm/judge-test', 'w')",
    "write to the temporary directory": "open('/tmp/judge-test', 'w')",
    "write to a cron directory": "open('/etc/cron.d/x', 'w')",
    "write to site-packages": "open(os.path.join([p for p in sys.path if 'site' in p][0], 'judge_test.py'), 'w')",
    "write to the standard library": "open(os.path.join(sysconfig.get_path('stdlib'), 'judge_test.py'), 'w')",
    "patch a module on disk": "open(os.__file__, 'a').write('x')",
    "chmod a module on disk": "os.fchmod(os.open(os.__file__, 0), 0o777)",
    "open a disk": "open('/dev/vda', 'rb'); open('/dev/sda', 'rb')",
    "open a terminal": "open('/dev/tty', 'w')",
}
PROCESS_ACTIONS = {
    "fork": "os.fork() or os._exit(0)",
    "vfork": "raw(58)",
    "clone": "raw(56, 17, 0, 0, 0, 0) or os._exit(0)",
    "clone3": "raw(435, bytes(64), 64) or os._exit(0)",
    "clone into a namespace": "raw(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0)",
    "exec": "os.execv('/bin/sh', ['sh', '-c', 'exit 0'])",
    "exec the interpreter": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "spawn": "os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 0'], {})",
    "subprocess": "subprocess.run(['/bin/true'])",
    "system": "return 'refused' if os.system('exit 0') else 'done'",
    "daemon": "os.fork() or os.setsid() or os.fork() or time.sleep(60)",
    "multiprocessing": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "a program in memory": "os.memfd_create('x')",
    "signal the judge": "os.kill(judge, 0)",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "signal everyone": "os.kill(-1, 0)",
    "kill itself, as if the machine had": "os.kill(os.getpid(), 9)",
    "signal its group": "os.kill(0, 0)",
    "signal a group": "os.killpg(judge, 0)",
    "tkill": "raw(200, judge, 0)",
    "queue a signal": "raw(129, judge, 0, bytes(128))",
    "open a process": "raw(434, judge, 0)",
    "have the kernel signal the judge": "fcntl.fcntl(0, fcntl.F_SETOWN, judge)",
    "choose the kernel's signal": "fcntl.fcntl(0, fcntl.F_SETSIG, 9)",
    "ptrace": "raw(101, 16, judge, 0, 0)",
    "be traced": "raw(101, 0, 0, 0, 0)",
    "read memory of the judge": "raw(310, judge, bytes(16), 1, bytes(16), 1, 0)",
    "write memory of the judge": "raw(311, judge, bytes(16), 1, bytes(16), 1, 0)",
    "kcmp": "raw(312, judge, judge, 0, 0, 0)",
    "pidfd_getfd": "raw(438, 3, 0, 0)",
    "outlive its parent": "raw(157, 1, 0, 0, 0, 0)",
    "become a subreaper": "raw(157, 36, 1, 0, 0, 0)",
    "leave its session": "os.setsid()",
}
NETWORK_ACTIONS = {
    "tcp": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "tcp6": "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "socket.socket(40, socket.SOCK_STREAM)",
    "kernel crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "unix": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
    "a pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "a download": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
    "a name": "socket.getaddrinfo('localhost', 80); socket.create_connection(('localhost', 80))",
}
KERNEL_ACTIONS = {
    "mount": "raw(165, b'none', b'/', b'tmpfs', 0, 0)",
    "umount": "raw(166, b'/', 2)",
    "new mount": "raw(428, -100, b'/', 1)",
    "chroot": "os.chroot('.')",
    "pivot_root": "raw(155, b'.', b'.')",
    "unshare": "raw(272, 0x10000000)",
    "setns": "raw(308, 0, 0)",
    "io_uring": "raw(425, 8, bytes(128))",
    "bpf": "raw(321, 0, bytes(128), 128)",
    "keyctl": "raw(250, 0, -3, 0)",
    "add_key": "raw(248, b'user', b'x', b'x', 1, -3)",
    "perf_event_open": "raw(298, bytes(128), 0, -1, -1, 0)",
    "userfaultfd": "raw(323, 1)",
    "name_to_handle_at": "raw(303, -100, b'/', bytes(128), bytes(8), 0)",
    "open_by_handle_at": "raw(304, 0, bytes(128), 0)",
    "sysv shared memory": "raw(29, 0, 4096, 0o1600)",
    "sysv semaphores": "raw(64, 0, 1, 0o1600)",
    "sysv messages": "raw(68, 0, 0o1600)",
    "posix messages": "raw(240, b'judge', 0o102, 0o600, 0)",
    "personality": "raw(135, 0x0040000)",
    "another filter": "raw(317, 1, 0, bytes(16))",
    "raise a limit": "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))",
    "raise the CPU limit": "resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
    "limit the judge": "raw(302, judge, 0, bytes(16), 0)",
    "nice": "os.nice(1)",
    "set a priority": "os.setpriority(os.PRIO_PROCESS, judge, 19)",
    "choose its CPUs": "os.sched_setaffinity(0, {0})",
    "become real-time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "set the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "adjust the clock": "raw(159, bytes(256))",
    "set the host's name": "socket.sethostname('judge')",
    "become another user": "os.setuid(65534)",
    "gain capabilities": "raw(126, bytes(8), bytes(24))",
    "load a module": "raw(175, 0, 0, b'')",
    "reboot": "raw(169, 0, 0, 0, 0)",
    "swap": "raw(167, b'/x', 0)",
    "kexec": "raw(246, 0, 0, 0, 0)",
    "use ports": "raw(172, 3)",
    "watch files": "raw(300, 0, 0)",
    "type into the terminal": "fcntl.ioctl(0, 0x5412, b'x')",
    "name who gets signals by ioctl": "fcntl.ioctl(0, 0x8901, b'\\1\\0\\0\\0')",
    "call by the x32 table": "raw(0x40000000 + 41, 2, 1, 0)",
}
ACTIONS = FILE_ACTIONS | PROCESS_ACTIONS | NETWORK_ACTIONS | KERNEL_ACTIONS


def outcome(judge, action: str, secret: Path) -> str:
    """Run one action and return what the program says happened: the tests fail with its answer."""
    asserts = [f"assert attempt({str(secret)!r}, {os.getpid()}) == 'refused'"]
    verdict = judge.check_asserts(PROGRAM.format(action=action), asserts)
    return verdict.status


@pytest.mark.usefixtures("x86_64")
@pytest.mark.parametrize("name", ACTIONS)
def test_it_is_refused(judge, secret, name):
    before = secret.stat()
    assert outcome(judge, ACTIONS[name], secret) == "pass"
    after = secret.stat()
    assert secret.read_text(encoding="utf-8") == "secret"
    assert (before.st_mode, before.st_uid, before.st_mtime) == (after.st_mode, after.st_uid, after.st_mtime)
    assert [path.name for path in secret.parent.iterdir()] == ["secret.txt"]


def test_an_honest_action_is_not_refused(judge, secret):
    """Or all the refusals above would prove nothing."""
    assert outcome(judge, "open('own', 'w').write('x')", secret) == "fail"


def test_the_files_of_the_project_are_out_of_reach(judge):
    source = Path(wmtp_ray.errors.__file__)
    assert outcome(judge, f"open({str(source)!r}).read()", source) == "pass"
    assert outcome(judge, f"open({str(Path(__file__))!r}).read()", source) == "pass"


def test_an_abstract_socket_of_this_machine_is_out_of_reach(judge, secret):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0judge-test")
        action = "raw(44, 4, b'x', 1, 0, b'\\1\\0\\0judge-test', 13)"  # on the channel, which is a socket
        assert outcome(judge, action, secret) == "pass"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def test_another_process_of_this_user_is_not_killed(judge, secret):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        for action in (f"os.kill({victim.pid}, 9)", f"raw(234, {victim.pid}, {victim.pid}, 9)"):
            assert outcome(judge, action, secret) == "pass"
        assert victim.poll() is None


def test_secrets_of_the_environment_do_not_reach_a_program(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_TEST_TOKEN", "secret-token")
    program = "import os\ndef f(): return sorted(os.environ.values())\nprint(os.environ)"
    assert judge.check_asserts(program, ["assert not any('secret-token' in value for value in f())"]).status == "pass"


def test_what_one_check_writes_the_next_does_not_find(judge):
    leave = "import os\nos.makedirs('a/b/c', 0o700)\nos.mkdir('locked', 0)\nos.symlink('/', 'root')\n"
    leave += "open('a/left.txt', 'w').write('x')\nopen('.hidden', 'w')\nprint('left')"
    look = "import os, tempfile\nprint(os.listdir('.'), os.listdir(tempfile.gettempdir()))"
    for _ in range(4):
        assert judge.check_stdio(leave, "", "left").status == "pass"
        assert judge.check_stdio(look, "", "[] []").status == "pass"


def test_a_tree_of_any_depth_is_removed(judge):
    dig = "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\nprint('dug')"
    assert judge.check_stdio(dig, "", "dug").status in ("pass", "fail")
    assert judge.check_stdio("import os\nprint(os.listdir('.'))", "", "[]").status == "pass"


@pytest.mark.usefixtures("x86_64")
def test_a_32_bit_system_call_ends_the_program(judge):
    program = """
import ctypes, mmap
code = b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3"  # mov eax, 20 (getpid); int 0x80; ret
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
print("called", call() > 0)
"""
    verdict = judge.check_stdio(program, "", "called True")
    assert verdict.status == "fail"
    assert "SIGSYS" in verdict.detail
