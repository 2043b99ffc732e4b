"""Sites that answer by arithmetic, a clock that moves when somebody waits, and a process that dies at its k-th write."""

import math
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from fedrad_common.chain_format import MARK_BYTES
from fedrad_common.errors import RefusalCode
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Dtype, Vector, rounded, vector_hash
from fedrad_common.records import Answer, Envelope, Evidence, Order, Privacy, Signed, sign
from fedrad_server.rounds import Outcome, play
from fedrad_server.runs import Run

N_PARAMETERS = 12

PROTOCOL = """
format = "fedrad-protocol-1"
name = "echo"
task = {{ kind = "echo", labels = ["lesion"] }}
input = {{ profile = "xr", height = 8, width = 8 }}
model = {{ name = "linear" }}
privacy = {{ unit = "none", expected_batch = 4.0, steps_per_round = 1, rounds = {rounds} }}
training = {{ learning_rate = 0.1 }}
rounds = {{ quorum = {quorum}, deadline_seconds = 60.0, retries = {retries} }}
aggregation = {{ {aggregation} }}
evaluation = {{ rounds = {evaluated}, epsilon = 1.0 }}
"""


def protocol(
    *, rounds: int = 3, quorum: int = 2, retries: int = 2, aggregation: str = 'strategy = "fedavg"', evaluated: tuple[int, ...] = ()
) -> bytes:
    return PROTOCOL.format(rounds=rounds, quorum=quorum, retries=retries, aggregation=aggregation, evaluated=list(evaluated)).encode()


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def numbers(*seed: object, size: int) -> Vector:
    """Reproducible and unlike each other."""
    digest = int.from_bytes(sha256(repr(seed).encode()).digest()[:8])
    return np.random.default_rng(digest).normal(size=size).astype(np.float32)


@dataclass
class Site:
    """What a hospital's node would be: it keeps its answers, and the same order gets the same bytes again."""

    name: str
    size: int
    key: SigningKey = field(default_factory=SigningKey.generate)
    sequence: int = 0
    outbox: dict[str, Answer] = field(default_factory=dict)
    shown: Evidence | None = None  # what came with the last order

    def answer(self, order: Order, model: Vector) -> Answer:
        if order.question not in self.outbox:
            assert vector_hash(model, order.dtype) == order.model
            if order.kind == "train":
                vector = rounded(numbers(self.name, order.round, size=model.size), order.dtype)
            else:
                vector = np.rint(10 * numbers(self.name, order.round, size=64))
            self.outbox[order.question] = self.seal(order, vector)
        return self.outbox[order.question]

    def seal(self, order: Order, vector: Vector, /, **changes: object) -> Answer:
        """A signed answer; `changes` replace fields of its envelope before it is signed."""
        self.sequence += 1
        dtype: Dtype = order.dtype if order.kind == "train" else "float32"
        fields: dict[str, object] = {
            "site": self.name, "run": order.run, "epoch": order.epoch, "round": order.round, "kind": order.kind, "sequence": self.sequence,
            "protocol": order.protocol, "model": order.model, "length": vector.size, "dtype": dtype, "payload": vector_hash(vector, dtype),
            "declared_size": self.size, "ledger": "a" * 64,
            "audit": "b" * 64, "manifest": self.shown.manifests[-1].digest if self.shown else "c" * 64,
            "privacy": Privacy(noise_multiplier=0.0 if order.kind == "train" else 10.0, sampling_rate=1.0, steps=1, delta=0.0),
        }  # fmt: skip
        return Answer(sign(Envelope.model_validate({**fields, **changes}), self.key), vector)


Deed = Callable[[Site, Order, Vector], list[Answer]]


@dataclass
class World:
    """A coordinator's key and its sites, which outlive any one process of the coordinator."""

    directory: Path
    names: tuple[str, ...] = ("ankara", "bergen", "cadiz")
    key: SigningKey = field(default_factory=SigningKey.generate)
    clock: Clock = field(default_factory=Clock)
    away: dict[str, tuple[float, float]] = field(default_factory=dict)  # when a site's node died and when it is back, by the clock

    def __post_init__(self) -> None:
        self.sites = {name: Site(name, size=40 + 10 * number) for number, name in enumerate(self.names)}

    @property
    def roster(self) -> dict[str, str]:
        return {name: site.key.public.hex for name, site in self.sites.items()}

    def is_away(self, name: str) -> bool:
        died, back = self.away.get(name, (math.inf, math.inf))
        return died <= self.clock.now < back

    def create(self, content: bytes) -> Run:
        return Run.create(self.directory, content, roster=self.roster, key=self.key, initial=numbers("initial", size=N_PARAMETERS))

    def open(self, **options: int) -> Run:
        return Run.open(self.directory, self.key, **options)

    def finish(self, content: bytes, **deeds: Deed) -> "Grid":
        """Create a run and play it to its end or its pause, with some sites misbehaving."""
        with self.create(content) as run:
            return self.play(run, **deeds)

    def play(self, run: Run, **deeds: Deed) -> "Grid":
        grid = Grid(self, deeds)
        grid.outcome = play(run, grid, clock=self.clock, progress=lambda number, site, what: grid.seen.append((number, site, what)))
        return grid


class Grid:
    """The `Sites` of one epoch, in this process. Waiting for nothing moves the clock to the end of the wait."""

    def __init__(self, world: World, deeds: dict[str, Deed]) -> None:
        self.world, self.deeds = world, deeds
        self.queue: list[tuple[str, Answer]] = []
        self.asked: list[tuple[str, int, tuple[str, ...]]] = []
        self.seen: list[tuple[int, str, str]] = []
        self.outcome: Outcome | None = None

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        opened = order.open(Order, self.world.key.public, what="order")
        self.asked.append((opened.kind, opened.round, tuple(sites)))
        for name in sites:
            if self.world.is_away(name):
                continue  # what it was asked died with it
            site = self.world.sites[name]
            deed, site.shown = self.deeds.get(name, honest), evidence[name]
            self.queue += [(name, answer) for answer in deed(site, opened, model)]

    def absent(self) -> dict[str, float]:
        silence = {name: self.world.clock.now - died for name, (died, _) in self.world.away.items() if self.world.is_away(name)}
        return {name: seconds for name, seconds in silence.items() if seconds > 9.0}

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        if not self.queue:
            self.world.clock.now += timeout
            return []
        return [self.queue.pop(0)]


def honest(site: Site, order: Order, model: Vector) -> list[Answer]:
    return [site.answer(order, model)]


def silent(site: Site, order: Order, model: Vector) -> list[Answer]:
    return []


def refusing(code: RefusalCode) -> Deed:
    return lambda site, order, model: [Answer(refusal=code)]


class Killed(BaseException):
    """kill -9: no `except Exception` sees it, and nothing is written after it."""


@contextmanager
def killed_at(write: int, patch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The `write`-th change of the disk (from 0) does not happen, nor any later one; a log line is torn in its middle.

    Yields a one-element list with the number of changes so far. Nothing is really synced: the kernel outlives the process.
    """
    count, dead = [0], [False]

    def guard(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            if dead[0] or count[0] == write:
                if name == "pwrite" and not dead[0] and len(arguments[1]) != MARK_BYTES:  # type: ignore[arg-type] # the mark is one sector: whole or not
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])  # type: ignore[index, arg-type]
                dead[0] = True
                raise Killed
            count[0] += 1
            return None if name in ("fsync", "fdatasync") else real(*arguments, **options)

        return call

    with patch.context() as patched:
        for name in ("fsync", "fdatasync", "pwrite", "replace", "rename", "mkdir", "unlink"):
            patched.setattr(os, name, guard(name))
        yield count


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that lose no power: what the kernel has taken is enough. A module that imports this has it for each test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None)
