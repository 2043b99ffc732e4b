"""The outermost layer of both sockets: who may ask Flower's server what, decided before a byte of the body is read.

The *public* socket lets the eight Fleet calls of our node through, each signed by an admitted site's key, and answers `/health` itself.
The *private* one, on loopback, serves Control, which asks for our bearer token, and Runtime, which has Flower's own secret and task tokens.
Each socket has its own application: which one a request came through is known by construction, never from an address that a proxy changes.
"""

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from fedrad_common import __version__
from fedrad_common.canonical import canonical_json
from fedrad_common.errors import DiskError, FormatError
from fedrad_common.identity import NodePublicKey
from fedrad_common.requests import WINDOW, Claim, read_claim
from fedrad_server.superlink.bodies import CAP, PATIENCE, Gone, Refused, answer, check_length, read_body, refuse, replay
from fedrad_server.superlink.bounds import MOST_PER_ANSWER, PUSHING
from fedrad_server.superlink.nonces import Nonces
from fedrad_server.superlink.times import SignedTimes

FLEET = "/v1/fleet/"
CALLS = (  # what our node asks; Flower's others (bundles of code, a node's registration of itself) are nobody's
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "pull-object", "push-object",
    "confirm-message-received",
)  # fmt: skip
HEALTH = canonical_json({"format": "fedrad-health-1", "version": __version__})
_PIECE = FLEET + "push-object"
_MOST_OTHER = 256 * 1024  # bytes of any other request; the largest names the pieces of an answer
_AT_ONCE = 4  # requests of one site that are worked on; Flower's client pushes two pieces at a time
_PRIVATE = ("/v1/control/", "/v1/runtime/")
_FLOWER_KEY = "flwr-public-key"
_PATHS = frozenset(FLEET + call for call in CALLS)


class Peer(Protocol):
    """The connection that a request came through, as far as the guard cares."""

    def recognise(self, site: str) -> None: ...


@dataclass
class PublicGuard:
    """Admitted, signed, fresh, for the first time, and by the key that Flower knows: only then the body is read."""

    app: ASGIApp
    admitted: Callable[[], Mapping[str, NodePublicKey]]
    note: Callable[[str, float], None]  # a site was heard, at this time
    times: SignedTimes
    clock: Callable[[], float] = time.time
    cap: int = CAP
    patience: float = PATIENCE
    nonces: Nonces = field(default_factory=lambda: Nonces(WINDOW))
    _turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    _pushed: dict[str, int] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return None
        try:
            if scope["path"] == "/health" and scope["method"] == "GET":
                return await answer(send, HEALTH)
            claim = self._claim(scope)
            if scope["path"] not in _PATHS or scope["method"] != "POST":
                raise Refused(404)
            peer: Peer | None = scope.get("state", {}).get("visitor")
            if peer is not None:
                peer.recognise(claim.site)
            cap = self.cap if scope["path"] == _PIECE else min(self.cap, _MOST_OTHER)
            check_length(scope, cap)
            async with self._turns.setdefault(claim.site, asyncio.Semaphore(_AT_ONCE)):
                await self._reserve(claim)
                body = await read_body(receive, cap=cap, patience=self.patience)
                if body.digest != claim.digest:
                    raise Refused(401, "digest")
                self._count(claim.site, scope["path"], len(body.content))
                PUSHING.set(claim.site)
                return await self.app({**scope, "state": {}}, replay(body, receive), send)
        except Refused as refused:
            return await refuse(send, refused)
        except Gone:
            return None

    def _claim(self, scope: Scope) -> Claim:
        """Whose request this is. Raises Refused; the reason is told only to who holds an admitted key."""
        path = str(scope["path"])
        # The raw path too: an escaped spelling of a path, or a query, is not what the node signed.
        if not path.startswith(FLEET) or scope["raw_path"] != path.encode() or scope["query_string"]:
            raise Refused(404)
        headers = _headers(scope)
        try:
            claim = read_claim(headers)
            node = self.admitted().get(claim.site)
            if node is None:
                raise Refused(401)
            claim.verify(node.key, scope["method"], path)
        except FormatError:
            raise Refused(401) from None
        now, signed_at = self.clock(), claim.milliseconds / 1000
        if abs(now - signed_at) > WINDOW:
            raise Refused(401, "clock")
        if self.times.is_old(claim.site, signed_at):
            raise Refused(503, "restarted")  # which nonces were used before is forgotten; a retry is signed anew
        if _flower_key(headers) != node.pem.encode():
            raise Refused(401, "key")
        if not self.nonces.take(claim.site, claim.nonce, signed_at=signed_at, now=now):
            raise Refused(401, "replay")
        self.note(claim.site, now)
        return claim

    async def _reserve(self, claim: Claim) -> None:
        try:
            await self.times.reserve(claim.site, claim.milliseconds / 1000)
        except DiskError:
            raise Refused(503) from None

    def _count(self, site: str, path: str, length: int) -> None:
        if path == FLEET + "push-messages":
            self._pushed[site] = 0
        elif path == _PIECE:
            self._pushed[site] = self._pushed.get(site, 0) + length
            if self._pushed[site] > MOST_PER_ANSWER:
                raise Refused(413, "answer")


@dataclass
class PrivateGuard:
    """Control and Runtime for the coordinator's own programs; a body is bounded here as well."""

    app: ASGIApp
    cap: int = CAP
    patience: float = PATIENCE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        try:
            if not str(scope["path"]).startswith(_PRIVATE):
                raise Refused(404)
            check_length(scope, self.cap)
            body = await read_body(receive, cap=self.cap, patience=self.patience)
            return await self.app(scope, replay(body, receive), send)
        except Refused as refused:
            return await refuse(send, refused)
        except Gone:
            return None


def _headers(scope: Scope) -> dict[str, str]:
    """Those that decide, by name. One that comes twice could mean one thing to us and another to Flower."""
    found: dict[str, str] = {}
    for raw_name, value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name.startswith(("x-fedrad-", "flwr-")):
            if name in found:
                raise Refused(401)
            found[name] = value.decode("latin-1")
    return found


def _flower_key(headers: Mapping[str, str]) -> bytes:
    try:
        return base64.b64decode(headers.get(_FLOWER_KEY, ""), validate=True)
    except (binascii.Error, ValueError):
        return b""
