"""Requests byte by byte, as no well-behaved client would write them; and waiting for what a process does."""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any


def request(
    path: str, body: bytes, headers: dict[str, str] | None = None, *, framing: str | None = None, method: str = "POST", last: bool = True
) -> bytes:
    """A request's bytes. `framing`: the header lines that say how long the body is; `last`: the connection ends after it."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "content-type: application/protobuf"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    lines += [framing if framing is not None else f"content-length: {len(body)}"]
    lines += ["connection: close"] if last else []
    return "\r\n".join(line for line in lines if line).encode("latin-1") + b"\r\n\r\n" + body


def exchange(port: int, tls: ssl.SSLContext | None, raw: bytes, *, patience: float = 5.0) -> list[int]:
    """Every status that comes back over one connection; a stream of answers is not followed."""
    with socket.create_connection(("localhost", port), timeout=patience) as plain:
        line = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        found = b""
        with contextlib.suppress(OSError):
            line.sendall(raw)
            while piece := line.recv(65536):
                found += piece
                if b"text/event-stream" in found or b"protobuf-stream" in found:
                    break
        if tls:
            line.close()
    return [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def until(condition: Callable[[], Any], *, seconds: float = 90.0, what: str = "something") -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen in {seconds:g} s")
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
