"""Kills a site 200 times while it answers, and counts from outside what left: `python simulations/benchmarks/kill_loop.py`.

A child process opens the site, runs all of `answer` and sends what it says through a socket. It dies by SIGKILL: half of the times at a
moment drawn uniformly from an answer's duration, half at a drawn system call (before it, after it, or with a part of its line written).
Then the same order is answered undisturbed. The observer has the socket alone: distinct payloads are distinct events, and epsilon is
recomputed from what the envelopes say of their noise. After every death the ledger must say as much or more, as a whole and for every
round by itself, else the site is *below*: the bar is 0.

Two controls are sites with one bug each, caught by the same observer: one charges an answer after it has left, one makes a sealed answer
again with new noise and does not charge it.
"""

import argparse
import itertools
import mmap
import os
import random
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from answering_site import STEPS, Question, make_site, order, questions, work  # type: ignore[import-not-found] # beside this one
from observer import Observer, encode  # type: ignore[import-not-found] # beside this one

import fedrad_client.answer as path_of_an_answer
from fedrad_client.outbox import Outbox
from fedrad_client.privacy import ledger as ledgers
from fedrad_client.privacy.ledger import Ledger
from fedrad_client.site import Home, open_site
from fedrad_common.chain_format import MARK_BYTES
from fedrad_common.identity import SigningKey
from fedrad_common.records import Order

RUNS = 2  # at one site; then the next one begins
CALLS = ("open", "pwrite", "fdatasync", "fsync", "replace", "ftruncate", "close")
PHASES = ("verify", "reserve", "run_work", "seal", "release")  # functions of `answer`, in order
Bug = Callable[[], None]


def charge_after_release() -> None:
    """Bug of a control: what is reserved is written only once the answer has left."""
    real, late = Ledger.reserve_answer, list[Callable[[], int]]()

    def reserve_answer(self: Ledger, order: Order, **options: Any) -> int:
        late.append(lambda: real(self, order, **options))
        return 1

    def send(channel: socket.socket, content: bytes) -> None:
        channel.send(content)
        for reserve in late:
            reserve()

    Ledger.reserve_answer = reserve_answer  # type: ignore[method-assign]
    globals()["send"] = send


def new_noise_uncharged() -> None:
    """Bug of a control: the outbox is forgotten, and a repeated answer costs nothing."""
    refuse, charge = vars(path_of_an_answer)["refuse"], ledgers.training_charge
    replaced: dict[str, tuple[object, Callable[..., Any]]] = {
        "get": (Outbox, lambda self, question: None),
        "training_charge": (ledgers, lambda opening, plan, steps: charge(opening, plan, steps if steps > STEPS else 0)),
        "refuse": (path_of_an_answer, lambda reason: None if reason == "answered" else refuse(reason)),
    }
    for name, (owner, value) in replaced.items():
        setattr(owner, name, value)


BUGS: dict[str, Bug] = {
    "fedrad": lambda: None,
    "control: charged after release": charge_after_release,
    "control: new noise uncharged": new_noise_uncharged,
}


def send(channel: socket.socket, content: bytes) -> None:
    channel.send(content)


@dataclass(frozen=True)
class Doom:
    """At which system call, and how far into it."""

    call: int
    share: float  # of a write's bytes, or whether the call is made at all


def doomed(doom: Doom | None) -> list[int]:
    """Count the system calls that change the disk; die at one of them. The count is in the list."""
    count = [0]

    def deadly(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if doom is None or count[0] != doom.call:
                return real(*arguments, **options)
            if name == "pwrite" and len(arguments[1]) != MARK_BYTES:  # less than a sector is written whole or not at all
                real(arguments[0], arguments[1][: int(doom.share * len(arguments[1]))], arguments[2])
            elif doom.share > 0.5:
                real(*arguments, **options)
            return os.kill(os.getpid(), signal.SIGKILL)

        setattr(os, name, call)

    for name in CALLS:
        deadly(name)
    return count


@dataclass(frozen=True)
class Death:
    """How a child ended, and what it was doing."""

    phase: str
    calls: int  # that it had made, if it lived
    seconds: float
    killed: bool


@dataclass
class Rig:
    """One site that is killed, and the observer of its socket."""

    observer: Observer
    key: SigningKey
    bug: Bug

    def ask(self, question: Question, *, after: float | None = None, doom: Doom | None = None) -> Death:
        """One child, killed after so many seconds, at a system call, or not at all."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a message is sent whole or not at all
        phase = mmap.mmap(-1, 8)  # shared: count of calls, then the phase
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                self._child(question, theirs, phase, doom)
            os._exit(0)
        theirs.close()
        start = time.perf_counter()
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        seconds = time.perf_counter() - start
        while content := ours.recv(1 << 20):
            self.observer.see(content)
        ours.close()
        where = ("open", *PHASES, "send", "done")[phase[4]]
        return Death(where, int.from_bytes(phase[:4]), seconds, os.WIFSIGNALED(status))

    def _child(self, question: Question, channel: socket.socket, phase: mmap.mmap, doom: Doom | None) -> None:
        self.bug()
        for number, name in enumerate(PHASES):
            setattr(path_of_an_answer, name, _marking(phase, number + 1, getattr(path_of_an_answer, name)))
        count = doomed(doom)
        with open_site(self.observer.home.path) as site:
            given = path_of_an_answer.answer(site, order(question, self.key, self.observer.home.path), work=work)
            phase[4] = len(PHASES) + 1
            if given.envelope is not None and given.vector is not None:
                send(channel, encode(given.envelope, given.vector))
        phase[4] = len(PHASES) + 2
        phase[:4] = count[0].to_bytes(4)


def _marking(phase: mmap.mmap, number: int, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        phase[4] = number
        return real(*arguments, **options)

    return call


@dataclass
class Tally:
    below: int = 0
    left: int = 0  # distinct payloads that the observer saw
    phases: Counter[str] = field(default_factory=Counter)  # in which a death struck

    @property
    def kills(self) -> int:
        return self.phases.total()


def kill(template: Home, key: SigningKey, folder: Path, *, kills: int, bug: Bug, draw: random.Random) -> Tally:
    """Kill `kills` answers of copies of one site."""
    tally, asked, observers = Tally(), questions(RUNS), list[Observer]()

    def copy(name: str) -> Rig:
        shutil.copytree(template.path, folder / name)
        return Rig(Observer(Home(folder / name)), key, bug)

    calm = copy("calm")
    lived = [calm.ask(question) for question in asked]
    calls, seconds = max(death.calls for death in lived), statistics.median(death.seconds for death in lived)
    for number in itertools.count():
        if number % len(asked) == 0:
            rig = copy(f"site-{number}")
            observers.append(rig.observer)
        question = asked[number % len(asked)]
        if draw.random() < 0.5:
            death = rig.ask(question, after=draw.uniform(0, seconds))
        else:
            death = rig.ask(question, doom=Doom(draw.randint(1, calls), draw.random()))
        below = rig.observer.below()
        rig.ask(question)
        if death.killed:  # it may have been faster than the moment drawn
            tally.below += below or rig.observer.below()
            tally.phases[death.phase] += 1
        if tally.kills == kills:
            break
    tally.left = sum(len(payloads) for observer in observers for payloads in observer.seen.values())
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--control-kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the sites lie")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedrad-kill-", dir=options.folder) as name:
        folder, key = Path(name), SigningKey.generate()
        template = make_site(folder / "template", key)
        below: dict[str, int] = {}
        for who, bug in BUGS.items():
            (place := folder / str(len(below))).mkdir()
            kills = options.kills if who == "fedrad" else options.control_kills
            tally = kill(template, key, place, kills=kills, bug=bug, draw=random.Random(options.seed))
            below[who] = tally.below
            if tally.left < kills / 2:
                sys.exit(f"{who}: only {tally.left} payloads left the site: the observer had next to nothing to count")
            print(f"{who}: ledger below what left in {tally.below} of {tally.kills}")
            print(f"  {tally.left} distinct payloads left")
            print("  killed in " + " · ".join(f"{phase} {times}" for phase, times in tally.phases.most_common()))
    sys.exit(below["fedrad"] > 0)


if __name__ == "__main__":
    main()
