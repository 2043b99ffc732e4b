"""A network of two: a namespace for a site, joined to ours by a cable on which every frame is seen. Nothing of it outlives us."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

OURS, THEIRS, NOBODY = "10.99.0.1", "10.99.0.2", "10.99.0.9"
_NEEDED = ("ip", "nsenter", "unshare", "tc")
_INSIDE = "FEDRAD_OWN_NETWORK"
_ETH_ALL, _OUTGOING = 0x0003, 4
_ARP, _IP4, _TCP = 0x0806, 0x0800, 6


def missing() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if sys.platform != "linux" or os.geteuid():
        return "only root on Linux may make network namespaces"
    lacking = [name for name in _NEEDED if shutil.which(name) is None]
    if lacking:
        return f"{', '.join(lacking)}: not installed"
    made = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "network namespaces are forbidden here"


def enter() -> None:
    """Start this program anew in a network of its own, whose end ends the cable too. At once where it runs in one already."""
    if os.environ.get(_INSIDE):
        return
    os.environ[_INSIDE] = "1"
    os.execvp("unshare", ["unshare", "-n", "-m", sys.executable, *sys.argv])


@dataclass
class Site:
    """The site's side of the cable. It has a route to everywhere, through us, who forward nothing: what it sends elsewhere, we see."""

    folder: Path
    _holder: "subprocess.Popen[bytes] | None" = None

    def __enter__(self) -> Self:
        resolver = self.folder / "resolv.conf"
        resolver.write_text(f"nameserver {NOBODY}\n")
        script = f"mount --bind {resolver} /etc/resolv.conf; echo ready; exec sleep infinity"
        self._holder = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", script], stdout=subprocess.PIPE)
        assert self._holder.stdout
        self._holder.stdout.readline()
        for switch in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{switch}/disable_ipv6").write_text("1")
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", "c0", "type", "veth", "peer", "name", "s0", "netns", str(self._holder.pid))
        _do("ip", "addr", "add", f"{OURS}/24", "dev", "c0")
        _do("ip", "link", "set", "c0", "up")
        _do(*self.inside("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"))
        for words in ("link set lo up", f"addr add {THEIRS}/24 dev s0", "link set s0 up", f"route add default via {OURS}"):
            _do(*self.inside("ip", *words.split()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._holder
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout
        self._holder.stdout.close()

    def inside(self, *command: str) -> list[str]:
        assert self._holder
        return ["nsenter", "-t", str(self._holder.pid), "-n", "-m", *command]

    def unplug(self) -> None:
        _do(*self.inside("ip", "link", "set", "s0", "down"))

    def plug(self) -> None:
        _do(*self.inside("ip", "link", "set", "s0", "up"))
        subprocess.run(self.inside("ip", "route", "add", "default", "via", OURS), capture_output=True, check=False)

    def slow(self, rate: str) -> None:
        _do(*self.inside("tc", "qdisc", "replace", "dev", "s0", "root", "tbf", "rate", rate, "burst", "32kb", "latency", "400ms"))

    def fast(self) -> None:
        _do(*self.inside("tc", "qdisc", "del", "dev", "s0", "root"))


@dataclass
class Listener:
    """Counts the frames that come from the site: to the coordinator's port, and to anything else by what it was."""

    port: int
    coordinator: int = 0
    elsewhere: Counter[str] = field(default_factory=Counter)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_ALL))
        listening.bind(("c0", 0))
        listening.settimeout(0.1)
        self._thread = threading.Thread(target=self._listen, args=(listening,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._thread
        self._ended.set()
        self._thread.join()

    def _listen(self, listening: socket.socket) -> None:
        with listening:
            while not self._ended.is_set():
                try:
                    frame, sender = listening.recvfrom(65536)
                except TimeoutError:
                    continue
                if sender[2] != _OUTGOING:
                    self._count(frame)

    def _count(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        if kind == _ARP:
            wanted = socket.inet_ntoa(frame[38:42])
            if wanted not in (OURS, THEIRS):
                self.elsewhere[f"asks who has {wanted}"] += 1
        elif kind == _IP4:
            packet = frame[14:]
            transport = packet[4 * (packet[0] & 15) :]
            to, number, port = socket.inet_ntoa(packet[16:20]), packet[9], int.from_bytes(transport[2:4], "big")
            if (to, number, port) == (OURS, _TCP, self.port):
                self.coordinator += 1
            else:
                self.elsewhere[f"{to}, protocol {number}, port {port}"] += 1
        else:
            self.elsewhere[f"ethertype {kind:#06x}"] += 1


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
