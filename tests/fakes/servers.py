"""What may answer at a coordinator's address, on loopback: a TLS server that says what a test wants, a proxy, and things that misbehave."""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclass
class Server:
    """Keeps what it was asked, and answers each request alike unless a test says otherwise."""

    port: int
    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def serving(
    certificate: Path | None, answer: Callable[[Asked], Reply] = lambda asked: (200, {}, b""), *, context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve HTTP over TLS; without a certificate, in plain text."""
    if certificate is not None:
        context = context or ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def _any(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, self.rfile.read(length))
            server.asked.append(asked)
            status, extra, body = server.answer(asked)
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _any  # noqa: N815 - http.server's names

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name in http.server
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a handshake that the client breaks off is what many tests are about

    with Quiet(("127.0.0.1", 0), Handler) as listening:
        server = Server(listening.server_address[1], answer)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


@contextmanager
def accepting(treat: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which every connection is treated so, each in turn, and then closed."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.is_set():
            with suppress(OSError):
                found, _ = listening.accept()
                with found:
                    treat(found)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ended.set()
            thread.join()


@contextmanager
def proxying(to: int, *, refuses: bytes = b"") -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that opens a tunnel to this port whatever name it is told, or refuses with a status line; yields what it was told."""
    told: list[bytes] = []

    def treat(client: socket.socket) -> None:
        client.settimeout(5)
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        told.append(head)
        if refuses:
            client.sendall(b"HTTP/1.1 " + refuses + b"\r\ncontent-length: 0\r\n\r\n")
            return
        client.sendall(b"HTTP/1.1 200 here you are\r\n\r\n")
        with socket.create_connection(("127.0.0.1", to)) as server:
            _pump(client, server)

    with accepting(treat) as port:
        yield port, told


def _pump(one: socket.socket, other: socket.socket) -> None:
    while True:
        for readable in select.select([one, other], [], [])[0]:
            content = readable.recv(65536)
            if not content:
                return
            (other if readable is one else one).sendall(content)


def free_port() -> int:
    """One at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
