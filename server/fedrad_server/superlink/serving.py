"""Flower's SuperLink in our own process, behind a guard: from outside only the sites' Fleet calls, everything else with a token.

Two sockets, one server. The *public* one lets `/v1/fleet/*` and `/health` through and answers everything else with 404 (Flower's clients
read 403 as "the run has ended"). The *private* one serves Control, which asks for our bearer token, and Runtime, which has Flower's own
secret and task tokens. A request's socket decides, never its peer's address, which a proxy would change.
"""

import asyncio
import hmac
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_common import offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import uvicorn
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TRANSPORT_TYPE_GRPC_RERE
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.superlink import extensions
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedrad_common.errors import MisuseError
from fedrad_common.files import write_json
from fedrad_server.superlink.files import READY_FORMAT, SuperLinkFiles

BODY_CAP = 8 * 1024 * 1024  # bytes; Flower cuts vectors into pieces of 5 MiB
_WARNING = 30  # of Python's log levels
_GRACE = 3  # seconds for open requests at the end


@dataclass
class Guard:
    """The outermost layer: sees a request before anything of Flower does, and reads no body beyond the cap."""

    app: ASGIApp
    private_port: int
    cap: int = BODY_CAP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        path, private = str(scope["path"]), scope["server"][1] == self.private_port
        if not private and not path.startswith("/v1/fleet/") and path != "/health":
            return await _refuse(send, 404)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.cap:
            return await _refuse(send, 413)
        body = await self._body(receive)
        if body is None:
            return await _refuse(send, 413)
        return await self.app(scope, _replay(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it; None when it is larger than the cap (a chunked one names no length beforehand) or its sender is gone."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.cap:
                return None
        return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


async def _refuse(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


class TokenPlugin(NoOpControlAuthnPlugin):  # type: ignore[misc] # Flower's own extension point
    """Control asks for our bearer token; Flower's open-source default lets everybody in."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def validate_tokens_in_metadata(self, metadata: Sequence[tuple[str, str | bytes]]) -> tuple[bool, Any]:
        given = dict(metadata).get(ACCESS_TOKEN_KEY, "")
        given = given.encode() if isinstance(given, str) else given
        if not self._token or not hmac.compare_digest(given, self._token):
            return False, None
        return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, ready: Path, facts: dict[str, Any]) -> None:
        super().__init__(config)
        self.ready, self.facts = ready, facts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            write_json(self.ready, self.facts)
            sys.stderr.write(f"sites connect to {self.facts['host']}:{self.facts['public']}\n")
            sys.stderr.flush()


def run_superlink(folder: Path, *, host: str, port: int = 0) -> None:
    """Serve in the foreground until SIGTERM or SIGINT.

    Args:
        folder: of the server's own files; state.db there outlives a restart.
        host: a loopback address.
        port: of the public socket; 0 takes the former one, or a free one the first time. Sites know it, so a restart keeps it.

    Raises:
        FedradError: a port is taken.
    """
    os.umask(0o077)  # state.db holds every site's updates until they are purged
    files = SuperLinkFiles(folder)
    files.prepare()
    former = files.ports
    public = _listen(host, port or (former.public if former else 0))
    private = _listen(host, former.private if former else 0)
    ports = {"public": public.getsockname()[1], "private": private.getsockname()[1]}
    write_json(files.ports_file, {"format": READY_FORMAT, **ports})
    config = uvicorn.Config(
        build(files, private_port=ports["private"]), log_config=get_uvicorn_log_config(_WARNING), access_log=False, proxy_headers=False,
        workers=1, ws="none", timeout_graceful_shutdown=_GRACE, server_header=False,
    )  # fmt: skip
    server = _Server(config, files.ready_file, {"format": READY_FORMAT, "host": host, **ports, "pid": os.getpid()})
    try:
        asyncio.run(server.serve(sockets=[public, private]))
    finally:
        files.ready_file.unlink(missing_ok=True)


def build(files: SuperLinkFiles, *, private_port: int) -> ASGIApp:
    """Flower's application with our guard around it and our token in it."""
    config = SuperLinkLifespanConfig(
        control_address="", health_server_address=None, host="127.0.0.1", port=private_port, insecure=True, certificates=None,
        superexec_auth_secret=files.secret.encode(), authn_plugin=TokenPlugin(files.token), event_log_plugin=None,
        fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None, enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE, fleet_api_address=None, simulation=False, ssl_ca_certfile=None, ssl_certfile=None,
        ssl_keyfile=None, database=str(files.database), isolation="process", runtime_dependency_install=False,
    )  # fmt: skip
    former = extensions.get_middleware
    extensions.get_middleware = lambda: (Middleware(Guard, private_port=private_port),)
    try:
        app = create_app(config, SuperLinkLifespan)
    finally:
        extensions.get_middleware = former
    app.openapi_url = None
    return app  # type: ignore[no-any-return]


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        raise MisuseError(f"{host}:{port}: another program listens there", hint="stop it, or start with another --port") from None
    listening.listen(128)
    return listening
