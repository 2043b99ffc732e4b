"""A request's body: read whole within a size and a time, hashed on the way, handed on; and the short answers of a server that says no."""

import asyncio
import hashlib
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from fedrad_common.requests import REASON

CAP = 8 * 1024 * 1024  # bytes; Flower cuts vectors into pieces of 5 MiB
PATIENCE = 60.0  # seconds for the whole of it


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The request ends here, with this status. `reason` is one word, for a node that has shown who it is."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(status)
        self.status, self.reason = status, reason


class Gone(Exception):  # noqa: N818 - nobody is there to be answered
    """The sender went away in the middle of its body."""


@dataclass(frozen=True)
class Body:
    content: bytes
    digest: str  # SHA-256


def check_length(scope: Scope, cap: int) -> None:
    """Refuse a body that announces too much, before a byte of it is read."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > cap:
        raise Refused(413)


async def read_body(receive: Receive, *, cap: int = CAP, patience: float = PATIENCE) -> Body:
    """All of it; a chunked one names no length beforehand, so its bytes are counted.

    Raises:
        Refused: larger than the cap, or not complete in time. Gone: the sender went away.
    """
    content, digest, more = bytearray(), hashlib.sha256(), True
    try:
        async with asyncio.timeout(patience):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                piece = message.get("body", b"")
                if len(content) + len(piece) > cap:
                    raise Refused(413)
                content += piece
                digest.update(piece)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused(408) from None
    return Body(bytes(content), digest.hexdigest())


def replay(body: Body, receive: Receive) -> Receive:
    """What the application behind reads: the body in one piece, then whatever still comes (the sender's going away)."""
    pending: list[Message] = [{"type": "http.request", "body": body.content, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


async def refuse(send: Send, refused: Refused) -> None:
    """Nothing but a status; the connection ends, for its unread body is still on the way."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    if refused.reason:
        headers.append((REASON.encode(), refused.reason.encode()))
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, content: bytes) -> None:
    """A constant of ours, in JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
