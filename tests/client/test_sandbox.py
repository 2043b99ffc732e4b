"""A child that works reaches no network, no key, no ledger and no other process, whatever runs in it; unconfined, each attack succeeds."""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import attacks

from fedrad_client import sandbox
from fedrad_client.sandbox import LAYERS, Confinement, launch, seccomp
from fedrad_client.sandbox.launch import ENVIRONMENT, environment

NAMESPACE, FILES, LANDLOCK, FILTER = LAYERS
NOBODY = 65534
ATTACKS = Path(attacks.__file__)
# A process that takes another user's place, has a victim of that user beside it, confines itself, and then attacks.
ATTACKER = """
import ctypes, json, os, socket, sys
from pathlib import Path
from fedrad_client.sandbox import confine
target, layers, user = json.loads(sys.argv[1])
exec(compile(open({attacks!r}).read(), "attacks", "exec"))
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as after the start of a program
reading, writing = os.pipe()
victim = os.fork()
if victim == 0:
    os.close(writing); os.read(reading, 1); os._exit(0)  # until its parent is gone
home = Path(target["home"])
held = None if layers is None else confine(home, [home / "cohort"], layers=layers).to_byte()
print(json.dumps([held, outcomes(target, victim)]))
"""


@pytest.fixture(scope="module")
def target() -> Iterator[dict[str, str]]:
    """A home with all that a site has, and listeners outside it; anybody may reach them."""
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="fedrad-target-"))
        stack.callback(shutil.rmtree, folder)
        home = folder / "home"
        for name in ("keys/envelope.key", "keys/pseudonym.key", "ledger.chain", "audit.chain", "site.toml", "outbox/1", "cohort/current"):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(b"secret")
        listening = {}
        for name, family, kind, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            ("unix", socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
            ("abstract", socket.AF_UNIX, socket.SOCK_STREAM, f"\0fedrad-{os.getpid()}"),
        ):
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen(64)
            listening[name] = str(made.getsockname()[1]) if family == socket.AF_INET else str(address).lstrip("\0")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        yield {"home": str(home), **listening}


def attacked(target: dict[str, str], layers: tuple[str, ...] | None, *, user: int = 0) -> tuple[Confinement | None, dict[str, str]]:
    script = ATTACKER.format(attacks=str(ATTACKS))
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps([target, layers, user])], capture_output=True, text=True, check=True, timeout=60
    )
    held, found = json.loads(done.stdout)
    return None if held is None else Confinement.from_byte(held), found


def in_the_real_child(target: dict[str, str]) -> tuple[Confinement | None, dict[str, str]]:
    """The attacks in a child just as `Worker` starts it, but for the program; the victim is this process."""
    home = Path(target["home"])
    program = (
        f"exec(compile(open({str(ATTACKS)!r}).read(), 'attacks', 'exec')); import json, os, sys;"
        f"os.write(int(sys.argv[1]), json.dumps(outcomes({target!r}, {os.getpid()})).encode()); os._exit(0)"
    )
    child = launch(["timeit", f"exec({program!r}, {{}})"], home=home, kept=[home / "cohort"], environment=environment())
    with child.process, os.fdopen(child.answers, "rb") as answers:
        found = child.held, json.loads(answers.read())
    child.tidy()
    return found


@pytest.fixture(scope="module")
def users() -> list[int]:
    return [0, NOBODY] if os.getuid() == 0 else [0]  # 0: as we are


def forbidden() -> str | None:
    """Why this machine cannot give all of it."""
    held = sandbox.probe()
    return None if held.complete and NAMESPACE in held.layers else f"this machine gives only: {held.how}"


FORBIDDEN = forbidden()
LANDLOCK_VERSION = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)
needs_namespaces = pytest.mark.skipif(FORBIDDEN is not None, reason=str(FORBIDDEN))
EVERY = (*attacks.NETWORK, *attacks.SOCKETS, *attacks.FILES, *attacks.PROCESSES, *attacks.WRITES)


@needs_namespaces
def test_whatever_runs_in_the_real_child_reaches_nothing(target: dict[str, str]) -> None:
    held, found = in_the_real_child(target)

    assert held == Confinement(network=True, files=True, layers=LAYERS)
    assert [name for name in EVERY if found[name] == "done"] == []
    assert [found[name] for name in attacks.WORK] == ["done", "done"]
    assert not (Path(target["home"]) / "paused").exists()


def test_unconfined_each_attack_succeeds(target: dict[str, str], users: list[int]) -> None:
    """The positive control: without it, "refused" above might mean that the attack is no good."""
    for user in users:
        _, found = attacked(target, None, user=user)
        for written in ("home/paused", "written"):
            (Path(target["home"]).parent / written).unlink()
        without_ipv6 = (
            {"other network family"} if found["other network family"] in ("EAFNOSUPPORT", "EADDRNOTAVAIL", "ENETUNREACH") else set()
        )

        assert [name for name in (*EVERY, *attacks.WORK) if found[name] != "done" and name not in without_ipv6] == []


@pytest.mark.parametrize("layers", [LAYERS, (NAMESPACE, FILES), (LANDLOCK, FILTER), (LANDLOCK,), (FILTER,), (NAMESPACE,)], ids="+".join)
def test_what_is_said_to_hold_holds_by_whichever_layers_a_machine_gives(target: dict[str, str], users: list[int], layers) -> None:
    for user in users:
        held, found = attacked(target, layers, user=user)
        assert held is not None

        assert set(held.layers) <= set(layers)
        assert not held.network or all(found[name] != "done" for name in attacks.NETWORK)
        assert not held.files or all(found[name] != "done" for name in attacks.FILES)
        assert LANDLOCK not in held.layers or LANDLOCK_VERSION < 4 or found["tcp"] != "done"
        assert FILTER not in held.layers or all(found[name] != "done" for name in attacks.SOCKETS)
        assert LANDLOCK not in held.layers or all(found[name] != "done" for name in (*attacks.PROCESSES, *attacks.WRITES))
        assert [found[name] for name in attacks.WORK] == ["done", "done"]


@needs_namespaces
def test_each_layer_alone_does_its_part_for_an_ordinary_user_too(target: dict[str, str], users: list[int]) -> None:
    for user in users:
        one = {layer: attacked(target, (layer,), user=user)[0] for layer in (NAMESPACE, FILTER)}
        both = attacked(target, (NAMESPACE, FILES), user=user)[0]

        assert one == {NAMESPACE: Confinement(True, False, (NAMESPACE,)), FILTER: Confinement(True, False, (FILTER,))}
        assert both == Confinement(True, True, (NAMESPACE, FILES))


def test_no_layer_is_no_confinement(target: dict[str, str]) -> None:
    assert attacked(target, ())[0] == Confinement(network=False, files=False)


def test_a_folder_is_never_hidden_from_the_machine_itself(target: dict[str, str]) -> None:
    """Mounting over the home without a name space of one's own would hide it from everybody, where root may do that."""
    script = (
        "import sys; from pathlib import Path; from fedrad_client.sandbox import confine, namespaces;"
        "namespaces.without_files = lambda *given: print('would mount');"
        f"print(confine(Path(sys.argv[1]), [], layers=[{FILES!r}]).layers)"
    )
    done = subprocess.run([sys.executable, "-c", script, target["home"]], capture_output=True, text=True, check=True)

    assert done.stdout == "()\n"


def test_a_home_that_is_not_there_or_named_from_elsewhere_is_never_believed_to_be_hidden(
    target: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(target["home"]).parent)
    held = []
    for home in ("home", "nowhere"):
        child = launch([], home=Path(home), environment=environment())
        os.close(child.answers)
        with child.process:
            held.append(child.held and child.held.files)
        child.tidy()

    assert held == [LANDLOCK in sandbox.probe().layers or FILES in sandbox.probe().layers, False]


def test_probing_takes_less_than_a_second_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before, begun = set(Path("/proc/self/fd").iterdir()), time.monotonic()
    held = sandbox.probe()

    assert time.monotonic() - begun < 1
    assert held.complete == ("network" not in held.open_to and "files" not in held.open_to)
    assert not list(tmp_path.iterdir())
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_full_disk_leaves_a_probe_without_a_folder_and_not_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")

    assert sandbox.probe().network


@pytest.mark.parametrize(("network", "files"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_confinement_survives_the_way_through_one_byte(network: bool, files: bool) -> None:
    for chosen in range(2 ** len(LAYERS)):
        held = Confinement(network, files, tuple(layer for place, layer in enumerate(LAYERS) if chosen >> place & 1))

        assert Confinement.from_byte(held.to_byte()) == held
        assert held.complete == (held.open_to == "")


def test_the_refused_calls_are_those_of_this_machine() -> None:
    """Numbers from a table are believed only when libc's own call is stopped by them."""
    script = (
        "import ctypes, os; from fedrad_client.sandbox import kernel, seccomp; c = ctypes.CDLL(None, use_errno=True);"
        "kernel.gain_nothing(); seccomp.refuse_calls();"
        "tried = {'socket': (2, 1, 0), 'connect': (-1, None, 0), 'sendto': (-1, None, 0, 0, None, 0), 'sendmsg': (-1, None, 0),"
        "'sendmmsg': (-1, None, 0, 0), 'ptrace': (0, 0, 0, 0), 'unshare': (0,), 'setns': (-1, 0), 'mount': (None, None, None, 0, None),"
        "'process_vm_readv': (0, None, 0, None, 0, 0), 'process_vm_writev': (0, None, 0, None, 0, 0),"
        "'accept': (-1, None, None), 'accept4': (-1, None, None, 0), 'shmget': (1, 0, 0), 'semget': (1, 0, 0), 'msgget': (1, 0),"
        "'mq_open': (b'/none', 0), 'truncate': (b'', 0), 'chmod': (b'', 0), 'fchmod': (-1, 0), 'fchmodat': (-1, b'', 0, 0),"
        "'chown': (b'', -1, -1), 'fchown': (-1, -1, -1), 'lchown': (b'', -1, -1), 'fchownat': (-1, b'', -1, -1, 0),"
        "'setxattr': (b'', b'', b'', 0, 0), 'lsetxattr': (b'', b'', b'', 0, 0), 'fsetxattr': (-1, b'', b'', 0, 0),"
        "'utime': (b'', None), 'utimes': (b'', None), 'futimesat': (-1, b'', None), 'utimensat': (-1, b'', None, 0)};"
        "print(*sorted(name for name, given in tried.items() if getattr(c, name)(*given) == -1 and ctypes.get_errno() == 1))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    keys = {"add_key", "request_key", "keyctl"}  # which libc does not know; `test_sandbox_leftovers.py` tries the first
    assert {*done.stdout.split()} >= seccomp.MACHINES[os.uname().machine][1].keys() - keys


def test_a_confined_process_may_not_be_looked_into_and_writes_no_core(target: dict[str, str]) -> None:
    read = "open('/proc/self/status').read() + open('/proc/self/limits').read() + f'Dumpable: {ctypes.CDLL(None).prctl(3)}'"
    show = f"import ctypes, os, sys; os.write(int(sys.argv[1]), ({read}).encode()); os._exit(0)"
    child = launch(["timeit", show], home=Path(target["home"]), environment=environment())
    with child.process, os.fdopen(child.answers) as answers:
        said = answers.read()
    child.tidy()

    lines = {name: value.split() for name, _, value in (line.partition(":") for line in said.splitlines())}
    assert lines["NoNewPrivs"] == ["1"]
    assert lines["Dumpable"] == ["0"]  # nobody else of this user may look into it
    assert lines["CapEff"] == lines["CapPrm"] == ["0" * 16]
    assert [line.split()[4:6] for line in said.splitlines() if line.startswith("Max core file size")] == [["0", "0"]]


def test_what_cuda_needs_to_start_is_left(target: dict[str, str], users: list[int]) -> None:
    """Seen on a card: without a UNIX socket to listen on, or the right to name its threads, it says "OS call failed" and nothing else."""
    script = """
import ctypes, json, os, socket, sys, threading
from pathlib import Path
from fedrad_client.sandbox import confine
layers, user, home = json.loads(sys.argv[1])
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
confine(Path(home), [], layers=layers)
with socket.socket(socket.AF_UNIX) as own:
    own.bind("\\0cuda-uvmfd")
    own.listen()
for thread in os.listdir("/proc/self/task"):
    Path(f"/proc/self/task/{thread}/comm").write_text("cuda00001400006")
print("started")
"""
    for user in users:
        for layers in (LAYERS, *((layer,) for layer in LAYERS)):
            done = subprocess.run(
                [sys.executable, "-c", script, json.dumps([layers, user, target["home"]])], capture_output=True, text=True, check=False
            )
            assert done.stdout == "started\n", (layers, user, done.stderr)


def test_the_child_inherits_no_descriptor_and_no_secret_of_the_environment(target: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDRAD_TOKEN", "canary")
    monkeypatch.setenv("TMPDIR", str(Path(target["home"]) / "tmp"))
    held_open = os.open(Path(target["home"]) / "ledger.chain", os.O_RDONLY)
    os.set_inheritable(held_open, True)
    look = """
import json, os, sys
names = []
for number in range(64):
    try:
        names.append(os.readlink(f"/proc/self/fd/{number}"))
    except FileNotFoundError:
        pass
os.write(int(sys.argv[1]), json.dumps([names, dict(os.environ)]).encode())
os._exit(0)
"""
    child = launch(["timeit", f"exec({look!r})"], home=Path(target["home"]), environment=environment())
    with child.process, os.fdopen(child.answers) as answers:
        names, seen = json.loads(answers.read())
    child.tidy()
    os.close(held_open)

    inherited = [name.split(":")[0] for name in names if not name.endswith("/task")]  # Landlock's own, of the child's threads
    assert sorted(inherited) == ["/dev/null", "/dev/null", "pipe", "pipe"]
    assert "canary" not in json.dumps(seen)
    assert set(seen) <= {*ENVIRONMENT, "TMPDIR", "LC_CTYPE"}  # the last is Python's own
    assert seen["TMPDIR"] == "/dev/shm"
