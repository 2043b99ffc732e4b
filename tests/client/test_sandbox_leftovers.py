"""Nothing that a child writes outlives it, where a machine forbids namespaces too; unconfined, all of it does."""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedrad_client import sandbox
from fedrad_client.sandbox import LAYERS, Confinement, launch
from fedrad_client.sandbox.launch import environment
from fedrad_client.sandbox.scratch import Scratch

NAMESPACE, FILES, LANDLOCK, FILTER = LAYERS
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
KEY = 0x0FED0000 + os.getpid() % 0xFFFF  # of what is kept by number
SHARED = Path("/dev/shm")
# A process that confines itself, and then leaves what it can for somebody who comes later, or who waits outside.
LEAVER = """
import ctypes, json, os, platform, select, socket, sys
from pathlib import Path
from fedrad_client.sandbox import confine
layers, user, folder, scratch, name, number = json.loads(sys.argv[1])
home, own = Path(folder) / "home", Path(folder) / "own"
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the start of a program
os.umask(0)
own.write_bytes(b"of this user")
own.chmod(0o600)
(listening, told), (ended, ending) = os.pipe(), os.pipe()
if os.fork() == 0:  # somebody who waits outside
    os.close(told); os.read(listening, 1)
    made = socket.socket(socket.AF_UNIX); made.settimeout(20)
    try:
        made.connect("\\0" + name); made.recv(1)
    except OSError:
        pass
    os._exit(0)
os.close(ending)
held = None if layers is None else confine(home, [home / "cohort"], scratch=scratch and Path(scratch), layers=layers).to_byte()
c, add_key = ctypes.CDLL(None, use_errno=True), {"x86_64": 248, "aarch64": 217}[platform.machine()]
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
def leave(folder):
    descriptor = os.open(Path(folder) / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    os.write(descriptor, b"pixels of a patient")
def hand_over():
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("\\0" + name); made.listen(); os.write(told, b"1")
        if made not in select.select([made, ended], [], [], 20)[0]:
            raise ConnectionRefusedError(111, "")
        came, _ = made.accept()
        with came:
            os.write(came.fileno(), b"p")
acts = {
    "a file in shared memory": lambda: leave("/dev/shm"), "a file for everybody": lambda: leave("/tmp"),
    "a file beside the home": lambda: leave(folder), "a file in the cohort": lambda: leave(home / "cohort"),
    "memory by number": lambda: checked(c.shmget(number, 4096, 0o1666)), "a queue by number": lambda: checked(c.msgget(number, 0o1666)),
    "semaphores by number": lambda: checked(c.semget(number, 1, 0o1666)),
    "a queue by name": lambda: checked(c.mq_open(b"/" + name.encode(), os.O_CREAT | os.O_WRONLY, 0o666, None)),
    "a key of the kernel": lambda: checked(c.syscall(add_key, b"user", name.encode(), b"pixels", ctypes.c_size_t(6), -2)),
    "leave to read": lambda: own.chmod(0o666), "a time": lambda: os.utime(own, (1, 1)),
    "an open door": hand_over,
    "scratch": lambda: leave(scratch), "a folder in scratch": lambda: (Path(scratch) / "deep").mkdir(),
    "a pipe in scratch": lambda: os.mkfifo(Path(scratch) / "pipe"), "a link in scratch": lambda: (Path(scratch) / "link").symlink_to("/"),
}
found = {}
for what, act in acts.items():
    try:
        act(); found[what] = "done"
    except OSError as error:
        found[what] = error.errno
os.write(told, b"1")
print(json.dumps([held, found]))
"""
WITHIN = ("scratch", "a folder in scratch", "a pipe in scratch", "a link in scratch")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a site, in a place that anybody may reach."""
    made = Path(tempfile.mkdtemp(prefix="fedrad-leftovers-"))
    for name in ("home/keys/envelope.key", "home/cohort/current"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(b"secret")
    for path in (made, *made.rglob("*")):
        path.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def name() -> Iterator[str]:
    """Of whatever is left; nothing of it stays."""
    made = f"fedrad-left-{os.urandom(8).hex()}"
    yield made
    for place in (SHARED, Path("/tmp")):
        (place / made).unlink(missing_ok=True)
    LIBC.mq_unlink(b"/" + made.encode())
    for number, remove in (
        (LIBC.shmget(KEY, 0, 0), LIBC.shmctl),
        (LIBC.msgget(KEY, 0), LIBC.msgctl),
    ):
        if number >= 0:
            remove(number, 0, None)
    if (number := LIBC.semget(KEY, 0, 0)) >= 0:
        LIBC.semctl(number, 0, 0)


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    made = Scratch.make()
    assert made is not None
    yield made
    made.remove()


def left_by_number_or_name(name: str, folder: Path) -> set[str]:
    """Seen from outside, when the process is gone."""
    places = {
        "a file in shared memory": SHARED,
        "a file for everybody": Path("/tmp"),
        "a file beside the home": folder,
        "a file in the cohort": folder / "home/cohort",
    }
    found = {what for what, place in places.items() if (place / name).exists()}
    numbers = {
        "memory by number": LIBC.shmget(KEY, 0, 0),
        "a queue by number": LIBC.msgget(KEY, 0),
        "semaphores by number": LIBC.semget(KEY, 0, 0),
        "a queue by name": LIBC.mq_open(b"/" + name.encode(), os.O_RDONLY),
    }
    if numbers["a queue by name"] >= 0:
        os.close(numbers["a queue by name"])
    return found | {what for what, number in numbers.items() if number >= 0}


LEFT = {
    "a file in shared memory", "a file for everybody", "a file beside the home", "a file in the cohort", "memory by number",
    "a queue by number", "semaphores by number", "a queue by name",
}  # fmt: skip
BY_WORD = {"a key of the kernel", "leave to read", "a time", "an open door"}


def leaver(
    folder: Path, name: str, scratch: Scratch | None, layers: tuple[str, ...] | None, *, user: int
) -> tuple[Confinement | None, dict[str, str | int]]:
    place = folder / "scratch" if scratch is None else scratch.path
    place.mkdir(exist_ok=True)
    if user:
        os.chown(place, user, user)
    told = json.dumps([layers, user, str(folder), str(place), name, KEY])
    done = subprocess.run([sys.executable, "-c", LEAVER, told], capture_output=True, text=True, check=True, timeout=60)
    held, found = json.loads(done.stdout)
    return None if held is None else Confinement.from_byte(held), found


USERS = [0, NOBODY] if os.getuid() == 0 else [0]  # 0: as we are
by_each = pytest.mark.parametrize("user", USERS)
GIVEN = sandbox.probe().layers
needs_landlock = pytest.mark.skipif(LANDLOCK not in GIVEN, reason=f"this machine gives only: {GIVEN}")


@by_each
@pytest.mark.parametrize("layers", [(LANDLOCK, FILTER), LAYERS], ids="+".join)
@needs_landlock
def test_nothing_is_left_by_a_process_that_is_said_to_be_confined(folder: Path, name: str, scratch: Scratch, layers, user: int) -> None:
    held, found = leaver(folder, name, scratch, layers, user=user)

    assert held is not None
    assert held.complete
    assert left_by_number_or_name(name, folder) == set()
    assert [what for what in BY_WORD if found[what] == "done"] == []
    assert (folder / "own").stat().st_mode & 0o777 == 0o600


@by_each
def test_unconfined_all_of_it_is_left(folder: Path, name: str, user: int) -> None:
    """The positive control."""
    _, found = leaver(folder, name, None, None, user=user)

    assert left_by_number_or_name(name, folder) == LEFT
    assert {what for what in (*BY_WORD, *WITHIN) if found[what] == "done"} == {*BY_WORD, *WITHIN}


@needs_landlock
def test_without_a_file_system_of_its_own_it_writes_files_and_folders_to_its_scratch_and_no_more(
    folder: Path, name: str, scratch: Scratch
) -> None:
    _, found = leaver(folder, name, scratch, (LANDLOCK, FILTER), user=0)

    assert [what for what in WITHIN if found[what] == "done"] == ["scratch", "a folder in scratch"]
    assert {path.name for path in scratch.path.iterdir()} == {name, "deep"}


@by_each
@needs_landlock
def test_a_machine_that_leaves_shared_memory_open_is_not_called_complete(folder: Path, name: str, scratch: Scratch, user: int) -> None:
    """Believed is what was tried: were all of /dev given again, it would be seen."""
    opened = "from fedrad_client.sandbox import landlock; landlock._NODES = ('shm',); landlock._WRITE |= landlock._MAKE\n"
    told = json.dumps([(LANDLOCK, FILTER), user, str(folder), str(scratch.path), name, KEY])
    done = subprocess.run([sys.executable, "-c", opened + LEAVER, told], capture_output=True, text=True, check=True, timeout=60)
    held, found = json.loads(done.stdout)

    assert found["a file in shared memory"] == "done"
    assert Confinement.from_byte(held).open_to == "files"


@by_each
@pytest.mark.parametrize("layers", [(LANDLOCK,), (NAMESPACE,), (FILTER,), ()], ids="+".join)
def test_a_layer_that_leaves_a_way_is_not_called_complete(folder: Path, name: str, scratch: Scratch, layers, user: int) -> None:
    held, found = leaver(folder, name, scratch, layers, user=user)

    assert held is not None
    assert found["leave to read"] == "done" or left_by_number_or_name(name, folder)
    assert not held.files


# ── the folder ──


def test_a_scratch_is_its_owners_only_in_memory_and_goes_with_all_that_is_in_it() -> None:
    made = Scratch.make()
    assert made is not None
    (made.path / "deep" / "er").mkdir(parents=True)
    for written in ("pixels", "deep/pixels", "deep/er/pixels"):
        (made.path / written).write_bytes(b"1")

    assert made.path.parent == SHARED
    assert made.path.stat().st_mode & 0o777 == 0o700
    made.remove()
    assert not made.path.exists()


def test_folders_that_nobody_may_enter_and_that_are_deeper_than_any_stack_go_too() -> None:
    made = Scratch.make()
    assert made is not None
    at = os.open(made.path, os.O_RDONLY)
    for _ in range(2 * sys.getrecursionlimit()):
        os.mkdir("n", dir_fd=at)
        inner = os.open("n", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.mkdir("shut", mode=0, dir_fd=at)
    os.close(at)
    made.remove()

    assert not made.path.exists()


def test_what_a_killed_process_left_is_cleared_away_by_the_next_and_a_live_ones_is_not(scratch: Scratch) -> None:
    script = (
        "import sys; from fedrad_client.sandbox.scratch import Scratch; made = Scratch.make();"
        "(made.path / 'pixels').write_bytes(b'1'); print(made.path, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        during = Scratch.make()
        assert during is not None
        assert (left / "pixels").exists()
        other.kill()
    after = Scratch.make()
    assert after is not None
    for made in (during, after):
        made.remove()

    assert not left.exists()
    assert scratch.path.exists()


def test_nobody_elses_folder_is_cleared_away(tmp_path: Path) -> None:
    """Another user may name a folder as we do, or a link."""
    (tmp_path / "kept").write_bytes(b"1")
    planted = SHARED / f"fedrad-scratch-{os.urandom(8).hex()}"
    planted.symlink_to(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(planted.unlink)
        if os.getuid() == 0:
            others = SHARED / f"fedrad-scratch-{os.urandom(8).hex()}"
            others.mkdir()
            stack.callback(others.rmdir)
            os.chown(others, NOBODY, NOBODY)
        made = Scratch.make()
        assert made is not None
        made.remove()
        assert os.getuid() != 0 or others.exists()

    assert (tmp_path / "kept").exists()


def test_a_machine_with_no_room_at_all_gives_no_scratch_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**given: object) -> str:
        raise OSError(28, "no space")

    monkeypatch.setattr("tempfile.mkdtemp", full)

    assert Scratch.make() is None


WRITER = "exec(\"import os, sys, tempfile; f = tempfile.NamedTemporaryFile(delete=False); f.write(b'pixels'); f.flush();{then}\")"


def test_whatever_a_child_wrote_goes_with_it_also_when_it_is_killed(folder: Path) -> None:
    writer = WRITER.format(then="os.write(int(sys.argv[1]), f.name.encode()); sys.stdin.read()")
    child = launch(["timeit", writer], home=folder / "home", kept=[folder / "home/cohort"], environment=environment())
    assert child.scratch is not None
    with child.process:
        written = Path(os.read(child.answers, 200).decode())
        child.process.send_signal(signal.SIGKILL)
    os.close(child.answers)
    child.tidy()

    assert not written.exists()
    assert not child.scratch.path.exists()
