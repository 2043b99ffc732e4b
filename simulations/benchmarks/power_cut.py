"""Cuts the power of a site's disk while it answers, and looks at what is left: `sudo python simulations/benchmarks/power_cut.py`.

The site lies on an ext4 image that is mounted through a loop device. A child process answers order after order; every append that
returned, and every answer, is reported through a socket. At a drawn moment the power goes, in one of two ways. *shutdown*: the file
system is stopped as xfstests stops it (EXT4_IOC_SHUTDOWN without a flush: what was not synced is gone, in the middle of whatever the
kernel was doing), and mounted again. *copy*: the image file is copied between two system calls, and the copy is mounted. The journal is
replayed, then the site is opened: each acknowledged entry must be there, and the ledger must have paid for every answer that left.

The control is the same site on which syncing does nothing. Then a tmpfs of 64 kB that fills up, and a disk that turns read-only while the
site works: nothing may leave. Needs root; leaves no mount behind.
"""

import argparse
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from answering_site import Question, make_site, order, questions, work  # type: ignore[import-not-found] # beside this one
from observer import Observer, encode  # type: ignore[import-not-found] # beside this one

from fedrad_client.answer import answer
from fedrad_client.site import Home, open_site
from fedrad_client.work import Job
from fedrad_common.chain import Chain, Entry
from fedrad_common.errors import DiskError, FedradError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector

SHUTDOWN, WITHOUT_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
IMAGE_BYTES = 8 << 20
RUNS = 3
ACKNOWLEDGED, ANSWER, REFUSAL, WORKING = b"+", b"a", b"r", b"w"  # first byte of a message


@contextlib.contextmanager
def mounted(source: str, place: Path, *options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, source, str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def new_image(path: Path, key: SigningKey, place: Path) -> Home:
    """An ext4 image with a site on it, unmounted. Returns the site as it will lie once the image is mounted at `place`."""
    with path.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    with mounted(str(path), place, "-o", "loop"):
        home: Home = make_site(place / "north", key)
    return home


class Writer:
    """A child process that answers order after order until it is killed, and what it reported."""

    def __init__(self, home: Home, key: SigningKey, *, syncing: bool = True, pausing: bool = False, asked: list[Question]) -> None:
        self.home, self.key, self.pausing, self.asked = home, key, pausing, asked
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # a message is sent whole or not at all
        self.alive, self.pid = True, os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                self._answer(theirs, syncing=syncing)
            os._exit(0)
        theirs.close()

    def _answer(self, channel: socket.socket, *, syncing: bool) -> None:
        real = Chain.append

        def append(chain: Chain, type: str, body: dict[str, object]) -> Entry:  # noqa: A002 - as Chain's
            entry = real(chain, type, body)
            channel.send(ACKNOWLEDGED + f"{chain.path.name} {entry.hash}".encode())
            return entry

        def paused(job: Job, model: Vector) -> Vector:
            channel.send(WORKING)
            channel.recv(1)
            return work(job, model)  # type: ignore[no-any-return] # beside this one

        Chain.append = append  # type: ignore[assignment, method-assign]
        if not syncing:
            for name in ("fsync", "fdatasync"):
                setattr(os, name, lambda descriptor: None)
        for question in self.asked:
            try:
                with open_site(self.home.path) as site:
                    given = answer(site, order(question, self.key, self.home.path), work=paused if self.pausing else work)
            except DiskError:
                channel.send(REFUSAL + b"not opened")
                continue
            if given.envelope is None or given.vector is None:
                channel.send(REFUSAL + str(given.refusal).encode())
            else:
                channel.send(ANSWER + encode(given.envelope, given.vector))

    def kill(self) -> None:
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Between two system calls, or at its end."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        yield
        self.alive = os.WIFSTOPPED(status)
        if self.alive:
            os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> None:
        os.waitpid(self.pid, 0)

    def reports(self) -> list[bytes]:
        """All that it said and nobody has read yet."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while message := self.channel.recv(1 << 20, socket.MSG_DONTWAIT):
                found.append(message)
        return found


@dataclass
class Findings:
    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0  # entries that were acknowledged and are gone, or whose log does not open any more
    below: int = 0  # cuts after which the ledger says less than what left
    entries: list[int] = field(default_factory=list)  # how far the site was at each cut

    def __str__(self) -> str:
        return f"{self.lost} of {self.acknowledged} acknowledged entries lost, ledger below what left in {self.below} of {self.cuts} cuts"


def examine(home: Home, reports: list[bytes], findings: Findings) -> None:
    """Open what the power cut has left, and compare it with what was reported before."""
    observer, said = Observer(home), [message[1:] for message in reports if message[:1] == ACKNOWLEDGED]
    try:
        with open_site(home.path) as site:
            held = {f"{chain.path.name} {entry.hash}" for chain in (site.ledger.chain, site.audit) for entry in chain.entries}
    except FedradError:
        held = set()
    for message in reports:
        if message[:1] == ANSWER:
            observer.see(message[1:])
    findings.cuts += 1
    findings.acknowledged += len(said)
    findings.lost += sum(message.decode() not in held for message in said)
    findings.below += observer.below()
    findings.entries.append(len(said))


def shutdown(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_FLUSH))
    os.close(descriptor)


def cut_by_shutdown(image: Path, place: Path, home: Home, key: SigningKey, *, after: float, syncing: bool, findings: Findings) -> None:
    with mounted(str(image), place, "-o", "loop"):
        writer = Writer(home, key, syncing=syncing, asked=questions(RUNS))
        time.sleep(after)
        shutdown(place)
        writer.kill()
    with mounted(str(image), place, "-o", "loop"):
        examine(home, writer.reports(), findings)


def cut_by_copy(image: Path, place: Path, home: Home, key: SigningKey, *, after: list[float], syncing: bool, findings: Findings) -> None:
    """Several copies of one writer's image."""
    copies = []
    with mounted(str(image), place, "-o", "loop"):
        writer, reports = Writer(home, key, syncing=syncing, asked=questions(RUNS)), list[bytes]()
        for number, seconds in enumerate(after):
            time.sleep(seconds)
            with writer.stopped():
                reports += writer.reports()
                copies.append((shutil.copy(image, image.with_name(f"copy-{number}")), list(reports)))
            if not writer.alive:
                break
        writer.kill()
    for copy, known in copies:
        with mounted(str(copy), place, "-o", "loop"):
            examine(home, known, findings)


def cuts(folder: Path, n: int, *, syncing: bool, draw: random.Random) -> dict[str, Findings]:
    image, place, key = folder / "image", folder / "mounted", SigningKey.generate()
    home = new_image(image, key, place)
    fresh = shutil.copy(image, folder / "fresh")
    with mounted(str(image), place, "-o", "loop"):
        start = time.perf_counter()
        Writer(home, key, asked=questions(RUNS)).wait()
        duration = time.perf_counter() - start
    found = {"shutdown": Findings(), "copy": Findings()}
    for _ in range((n + 1) // 2):
        shutil.copy(fresh, image)
        cut_by_shutdown(image, place, home, key, after=draw.uniform(0, 1.5 * duration), syncing=syncing, findings=found["shutdown"])
    while (left := n // 2 - found["copy"].cuts) > 0:
        shutil.copy(fresh, image)
        after = [draw.uniform(0, duration / 2) for _ in range(min(left, 4))]
        cut_by_copy(image, place, home, key, after=after, syncing=syncing, findings=found["copy"])
    return found


def full_disk(folder: Path) -> tuple[Counter[str], bool]:
    """Answers until a tmpfs of 64 kB is full, and beyond. Returns how often which reply was given, and whether the ledger is below."""
    key = SigningKey.generate()
    with mounted("tmpfs", folder / "small", "-t", "tmpfs", "-o", "size=64k") as small:
        home = make_site(small / "north", key)
        writer = Writer(home, key, asked=questions(RUNS) * 2)
        writer.wait()
        return _replies(home, writer.reports())


def read_only(folder: Path) -> tuple[Counter[str], bool]:
    """The disk turns read-only while the site works on its first order; three more come. Returns as `full_disk` does."""
    image, place, key = folder / "image", folder / "mounted", SigningKey.generate()
    home = new_image(image, key, place)
    with mounted(str(image), place, "-o", "loop,errors=remount-ro"):
        writer = Writer(home, key, asked=questions(RUNS)[:4], pausing=True)
        while (message := writer.channel.recv(1 << 20)) != WORKING:
            if not message:
                raise RuntimeError("the site ended before it worked")
        subprocess.run(["mount", "-o", "remount,abort", str(place)], check=True)  # as ext4 does on an error, files open or not
        writer.channel.send(b"!")
        writer.wait()
        return _replies(home, writer.reports())


def _replies(home: Home, reports: list[bytes]) -> tuple[Counter[str], bool]:
    observer, replies = Observer(home), Counter[str]()
    for message in reports:
        if message[:1] == ANSWER:
            observer.see(message[1:])
            replies["answered"] += 1
        elif message[:1] == REFUSAL:
            replies[message[1:].decode()] += 1
    return replies, observer.below()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--control-cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where images lie and are mounted")
    options = parser.parse_args()
    bad = False
    for who, n in (("fedrad", options.cuts), ("control: no sync", options.control_cuts)):
        with tempfile.TemporaryDirectory(prefix="fedrad-power-", dir=options.folder) as name:
            found = cuts(Path(name), n, syncing=who == "fedrad", draw=random.Random(options.seed))
        for way, findings in found.items():
            print(f"{who}, {way}: {findings}; {min(findings.entries)} to {max(findings.entries)} entries at the cut")
            bad |= who == "fedrad" and findings.lost + findings.below > 0
    for what, happens in (("tmpfs of 64 kB", full_disk), ("read-only in the middle", read_only)):
        with tempfile.TemporaryDirectory(prefix="fedrad-power-", dir=options.folder) as name:
            replies, below = happens(Path(name))
        print(f"{what}: " + ", ".join(f"{reply} {times}" for reply, times in sorted(replies.items())) + f"; ledger below: {below}")
        bad |= below
    sys.exit(bad)


if __name__ == "__main__":
    main()
