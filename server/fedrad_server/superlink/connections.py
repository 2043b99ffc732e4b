"""The public socket's door: TLS with deadlines, and a bounded number of connections that admitted sites cannot be crowded out of.

A connection that has shown no admitted site's signature yet is a *stranger*. There are at most 128 of them (some 400 KB each), 16 from one
address; one more is let in all the same, and the longest-waiting stranger of the address that has most of them goes. So one address can
only push out itself, and whoever wants to keep a site out from many addresses must open 128 connections in the time that the site needs
for one handshake and one request, again and again. With its first signed request a connection becomes its site's: those are counted apart
(16 a site, the longest-unused goes), and no stranger pushes one out. A stranger that sends no request head within ten seconds is cut.
"""

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

STRANGERS, STRANGERS_EACH, EACH_SITE = 128, 16, 16
HANDSHAKE = 10.0  # seconds for TLS
HEAD = 10.0  # for a request's head, from its first byte or from the handshake
HEAD_BYTES = 16 * 1024
IDLE = 75  # between two requests; nodes ask every few seconds
_GOODBYE = 2.0  # for the other side to take note of the end
_FULL = 0.1  # pause when the process has no descriptor left; each that is open has a deadline


@dataclass(eq=False)
class Visitor:
    """One connection. `close` ends it at once, whatever it is doing."""

    address: str
    visitors: "Visitors"
    close: Callable[[], object]
    site: str = ""

    def recognise(self, site: str) -> None:
        """It carried this site's signature."""
        self.visitors.recognise(self, site)

    def leave(self) -> None:
        self.visitors.leave(self)


@dataclass
class Visitors:
    """All open connections of the public socket, oldest first in each group."""

    strangers: int = STRANGERS
    strangers_each: int = STRANGERS_EACH
    each_site: int = EACH_SITE
    _unknown: defaultdict[str, dict[Visitor, None]] = field(default_factory=lambda: defaultdict(dict))  # by address
    _known: defaultdict[str, dict[Visitor, None]] = field(default_factory=lambda: defaultdict(dict))  # by site

    def enter(self, host: str, close: Callable[[], object]) -> Visitor:
        address = network_of(host)
        if len(self._unknown[address]) >= self.strangers_each:
            self._push_out(self._unknown[address])
        elif sum(map(len, self._unknown.values())) >= self.strangers:
            self._push_out(max(self._unknown.values(), key=len))
        visitor = Visitor(address, self, close)
        self._unknown[address][visitor] = None
        return visitor

    def recognise(self, visitor: Visitor, site: str) -> None:
        if not self._is_open(visitor):
            return
        self.leave(visitor)
        if len(self._known[site]) >= self.each_site:
            self._push_out(self._known[site])
        visitor.site = site
        self._known[site][visitor] = None  # at the end: the one that was used last

    def leave(self, visitor: Visitor) -> None:
        for groups, name in ((self._unknown, visitor.address), (self._known, visitor.site)):
            if name in groups:
                groups[name].pop(visitor, None)
                if not groups[name]:
                    del groups[name]

    def count(self) -> int:
        return sum(map(len, self._unknown.values())) + sum(map(len, self._known.values()))

    def _is_open(self, visitor: Visitor) -> bool:
        return visitor in self._unknown.get(visitor.address, ()) or visitor in self._known.get(visitor.site, ())

    def _push_out(self, group: dict[Visitor, None]) -> None:
        oldest = next(iter(group))
        del group[oldest]
        oldest.close()


def network_of(host: str) -> str:
    """Whose connections count together: one IPv4 address, or one IPv6 network of 64 bits, which one machine may have to itself."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


class Conversation(H11Protocol):
    """uvicorn's HTTP over one connection, with a deadline for each request's head. h11 bounds the head's bytes."""

    def __init__(self, visitor: Visitor, **settings: Any) -> None:
        super().__init__(app_state={"visitor": visitor}, **settings)
        self.visitor = visitor
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self.visitor.close = transport.abort
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # in the middle of a head: uvicorn's own timer for an idle connection is off now
            self._expect_head()
        else:
            self._forget_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:  # the next head had begun before
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self.visitor.leave()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD, self.visitor.close)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@dataclass
class Door:
    """Accepts connections on a listening socket until `close`; counts each from its first packet, before TLS."""

    listening: socket.socket
    tls: ssl.SSLContext
    config: Config
    state: ServerState
    visitors: Visitors = field(default_factory=Visitors)
    handshake: float = HANDSHAKE
    _arriving: set[asyncio.Task[None]] = field(default_factory=set)
    _accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        self.listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Let nobody in any more; those who are in stay."""
        for task in (self._accepting, *self._arriving):
            if task is not None:
                task.cancel()
        self.listening.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(self.listening)
            except OSError:
                await asyncio.sleep(_FULL)
                continue
            task = loop.create_task(self._welcome(accepted, str(peer[0])))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _welcome(self, accepted: socket.socket, host: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        visitor = self.visitors.enter(host, task.cancel)
        make = functools.partial(Conversation, visitor, config=self.config, server_state=self.state)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                make, accepted, ssl=self.tls, ssl_handshake_timeout=self.handshake, ssl_shutdown_timeout=_GOODBYE
            )
        except (OSError, asyncio.CancelledError):  # no TLS, too slow, or pushed out
            accepted.close()
            visitor.leave()
