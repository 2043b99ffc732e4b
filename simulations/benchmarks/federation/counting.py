"""A wire with a meter: passes TCP connections on to the coordinator's server and counts every byte, each way. TLS stays end to end."""

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_PIECE = 1 << 18


@dataclass
class Meter:
    """Bytes of TCP payload: TLS records, and so HTTP headers and signatures, included; TCP's and IP's own headers are not."""

    host: str
    port: int
    up: int = 0  # from the site
    down: int = 0  # to it

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, to_server, "up"), self._pass(server, writer, "down"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                setattr(self, way, getattr(self, way) + len(piece))
                writer.write(piece)
                await writer.drain()
        with suppress(OSError):
            writer.close()


class Meters:
    """One listening port of its own for each site, in a thread."""

    def __init__(self, host: str, port: int, *sites: str) -> None:
        self.of = {site: Meter(host, port) for site in sites}
        self.servers: dict[str, str] = {}  # HOST:PORT for each site
        self._loop, self._up, self._listening = asyncio.new_event_loop(), threading.Event(), list[asyncio.Server]()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        self._up.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._up.set()
        self._loop.run_forever()
        for server in self._listening:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> None:
        for site, meter in self.of.items():
            self._listening.append(await asyncio.start_server(meter.carry, "127.0.0.1", 0))
            self.servers[site] = f"127.0.0.1:{self._listening[-1].sockets[0].getsockname()[1]}"
