"""A file may end, hang or take over the process that reads it: it costs itself, is named by a code, and reaches nobody."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.patience import PATIENCE
from fakes.reading import Elsewhere

from fedrad_client.intake.reading import desk, wire
from fedrad_client.intake.reading.desk import CHUNK, read_all
from fedrad_common.errors import FedradError

SAYS_ITS_NAME = "({'name': path.name}, path.name.encode())"
OS, SYS = "__import__('os')", "__import__('sys')"


def named(*names: str) -> list[Path]:
    return [Path("/nowhere") / name for name in names]


def told(bad: str) -> Elsewhere:
    """Work that does `bad`, an expression, for the path named "bad", and of every other says its name."""
    return Elsewhere(f"lambda path: ({bad}) if path.name == 'bad' else {SAYS_ITS_NAME}")


def results(files: list[Path], work: Elsewhere, **options: int) -> list[str]:
    """Of each file its code, or the name that came back."""
    return [answer.code or answer.head["name"] for answer in read_all(files, work, **options)]


def test_answers_come_in_the_order_of_the_files_whoever_is_faster():
    files = named(*map(str, range(10 * CHUNK)))
    slow = f"lambda path: __import__('time').sleep(0.05 * (int(path.name) % 50 == 3)) or {SAYS_ITS_NAME}"
    answers = list(read_all(files, Elsewhere(slow), workers=3))

    assert [(answer.head["name"], answer.body) for answer in answers] == [(path.name, path.name.encode()) for path in files]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (f"{OS}.kill({OS}.getpid(), 9)", "too-large"),  # as the kernel does when the machine is out of memory
        (f"{OS}.abort()", "undecodable"),
        ("__import__('ctypes').string_at(0)", "undecodable"),
        ("bytearray(2**40)", "too-large"),
        ("[bytearray(2**24) for _ in range(100)]", "too-large"),
        ("1 / 0", "internal"),
        (f"{SYS}.exit('DOE')", "internal"),
        (f"{OS}._exit(0)", "undecodable"),
    ],
)
def test_a_file_that_ends_its_worker_costs_itself_and_a_code_says_how(bad, code):
    assert results(named("a", "bad", "b", "c"), told(bad)) == ["a", code, "b", "c"]


def test_a_file_that_works_for_ever_is_ended_by_its_own_clock(monkeypatch):
    monkeypatch.setattr(desk._Desk, "_replace", lambda *_: pytest.fail("the node had to end it"))

    assert results(named("a", "bad", "b"), told("any(iter(int, 1))")) == ["a", "too-slow", "b"]


def test_a_file_that_ends_the_whole_reader_costs_itself():
    assert results(named("bad", "b"), told(f"{OS}.kill({OS}.getppid(), 9)")) == ["too-large", "b"]


def test_many_files_may_end_their_workers_at_many_workers():
    files = named(*("bad" if number % 7 == 5 else str(number) for number in range(4 * CHUNK)))

    assert results(files, told(f"{OS}.abort()"), workers=2) == ["undecodable" if path.name == "bad" else path.name for path in files]


def test_a_file_does_not_answer_for_what_an_earlier_one_left_behind():
    poisons = f"setattr(__import__('builtins'), 'poison', 1) or {SAYS_ITS_NAME}"
    dies = f"{OS}.abort() if hasattr(__import__('builtins'), 'poison') else {SAYS_ITS_NAME}"

    assert results(named("bad", "b", "c"), Elsewhere(f"lambda path: {poisons} if path.name == 'bad' else {dies}")) == ["bad", "b", "c"]


def test_what_a_decoder_prints_or_an_exception_quotes_reaches_nobody(capfd):
    prints = f"[{OS}.write(number, b'DOE') for number in (1, 2)] and {OS}.abort()"
    raises = "(_ for _ in ()).throw(ValueError('DOE'))"

    assert results(named("bad", "b"), told(prints)) + results(named("bad", "b"), told(raises)) == ["undecodable", "b", "internal", "b"]
    assert "DOE" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "said",
    [
        b"DOE" * 9,
        wire._ANSWER.pack(7, 2, 0) + b"{}",  # of another file
        wire._ANSWER.pack(1, 2**31, 0),
        wire._ANSWER.pack(1, 2, 2**40) + b"{}",
        wire._ANSWER.pack(1, 3, 0) + b"{x}",
        wire._ANSWER.pack(1, 2, 0) + b"[]",
        wire._ANSWER.pack(1, 2, 0) + b"\xff\xff",
        wire._ANSWER.pack(wire.READY, 2, 0) + b"{}",  # life, without work, for ever
    ],
)
def test_a_reader_that_says_what_it_should_not_is_not_believed(monkeypatch, said):
    reader, answers = listening(monkeypatch)
    os.write(answers, said)

    with pytest.raises(wire.BrokenReader):
        reader.receive()


def listening(monkeypatch: pytest.MonkeyPatch) -> tuple[desk.Reader, int]:
    """A reader that is ready and has file 1 in hand, and where its process would answer: the test does."""
    monkeypatch.setattr(desk.processes, "start", lambda *_, **options: Silent(options["pass_fds"][0]))
    reader = desk.Reader()
    answers = reader._process.answers
    reader.waiting.append((1, Path("a")))
    wire.send_answer(answers, wire.READY, {})
    reader.receive()
    return reader, answers


class Silent:
    """A process that does nothing."""

    stdin = None

    def __init__(self, answers: int) -> None:
        self.answers = os.dup(answers)


def test_a_file_that_hangs_without_working_is_too_slow(monkeypatch):
    list(read_all(named("a"), told("")))  # a reader that is ready
    monkeypatch.setattr(desk, "PATIENCE", 0.5)

    assert results(named("a", "bad", "b"), told("__import__('time').sleep(10**6)")) == ["a", "too-slow", "b"]


def test_a_reader_that_does_not_start_is_an_error_that_says_so(monkeypatch):
    start = desk.processes.start
    monkeypatch.setattr(desk, "_idle", [])
    monkeypatch.setattr(desk.processes, "start", lambda _, *rest, **options: start("fedrad_common.nowhere", *rest, **options))

    with pytest.raises(FedradError, match="does not start") as caught:
        list(read_all(named("a"), told("")))

    assert "doctor" in caught.value.hint


def test_a_file_writes_nowhere_and_reaches_nobody(tmp_path):
    """Unconfined, each of these would come back as "reached"."""
    tries = (
        f"{OS}.write({OS}.open({str(tmp_path / 'x')!r}, 65), b'DOE')",
        "__import__('socket').socket()",
        f"{OS}.kill({os.getpid()}, 0) or 1",
    )
    for attack in tries:
        assert results(named("bad", "b"), told(f"[{attack}] and ({{'name': 'reached'}}, b'')")) == ["internal", "b"]
    assert not any(path.stat().st_size for path in tmp_path.iterdir())


def test_no_core_dump_is_left_of_a_patient():
    assert [answer.head["core"] for answer in read_all(named("a"), Elsewhere(CORE))] == [[0, 0]]


CORE = "lambda path: ({'core': __import__('resource').getrlimit(__import__('resource').RLIMIT_CORE)}, b'')"
PIDS = f"({{'pids': [{OS}.getpid(), {OS}.getppid()]}}, b'')"
HANGS = f"lambda path: __import__('time').sleep(10**6) if path.name == 'bad' else {PIDS}"


def test_whoever_stops_listening_leaves_no_busy_reader():
    answers = read_all(named("a", "bad"), Elsewhere(HANGS))
    watched = [os.pidfd_open(pid) for pid in next(answers).head["pids"]]
    answers.close()

    assert all(map(ended, watched))


def test_the_parents_death_leaves_no_orphan():
    ours = Path(__file__).resolve().parents[1]
    program = (
        "import json; from pathlib import Path\n"
        "from fakes.reading import Elsewhere; from fedrad_client.intake.reading.desk import read_all\n"
        f"for answer in read_all([Path('a'), Path('bad')], Elsewhere({HANGS!r})): print(json.dumps(answer.head), flush=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ours)})
    watched = [os.pidfd_open(pid) for pid in json.loads(parent.stdout.readline())["pids"]]
    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert all(map(ended, watched))


def ended(process: int) -> bool:
    """Of a descriptor of a process, which is closed."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    try:
        return bool(waiting.poll(PATIENCE * 1000))
    finally:
        os.close(process)
