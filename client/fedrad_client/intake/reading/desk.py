"""Files are read by processes that may die of them: one file costs itself, never the node, and it is known which one it was."""

import atexit
import contextlib
import os
import pickle
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fedrad_client.intake.codes import Code
from fedrad_client.intake.reading.wire import ENDED, FILES, READY, WORK, BrokenReader, Frame, receive_answer, send_ask
from fedrad_client.sandbox.launch import environment
from fedrad_common import processes
from fedrad_common.errors import FedradError

Work = Callable[[Path], tuple[dict[str, Any], bytes]]  # of one file: something for JSON, and bytes; picklable
CHUNK = 16  # files handed to a reader at a time
AHEAD = 4  # chunks that a reader may be ahead of the slowest
PATIENCE = 60.0  # seconds by the clock for one file: its processor time is bounded in the reader, this is for a disk that hangs
_STARTING = 120.0  # seconds until the libraries are loaded, on a machine that is busy
# How a worker ended -> the file's code. SIGKILL is the kernel's, when the whole machine is out of memory.
ENDINGS: dict[int, Code] = {-signal.SIGPROF: "too-slow", 4: "too-large", -signal.SIGKILL: "too-large", 5: "internal"}


@dataclass(frozen=True)
class Answer:
    """What came of one file: what the work said, or the code of how its worker ended."""

    head: dict[str, Any] = field(default_factory=dict)
    body: bytes = b""
    code: Code | None = None


class Reader:
    """One reader process."""

    def __init__(self) -> None:
        """Returns at once, while the libraries are still being loaded."""
        self._answers, its = os.pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        try:
            self._process = processes.start(
                "fedrad_client.intake.reading", str(its), environment=environment(**threads), pass_fds=(its,), bufsize=0,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            os.close(its)
        self.waiting: deque[tuple[int, Path]] = deque()
        self._work = b""
        self._handled = 0  # by the present worker
        self._ready = False
        self.since = time.monotonic()  # the last sign of life

    @property
    def answers(self) -> int:
        return self._answers

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def patience(self) -> float:
        return PATIENCE if self._ready else _STARTING

    def employ(self, work: bytes) -> None:
        self._work = work
        self._ask(WORK, work)

    def hand(self, files: Iterable[tuple[int, Path]]) -> None:
        self.waiting.extend(files)
        self.since = time.monotonic()
        self._ask(FILES, pickle.dumps([(number, str(path.absolute())) for number, path in self.waiting]))

    def receive(self) -> list[tuple[int, Answer]]:
        """Of one frame. Raises BrokenReader: it ended, or hangs."""
        frame = receive_answer(self._answers, patience=self.patience)
        self.since = time.monotonic()
        if frame.number == READY and not self._ready:  # once: it is no sign of work
            self._ready = True
            return []
        if frame.number == ENDED:
            return self._ended(frame)
        if not self.waiting or frame.number != self.waiting[0][0]:
            raise BrokenReader
        self._handled += 1
        self.waiting.popleft()
        return [(frame.number, Answer(frame.head, frame.body))]

    def _ended(self, frame: Frame) -> list[tuple[int, Answer]]:
        """A worker died of the file in hand, or of what an earlier one left behind: only in a clean worker is it the file's own fault."""
        status = frame.head.get("status")
        culprits = []
        if self.waiting and (self._handled == 0 or status == -signal.SIGPROF):
            number, _ = self.waiting.popleft()
            culprits.append((number, Answer(code=ENDINGS.get(status, "undecodable") if isinstance(status, int) else "undecodable")))
        self._handled = 0
        self.employ(self._work)
        if self.waiting:
            self.hand(())
        return culprits

    def failed(self) -> tuple[int, Answer] | None:
        """End it. The file in hand is at fault where it hung, or ended a reader that had done nothing else."""
        slow = time.monotonic() - self.since >= self.patience
        self.end()
        if not self._ready:
            raise FedradError("ingest: the reader process does not start", hint="run `fedrad-site doctor`; is the machine out of memory?")
        if self.waiting and (slow or self._handled == 0):
            number, _ = self.waiting.popleft()
            return number, Answer(code="too-slow" if slow else "too-large")
        return None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            os.close(self._answers)

    def _ask(self, kind: bytes, content: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is seen where its answers are awaited
            send_ask(self._process.stdin.fileno(), kind, content)


_idle: list[Reader] = []  # loaded, and asked by nobody: the next ingest of this process need not wait


@atexit.register
def close_idle() -> None:
    while _idle:
        _idle.pop().end()


def _take() -> Reader:
    while _idle:
        reader = _idle.pop()
        if reader.alive:
            return reader
        reader.end()
    return Reader()


def read_all(files: Iterable[Path], work: Work, *, workers: int = 1) -> Iterator[Answer]:
    """Each file's answer, in the order of `files`.

    Raises:
        FedradError: no reader process can be started.
    """
    yield from _Desk(files, pickle.dumps(work), workers).answers()


class _Desk:
    def __init__(self, files: Iterable[Path], work: bytes, workers: int) -> None:
        self.todo, self.work, self.workers = enumerate(files), work, workers
        self.readers: list[Reader] = []
        self.ready: dict[int, Answer] = {}
        self.next = self.handed = 0

    def answers(self) -> Iterator[Answer]:
        try:
            while True:
                self._hand_out()
                while self.next in self.ready:
                    self.next += 1
                    yield self.ready.pop(self.next - 1)
                if not any(reader.waiting for reader in self.readers):
                    if self.next == self.handed and not self._hand_out():
                        return
                    continue
                self._gather()
        finally:
            for reader in self.readers:
                if reader.waiting:
                    reader.end()
                else:
                    _idle.append(reader)

    def _hand_out(self) -> bool:
        """A chunk to each reader that has none; False where nothing was left to hand out."""
        handed = False
        for place in range(self.workers):
            if self.handed - self.next >= CHUNK * AHEAD * self.workers:
                break
            if place < len(self.readers) and self.readers[place].waiting:
                continue
            chunk = list(islice(self.todo, CHUNK))
            if not chunk:
                break
            if place == len(self.readers):
                self.readers.append(self._employed())
            self.readers[place].hand(chunk)
            self.handed += len(chunk)
            handed = True
        return handed

    def _employed(self) -> Reader:
        reader = _take()
        reader.employ(self.work)
        return reader

    def _gather(self) -> None:
        """Wait for a sign of any reader that has files."""
        busy = [reader for reader in self.readers if reader.waiting]
        waiting = select.poll()
        for reader in busy:
            waiting.register(reader.answers, select.POLLIN)
        soonest = min(reader.since + reader.patience for reader in busy)
        signs = {descriptor for descriptor, _ in waiting.poll(1000 * max(0.0, soonest - time.monotonic()))}
        for reader in busy:
            if reader.answers in signs:
                try:
                    self.ready.update(reader.receive())
                except BrokenReader:
                    self._replace(reader)
            elif time.monotonic() - reader.since >= reader.patience:
                self._replace(reader)

    def _replace(self, reader: Reader) -> None:
        if culprit := reader.failed():
            self.ready[culprit[0]] = culprit[1]
        fresh = self._employed()
        self.readers[self.readers.index(reader)] = fresh
        fresh.hand(reader.waiting)
