"""The coordinator's server: Flower's SuperLink behind two guarded sockets, in one process and one loop.

The *public* socket speaks TLS to the sites; the *private* one is plain, on 127.0.0.1, for the coordinator's own programs. Beside them run
the health service and what has to be done every few seconds: contacts, purge, certificate.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import uvicorn

from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.files import exclusive_lock, write_json
from fedrad_server.contacts import ContactBook
from fedrad_server.home import Home
from fedrad_server.log import say
from fedrad_server.superlink import times
from fedrad_server.superlink.certificate import ServerCertificate
from fedrad_server.superlink.connections import HEAD_BYTES, IDLE, Conversation, Door
from fedrad_server.superlink.files import READY_FORMAT, SuperLinkFiles
from fedrad_server.superlink.flower import Flower, build
from fedrad_server.superlink.guard import PrivateGuard, PublicGuard
from fedrad_server.superlink.health import serve_health
from fedrad_server.superlink.roster import NodeKeys
from fedrad_server.superlink.times import SignedTimes

_LOOPBACK = "127.0.0.1"
_GRACE = 3  # seconds for open requests at the end
_TICK, _PURGE, _RENEW = 1.0, 5.0, 60.0  # seconds between two of: contacts and the loop's sign of life, purges, looks at the certificate
_STUCK = 10.0  # seconds without a turn of the loop after which the health service says so


@dataclass
class _Sockets:
    public: socket.socket
    private: socket.socket

    @property
    def ports(self) -> dict[str, int]:
        return {"public": self.public.getsockname()[1], "private": self.private.getsockname()[1]}


@dataclass
class _Life:
    """Whether the server is well, for the health service's own threads."""

    listening: bool = False
    turned: float = field(default_factory=time.monotonic)

    def is_serving(self) -> bool:
        return self.listening and time.monotonic() - self.turned < _STUCK


class _Server(uvicorn.Server):
    """One of two in this process: whoever started both ends both."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override] # uvicorn's would fight over them
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()


def run_superlink(home: Path, *, host: str, port: int = 0) -> None:
    """Serve in the foreground until SIGTERM or SIGINT.

    Args:
        home: the coordinator's.
        host: of the public socket.
        port: of the public socket; 0 takes the former one, or a free one the first time. Sites know it, so a restart keeps it.

    Raises:
        FedradError: a port is taken, the certificate is missing, or another server runs on this home.
    """
    # A dozen threads give up the interpreter's lock at each look into the database, and each time would wait 5 ms for the loop's thread to
    # give it back: with this, a round of 3 × 44 MB takes half as long.
    sys.setswitchinterval(0.0005)
    os.umask(0o077)  # state.db and the objects beside it hold every site's updates until they are purged
    for name in ("flwr", "httpx", "httpcore", "sqlalchemy"):  # would quote the other side's words, and values of the database
        logging.getLogger(name).setLevel(logging.CRITICAL)
    files = Home.open(home).superlink
    files.prepare()
    with exclusive_lock(files.folder / "lock", what="the coordinator's server"):
        certificate = ServerCertificate(home)
        former = files.ports
        sockets = _Sockets(_listen(host, port or (former.public if former else 0)), _listen_inside(former.private if former else 0))
        write_json(files.ports_file, {"format": READY_FORMAT, **sockets.ports})
        try:
            asyncio.run(_serve(home, files, certificate, sockets, host))
        finally:
            files.ready_file.unlink(missing_ok=True)


async def _serve(home: Path, files: SuperLinkFiles, certificate: ServerCertificate, sockets: _Sockets, host: str) -> None:
    flower, keys, contacts, life = build(files), NodeKeys(Home(home)), ContactBook(files.folder), _Life()
    private = _Server(uvicorn.Config(PrivateGuard(flower.app), lifespan="on", **_settings()))
    guard = PublicGuard(flower.app, keys.current, contacts.note, SignedTimes(files.folder / times.FILE, time.time()))
    public = _Server(
        uvicorn.Config(
            guard, http=Conversation, lifespan="off", timeout_keep_alive=IDLE, h11_max_incomplete_event_size=HEAD_BYTES, **_settings()
        )
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    tasks = [asyncio.create_task(private.serve(sockets=[sockets.private]))]
    await _started(private, tasks[0])
    tasks.append(asyncio.create_task(public.serve(sockets=[])))
    await public.up.wait()
    door = Door(sockets.public, certificate.context, public.config, public.server_state)
    door.open()
    upkeep = [asyncio.create_task(one) for one in _upkeep(flower, keys, contacts, certificate, life)]
    health, health_port = serve_health(life.is_serving)
    life.listening = True
    facts = {"format": READY_FORMAT, "host": host, **sockets.ports, "health": health_port, "pid": os.getpid()}
    write_json(files.ready_file, facts)
    say(f"server: sites connect to {host}:{facts['public']}")
    await _first(ended.wait(), asyncio.shield(tasks[0]))
    life.listening = False
    files.ready_file.unlink(missing_ok=True)
    for task in upkeep:
        task.cancel()
    door.close()
    public.should_exit = private.should_exit = True
    health.stop(None)
    await asyncio.gather(*tasks)
    contacts.flush(keys.current())


def _upkeep(
    flower: Flower, keys: NodeKeys, contacts: ContactBook, certificate: ServerCertificate, life: _Life
) -> list[Coroutine[Any, Any, None]]:
    async def turn() -> None:
        life.turned = time.monotonic()
        await asyncio.to_thread(contacts.flush, keys.current())

    return [
        _every(_TICK, turn, what="contacts"),
        _every(_PURGE, lambda: asyncio.to_thread(flower.purge), what="purge"),
        _every(_RENEW, lambda: asyncio.to_thread(certificate.renew), what="certificate"),
    ]


async def _every(seconds: float, act: Callable[[], Awaitable[None]], *, what: str) -> None:
    """Again and again. What fails is said once, until it goes well again: a full disk or a busy database passes."""
    said = ""
    while True:
        try:
            await act()
            said = ""
        except Exception as error:  # a code: its text may hold values of the database
            code = str(error) if isinstance(error, FedradError) else type(error).__name__
            if code != said:
                say(f"server: {what}: {code}")
            said = code
        await asyncio.sleep(seconds)


async def _started(server: _Server, serving: "asyncio.Task[None]") -> None:
    await _first(server.up.wait(), asyncio.shield(serving))
    if not server.started:
        raise FedradError("the coordinator's server: Flower's application does not start", hint="its own words stand above this line")


async def _first(*waits: Any) -> None:
    """Until one of them is done; the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _settings() -> dict[str, Any]:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # what strangers send is no news
    return {
        "log_config": None, "access_log": False, "proxy_headers": False, "workers": 1, "ws": "none", "server_header": False,
        "timeout_graceful_shutdown": _GRACE,
    }  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        hint = "stop the other program, or change `listen` in coordinator.toml"
        raise MisuseError(f"{host}:{port}: cannot be listened on ({type(error).__name__})", hint=hint) from None
    return listening


def _listen_inside(former: int) -> socket.socket:
    """On the former private port where it is free, so that a player finds a restarted server; else on another, which ready.json names."""
    try:
        return _listen(_LOOPBACK, former)
    except MisuseError:
        return _listen(_LOOPBACK, 0)
