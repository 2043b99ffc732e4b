"""One child that works, seen from its parent: what it was started for, one job at a time, and how it ended. None of its words is read."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrad_client.config import Resources
from fedrad_client.privacy.release import BINS, CLASSES
from fedrad_client.sandbox import Confinement, launch
from fedrad_client.sandbox.confinement import UNCONFINED
from fedrad_client.sandbox.launch import environment
from fedrad_client.work.frames import receive_answer, send_job
from fedrad_client.work.job import Job, to_json
from fedrad_common.errors import FedradError
from fedrad_common.packing import Vector
from fedrad_common.weights import FOLDER as WEIGHTS

_LEAST_PATIENCE = 60.0  # seconds for one order, whatever the protocol's deadline
_LAST_WORDS = 5.0  # seconds to end by itself, once it has stopped answering
# Exit status of the child -> what may be said about it.
EXIT_CODES = {3: "input", 4: "memory", 5: "error"}
_HINTS = {"input": "check protocol, plan and cohort with `fedrad-site preview`", "memory": "lower resources.micro_batch"}


class UnconfinedError(FedradError):
    """The site asks for a confinement that this machine does not give."""


@dataclass(frozen=True)
class Place:
    """What a child is started for, and can see. For another one, another child."""

    home: Path | None  # hidden from it
    cohort: Path  # but for this
    folder: tuple[int, int] | None  # device and number of the cohort's folder: a new one by the same name is not the one that it sees
    weights: tuple[int, int] | None  # likewise of the folder of public weights, which it sees too
    resources: Resources

    @classmethod
    def of(cls, home: Path | None, cohort: Path, resources: Resources) -> Place:
        cohort = cohort.resolve()
        return cls(home.resolve() if home else None, cohort, _identity(cohort), _identity(home / WEIGHTS) if home else None, resources)

    @property
    def seen(self) -> list[Path]:
        return [self.cohort, *([self.home / WEIGHTS] if self.home else [])]


def _identity(folder: Path) -> tuple[int, int] | None:
    found = folder.stat() if folder.is_dir() else None
    return None if found is None else (found.st_dev, found.st_ino)


class Child:
    """Started at once; confined when `__init__` returns, while it may still be loading its libraries."""

    held: Confinement

    def __init__(self, place: Place, *, warm: bool) -> None:
        """Raises UnconfinedError where the site asks for more than holds; FedradError, with a code, when it ended before it could work."""
        threads = str(place.resources.threads)
        counts = {} if threads == "0" else {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        launched = launch(
            ["fedrad_client.work", *(["warm"] if warm else [])], home=place.home, kept=place.seen,
            required=place.resources.confinement == "required", environment=environment(**counts),
        )  # fmt: skip
        self.place, self.orders = place, 0
        self._launched, self._process, self._answers = launched, launched.process, launched.answers
        if launched.held is None:
            raise self._failure()
        self.held = launched.held

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Job, model: Vector) -> Vector:
        """Raises FedradError, with a code, when it fails; then it has ended. Whatever else ends this call ends it, too.

        One that hangs is ended when no attempt of the round can be waiting for its answer any more.
        """
        self.orders += 1
        assert self._process.stdin is not None
        hangs = threading.Timer(_patience(job), self.kill)
        hangs.daemon = True
        hangs.start()
        try:
            vector = None
            with contextlib.suppress(BrokenPipeError):
                send_job(self._process.stdin.fileno(), to_json(job), np.asarray(model, dtype="<f4"))
                vector = receive_answer(self._answers, length=_answer_length(job, model))
        except BaseException:
            self.end()
            raise
        finally:
            hangs.cancel()
        if vector is None:
            raise self._failure()
        return vector

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """At once: it holds nothing that could be lost. Returns its exit status."""
        self._process.kill()
        status = self._process.wait()
        self._close()
        return status

    def _close(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            os.close(self._answers)
            self._launched.tidy()

    def _failure(self) -> FedradError:
        """It has ended, or said what it should not: then it ends now."""
        with contextlib.suppress(Exception):
            self._process.wait(_LAST_WORDS)
        status = self.end()
        if status == UNCONFINED:
            return UnconfinedError(
                "work is not confined: this machine forbids what resources.confinement asks for",
                hint='allow user namespaces or Landlock (see `fedrad-site doctor`), or set resources.confinement = "preferred"',
            )
        return failed(EXIT_CODES.get(status, "died" if status < 0 else "error"))


def failed(code: str) -> FedradError:
    return FedradError(f"work failed in the child: {code}", hint=_HINTS.get(code, "the site's other orders are not affected"))


def _patience(job: Job) -> float:
    """Seconds; from the protocol alone, so that nothing about patients decides when a site gives up."""
    rounds = job.protocol.rounds
    return max(_LEAST_PATIENCE, (1 + rounds.retries) * rounds.deadline_seconds)


def _answer_length(job: Job, model: Vector) -> int:
    """Known beforehand: no child can make its parent take more."""
    if job.kind == "train" or job.protocol.task.kind == "echo":
        return model.size
    return len(job.protocol.task.labels) * CLASSES * BINS
