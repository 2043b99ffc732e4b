"""What 600 MB from a stranger costs the coordinator, beside Flower's stock server; and what a fleet of slow strangers does to a site.

Needs nothing but this machine's loopback: `python simulations/benchmarks/guard_body.py`. Exit code 1 when a bar is missed; which, stands
under "missed". One of them is the control: Flower's stock server does take it all, or nothing was measured.
"""

import argparse
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedrad_common import processes
from fedrad_server.home import Home

PATH = "/v1/fleet/push-object"
PIECE = b"x" * (1 << 20)
MOST_GROWTH = 64.0  # MB, by a body that nobody signed
MOST_CROWDED = 192.0  # MB, by 128 strangers, some of them in the middle of TLS
MOST_WAITING = 5.0  # seconds, for a site beside a crowd
Serve = Callable[[Path], AbstractContextManager[tuple[int, int, ssl.SSLContext | None]]]


def memory(pid: int, field: str = "VmHWM") -> int:
    """Bytes; the high-water mark by default."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


@contextmanager
def ours(folder: Path) -> Iterator[tuple[int, int, ssl.SSLContext]]:
    home = Home.create(folder / "home")
    with (folder / "ours.log").open("wb") as log:
        process = processes.start("fedrad_server.superlink", str(home.directory), environment=dict(os.environ), stdout=log, stderr=log)
    try:
        until(home.superlink.ready_file.exists)
        yield process.pid, home.superlink.serving.public, ssl.create_default_context(cafile=home.directory / "keys" / "authority.pem")
    finally:
        processes.end(process, grace=5)


@contextmanager
def stock(folder: Path) -> Iterator[tuple[int, int, None]]:
    """`flower-superlink` as it comes, without TLS: that is no part of the question."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("flower-superlink")
    command = [str(program), "--insecure", "--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    with (folder / "stock.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "FLWR_HOME": str(folder / "flwr")})
    try:
        until(lambda: listens(port))
        yield process.pid, port, None
    finally:
        processes.end(process, grace=5)


def send(port: int, tls: ssl.SSLContext | None, size: int, *, chunked: bool) -> tuple[int, bytes]:
    """(bytes that the kernel took, the answer's first line)."""
    how = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
    sent, answer = 0, b""
    with socket.create_connection(("localhost", port), timeout=60) as plain:
        line = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
        line.sendall(f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/protobuf\r\n{how}\r\n\r\n".encode())
        with suppress(OSError):
            while sent < size:
                line.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
                sent += len(PIECE)
            if chunked:
                line.sendall(b"0\r\n\r\n")
        with suppress(OSError):
            answer = line.recv(4096).partition(b"\r\n")[0]
        if line is not plain:
            line.close()
    return sent, answer


def measure(serve: Serve, folder: Path, size: int) -> dict[str, Any]:
    with serve(folder) as (pid, port, tls):
        before = memory(pid)
        found = {
            "announced": send(port, tls, size, chunked=False),
            "chunked": send(port, tls, size, chunked=True),
        }
        grown = memory(pid) - before
    took = {how: {"sent_mb": sent >> 20, "answer": answer.decode()} for how, (sent, answer) in found.items()}
    return {"grown_mb": round(grown / (1 << 20), 1), **took}


def crowded(folder: Path, strangers: int) -> dict[str, Any]:
    """Requests of an honest address while sixteen others open connections as fast as they can and say nothing."""
    with ours(folder) as (pid, port, tls):
        before, stop, held, opened = memory(pid), threading.Event(), list[socket.socket](), [0]

        def crowd() -> None:
            while not stop.is_set():
                with suppress(OSError):
                    source = (f"127.0.1.{1 + opened[0] % 16}", 0)
                    held.append(socket.create_connection(("127.0.0.1", port), timeout=5, source_address=source))
                    opened[0] += 1
                if len(held) > strangers:
                    held.pop(0).close()

        thread = threading.Thread(target=crowd)
        thread.start()
        times = []
        try:
            until(lambda: len(held) >= strangers)
            for _ in range(50):
                began = time.perf_counter()
                with suppress(OSError):
                    if healthy(port, tls):
                        times.append(time.perf_counter() - began)
        finally:
            stop.set()
            thread.join()
            for one in held:
                one.close()
        grown = memory(pid) - before
    return {
        "connections": opened[0], "answered": len(times), "of": 50, "slowest_s": round(max(times, default=0.0), 3),
        "grown_mb": round(grown / (1 << 20), 1),
    }  # fmt: skip


def healthy(port: int, tls: ssl.SSLContext) -> bool:
    with (
        socket.create_connection(("localhost", port), timeout=10) as plain,
        tls.wrap_socket(plain, server_hostname="localhost") as line,
    ):
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return line.recv(4096).startswith(b"HTTP/1.1 200")


def missed(found: dict[str, dict[str, Any]], megabytes: int) -> list[str]:
    """The bars that were not reached."""
    ours, stock, crowd = found["ours"], found["stock"], found["crowded"]
    bars = {
        "ours: memory": ours["grown_mb"] < MOST_GROWTH,
        "ours: refused before the end": all(ours[how]["sent_mb"] < megabytes / 2 for how in ("announced", "chunked")),
        "ours: answer": all("401" in ours[how]["answer"] or not ours[how]["answer"] for how in ("announced", "chunked")),
        "stock: reads it all": stock["grown_mb"] > megabytes / 2,
        "crowded: every request is answered": crowd["answered"] == crowd["of"],
        "crowded: wait": crowd["slowest_s"] < MOST_WAITING,
        "crowded: memory": crowd["grown_mb"] < MOST_CROWDED,
    }
    return [name for name, reached in bars.items() if not reached]


def until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--strangers", type=int, default=400)
    options = parser.parse_args()
    size = options.megabytes << 20
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        found = {
            "ours": measure(ours, Path(first), size),
            "stock": measure(stock, Path(first), size),
            "crowded": crowded(Path(second), options.strangers),
        }
    failed = missed(found, options.megabytes)
    print(json.dumps({**found, "missed": failed}, indent=2))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
