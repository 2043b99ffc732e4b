"""Our server and Flower's own, each as a real process with the same things inside: nodes, a run, and a message that waits for a node."""

import base64
import contextlib
import datetime
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrad_common import offline, processes  # noqa: F401 - first: Flower reads its switches at import

# isort: split
from asking import exchange, free_port, listens, request, until  # type: ignore[import-not-found] # beside this one
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, SendTaskHeartbeatRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import sign_message
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from fedrad_common.bundle import HASH, stub
from fedrad_common.chain import utc_now
from fedrad_common.identity import NodePublicKey, SigningKey
from fedrad_common.requests import sign_request
from fedrad_server.coordinator_toml import Settings
from fedrad_server.home import Home, Member

_TASK, _ACQUIRE = "flwr-serverapp", "/flwr.proto.Runtime/AcquireTask"
_LONG = 1800.0  # seconds between heartbeats, Flower's most: nothing expires while a benchmark looks


@dataclass
class Site:
    """A node's name and key, and how it signs: by Flower's headers, and by ours as well."""

    name: str
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP384R1()))
    number: int = 0  # Flower's

    @property
    def pem(self) -> bytes:
        return NodePublicKey(self.key.public_key()).pem.encode()

    def member(self) -> Member:
        return Member(envelope=SigningKey.generate().public.hex, node=self.pem.decode(), admitted="2026-01-01")

    def flower(self, *, ago: float = 0.0) -> dict[str, str]:
        stamp = (utc_now() - datetime.timedelta(seconds=ago)).isoformat()
        signature = base64.b64encode(sign_message(self.key, stamp.encode())).decode()
        return {"flwr-public-key": base64.b64encode(self.pem).decode(), "flwr-timestamp": stamp, "flwr-signature": signature}

    def ours(self, path: str, body: bytes, *, ago: float = 0.0, name: str | None = None) -> dict[str, str]:
        return sign_request(self.key, site=name or self.name, method="POST", path=path, body=body, now=time.time() - ago)

    def signs(self, path: str, body: bytes, *, ago: float = 0.0, name: str | None = None) -> dict[str, str]:
        return {**self.ours(path, body, ago=ago, name=name), **self.flower(ago=ago)}


@dataclass
class Place:
    """One server that runs, and how to reach it. `secret` and `token` are those of the coordinator's own programs."""

    home: Home
    database: Path
    process: "subprocess.Popen[bytes]"
    public: int  # port for everybody
    private: int  # the same one at the stock server
    token: str = ""
    secret: bytes = b""
    sites: dict[str, Site] = field(default_factory=lambda: {name: Site(name) for name in ("north", "south", "gone")})
    message: str = ""  # an order that waits for north
    flowing: Any = None  # the run that it is part of

    @property
    def stock(self) -> bool:
        return self.public == self.private

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.home.directory / "keys" / "authority.pem")

    def send(self, raw: bytes, *, private: bool = False) -> list[int]:
        secured = self.stock or not private
        found: list[int] = exchange(self.public if secured else self.private, self.tls if secured else None, raw)
        return found

    def client(self, kind: Any, *more: Any) -> Any:
        """One of Flower's own clients, as the coordinator's programs use it. To be closed."""
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI" if kind is ControlHttpClient else "flwr-serverapp")
        return kind.from_server_address(f"localhost:{self.private}", not self.stock, self._authority, [version, *more])

    def control(self) -> Any:
        return contextlib.closing(self.client(ControlHttpClient, *([_Bearer(self.token)] if self.token else [])))

    @property
    def _authority(self) -> bytes | None:
        return (self.home.directory / "keys" / "authority.pem").read_bytes() if self.stock else None

    def register(self, site: Site) -> None:
        with self.control() as control:
            site.number = int(control.RegisterNode(RegisterNodeRequest(public_key=site.pem, name=site.name)).node_id)

    def online(self, site: Site) -> bool:
        with self.control() as control:
            nodes = control.ListNodes(ListNodesRequest()).nodes_info
        return any(node.node_id == site.number and node.status == "online" for node in nodes)

    def furnish(self) -> None:
        """Register nodes, revoke one, start a run, and leave an order in it that waits for north."""
        self.home.save_members({name: site.member() for name, site in self.sites.items()})
        for site in self.sites.values():
            self.register(site)
            self.activate(site)
        with self.control() as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=self.sites["gone"].number))
        self.home.save_members({name: site.member() for name, site in self.sites.items() if name != "gone"})
        self.flowing = self.start(HASH, stub())
        self.order()

    def activate(self, site: Site) -> None:
        body = ActivateNodeRequest(public_key=site.pem, heartbeat_interval=_LONG).SerializeToString()
        path = "/v1/fleet/activate-node"
        status = self.send(request(path, body, site.signs(path, body)))
        if status != [200]:
            raise RuntimeError(f"{site.name} could not be activated: {status}")

    def order(self) -> None:
        """Leave another one for north."""
        self.message = self.flowing.tell(self.sites["north"].number)

    def start(self, digest: str, bundle: bytes) -> "Flowing":
        """Start a run with this bundle and claim its task, as whoever has token and secret can."""
        with self.control() as control:
            run = int(control.StartRun(StartRunRequest(fab=Fab(hash_str=digest, content=bundle))).run_id)
        methods = frozenset({_ACQUIRE})
        signature = [SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=methods)] if self.secret else []
        wanted = AcquireTaskRequest(supported_task_types=[_TASK], agentapp_fab_hashes=[])
        with contextlib.closing(self.client(RuntimeHttpClient, *signature)) as client:
            token = until(lambda: client.AcquireTask(wanted).token)
        return Flowing(run, HttpGrid(f"localhost:{self.private}", not self.stock, self._authority, token=token))


class Flowing:
    """A run of Flower's whose task is ours."""

    def __init__(self, number: int, grid: Any) -> None:
        self.number, self._grid = number, grid
        self._runtime = grid._runtime_client
        self._given = self._runtime.PullTaskInput(PullTaskInputRequest())
        grid.set_run(run_from_proto(self._given.run))

    def tell(self, node: int, content: RecordDict | None = None) -> str:
        """Leave a message for a node. Flower keeps who we are in the process."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self._given.task_id, self.number, self._given.context.node_id
        content = content or RecordDict({"order": ConfigRecord({"round": 1})})
        message = Message(content, dst_node_id=node, message_type="train", ttl=3600.0, group_id="1")
        return str(next(iter(self._grid.push_messages([message]))))

    def replied(self, message: str) -> Message | None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = self._given.task_id, self.number, self._given.context.node_id
        return next(iter(self._grid.pull_messages([message])), None)

    def beat(self) -> None:
        """Keep the task alive; its time is part of what is compared."""
        self._runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest())


class _Bearer:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Any) -> Any:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)


@contextlib.contextmanager
def guarded(folder: Path, settings: Settings | None = None) -> Iterator[Place]:
    """fedrad's: two sockets, each behind its guard."""
    home = Home.create(folder / "guarded", settings)
    with (folder / "guarded.log").open("wb") as log:
        where, words = str(home.directory), {"stdout": log, "stderr": log}
        process = processes.start("fedrad_server.superlink", where, environment=dict(os.environ), **words)
    try:
        until(lambda: home.superlink.ready_file.exists() or _dead(process, folder / "guarded.log"))
        files = home.superlink
        ports = files.serving
        yield Place(home, files.database, process, ports.public, ports.private, files.token, files.secret.encode())
    finally:
        processes.end(process, grace=5)


@contextlib.contextmanager
def stock(folder: Path, home: Home, *, isolation: str = "process", environment: dict[str, str] | None = None) -> Iterator[Place]:
    """`flower-superlink` at its best: TLS, node authentication, a database on disk. Certificate and key are those of `home`."""
    port, keys, database = free_port(), home.directory / "keys", folder / "stock.db"
    command = [
        str(Path(sys.executable).with_name("flower-superlink")), "--host", "127.0.0.1", "--port", str(port), "--isolation", isolation,
        "--ssl-certfile", str(keys / "server.pem"), "--ssl-keyfile", str(keys / "server.key"),
        "--ssl-ca-certfile", str(keys / "authority.pem"), "--enable-supernode-auth", "--database", str(database),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip
    surroundings = {**os.environ, "FLWR_HOME": str(folder / "flwr"), **(environment or {})}
    with (folder / "stock.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=surroundings, cwd=folder)
    try:
        until(lambda: listens(port) or _dead(process, folder / "stock.log"))
        yield Place(home, database, process, port, port)
    finally:
        processes.end(process, grace=5)


def _dead(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(log.read_text()[-3000:])
    return False
