"""A wire between a node and its coordinator: records what passes, in plain text where TLS ends here, and fails in the ways networks do."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from servers import Place  # type: ignore[import-not-found] # beside this one

_PIECE = 1 << 16


@dataclass(frozen=True)
class Fault:
    """What happens to a connection. Counted over both ways together, from its first byte."""

    reset_after: int | None = None  # bytes, then it is reset
    truncate_after: int | None = None  # bytes, then it ends as if all had been said
    drop_after: int | None = None  # bytes, then nothing passes any more and nobody is told
    delay: float = 0.0  # seconds for each piece


NONE = Fault()


@dataclass
class Wire:
    """Listens on loopback for as long as its block lasts. Use from another thread: it has a loop of its own."""

    to: int
    accepts: ssl.SSLContext | None = None  # both or none: TLS ends here, and begins anew
    connects: ssl.SSLContext | None = None
    fault: Callable[[int], Fault] = lambda number: NONE  # of the n-th connection
    patience: float = 3.0  # seconds for which a dropped connection stays open
    port: int = 0
    passed: list[bytes] = field(default_factory=list)
    connections: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _open: "set[_Line]" = field(default_factory=set)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._thread
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def hang_up(self, fault: Callable[[int], Fault]) -> None:
        """Cut all connections; the next one is the first of a new count, and fails so."""
        done = threading.Event()

        def cut() -> None:
            self.fault, self.connections = fault, 0
            for line in self._open:
                line.abort()
            done.set()

        self._loop.call_soon_threadsafe(cut)
        done.wait()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0, ssl=self.accepts))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        line = _Line(self, self.fault(self.connections))
        try:
            name = "localhost" if self.connects else None
            server, to_server = await asyncio.open_connection("127.0.0.1", self.to, ssl=self.connects, server_hostname=name)
        except OSError:
            writer.close()
            return
        line.ends = (writer, to_server)
        self._open.add(line)
        try:
            await asyncio.gather(line.pass_on(reader, to_server), line.pass_on(server, writer))
        finally:
            self._open.discard(line)
            for end in line.ends:
                end.close()


def recorder(place: Place) -> Wire:
    """Ends TLS with the coordinator's own certificate: what it sees is what the coordinator's server sees."""
    keys = place.home.directory / "keys"
    accepts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepts.load_cert_chain(keys / "server.pem", keys / "server.key")
    return Wire(place.public, accepts, place.tls)


@dataclass(eq=False)
class _Line:
    wire: Wire
    fault: Fault
    ends: tuple[asyncio.StreamWriter, ...] = ()
    carried: int = 0  # bytes, both ways
    over: bool = False

    def abort(self) -> None:
        for end in self.ends:
            end.transport.abort()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError):
            while piece := await reader.read(_PIECE):
                self.carried += len(piece)
                if self.fault.delay:
                    await asyncio.sleep(self.fault.delay)
                if await self._fails(piece, writer):
                    return
                if self.wire.accepts:
                    self.wire.passed.append(piece)
                writer.write(piece)
                await writer.drain()
        if not self.over:
            with suppress(OSError, ssl.SSLError, RuntimeError):
                writer.close()

    async def _fails(self, piece: bytes, writer: asyncio.StreamWriter) -> bool:
        fault = self.fault
        if fault.reset_after is not None and self.carried > fault.reset_after:
            self.abort()
        elif fault.truncate_after is not None and self.carried > fault.truncate_after:
            with suppress(OSError):
                writer.write(piece[: max(1, len(piece) // 2)])
                await writer.drain()
            for end in self.ends:
                end.close()
        elif fault.drop_after is not None and self.carried > fault.drop_after:
            self.over = True
            await asyncio.sleep(self.wire.patience)
            self.abort()
        else:
            return False
        return True
