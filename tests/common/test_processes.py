"""A child never outlives the process that started it, however that one died; and it ends when told, or by force."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrad_common import processes

SLEEPER = "import time\n{tie}\nprint('up', flush=True)\ntime.sleep(60)\n"
TIE = "from fedrad_common import processes; processes.tie()"
PARENT = """
import os, subprocess, sys, time
from fedrad_common import processes
environment = {{**os.environ, "PYTHONPATH": {folder!r} + os.pathsep + os.environ.get("PYTHONPATH", "")}}
command = processes.start("sleeper", environment=environment, stdout=subprocess.PIPE)
command.stdout.readline()
print(command.pid, flush=True)
time.sleep(60)
"""


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def killed_parent(folder: Path, tie: str) -> int:
    """The number of a child whose parent was just killed with SIGKILL."""
    (folder / "sleeper.py").write_text(SLEEPER.format(tie=tie))
    with subprocess.Popen([sys.executable, "-c", PARENT.format(folder=str(folder))], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    return child


def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    child = killed_parent(tmp_path, TIE)
    assert eventually(lambda: not alive(child))


def test_without_the_tie_it_would_live_on(tmp_path: Path) -> None:
    child = killed_parent(tmp_path, "")
    try:
        assert not eventually(lambda: not alive(child), seconds=0.3)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_whose_parent_died_before_it_was_tied_ends_itself() -> None:
    program = f"{TIE}\nprint('lives')"
    environment = {**os.environ, "FEDRAD_PARENT": "1"}  # another process than the one that started it
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (1, "")


def test_a_program_that_nobody_of_ours_started_is_tied_to_nobody() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FEDRAD_PARENT"}
    ended = subprocess.run([sys.executable, "-c", f"{TIE}\nprint('lives')"], env=environment, capture_output=True, text=True, timeout=30)
    assert ended.stdout == "lives\n"


@pytest.mark.parametrize(("deed", "status"), [("", -signal.SIGTERM), ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", -signal.SIGKILL)])
def test_a_child_ends_when_told_or_by_force(deed: str, status: int) -> None:
    program = f"import signal, time\n{deed}\nprint('up', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes.end(child, grace=0.3) == status


# A process of an ordinary user, in which one that it forked looks for secrets; it starts a program, too.
SECRETIVE = """
import ctypes, os, subprocess, sys
from fedrad_common import processes
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the start of a program
if sys.argv[1] == "hidden":
    processes.hide()
def opens(path):
    try:
        os.listdir(path) if path.endswith("root") else os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True
if (looker := os.fork()) == 0:
    print(*(name for name in ("environ", "mem", "fd/0", "root") if opens(f"/proc/{os.getppid()}/{name}")), flush=True)
    os._exit(0)
os.waitpid(looker, 0)
with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as started:
    started.stdin.write(b"x"); started.stdout.read(1)  # it runs
    print(opens(f"/proc/{started.pid}/environ"), len(os.listdir("/proc/self/fd")) > 0)
"""
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


@pytest.mark.parametrize("state", ["open", "hidden"])
def test_a_hidden_process_is_looked_into_by_nobody_but_itself_and_what_it_starts_is_unhidden(state: str) -> None:
    """Open is the positive control."""
    forbidden = YAMA.exists() and YAMA.read_text().strip() != "0"  # by this machine, to everybody
    done = subprocess.run([sys.executable, "-c", SECRETIVE, state], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    open_to = "environ fd/0 root" if forbidden else "environ mem fd/0 root"

    assert done.stdout.splitlines() == ["" if state == "hidden" else open_to, "True True"]


def test_a_process_that_gives_back_keeps_no_vector_that_nobody_needs() -> None:
    """Blocks of 20 MiB, freed behind a small one that stays: without it the allocator's threshold grows with the first that is freed."""
    script = """
import sys
from fedrad_common import processes
if sys.argv[1] == "yes":
    processes.give_back()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
bytearray(20 << 20)
before, kept = resident(), []
for _ in range(8):
    vector = bytearray(20 << 20)
    kept.append(bytes(4000))
    del vector
blocks = [bytearray(20 << 20) for _ in range(4)]
kept.append(bytes(100_000))
del blocks
print((resident() - before) >> 20)
"""
    ended = {way: subprocess.run([sys.executable, "-c", script, way], capture_output=True, text=True) for way in ("no", "yes")}
    kept = {way: int(process.stdout) for way, process in ended.items()}
    assert kept["yes"] <= 8 < kept["no"]
