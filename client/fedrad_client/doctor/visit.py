"""What a visit at the coordinator's door tells: how far it came, and the server's clock, version and certificate.

It goes the node's own way (`node/connection`), with its authority and its proxy, and words what fails as the node does.
"""

import contextlib
import email.utils
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedrad_client.config import Coordinator
from fedrad_client.doctor.faults import Finding, fault
from fedrad_client.node.troubles import Trouble
from fedrad_common.errors import FedradError, MisuseError

if TYPE_CHECKING:
    import httpx

    from fedrad_client.node.connection import Route

Stage = Literal["address", "name", "route", "certificate", "answer"]
STAGES: tuple[Stage, ...] = ("address", "name", "route", "certificate", "answer")
_STAGE_OF: dict[str, Stage] = {"dns": "name", "refused": "route", "unreachable": "route"}
_WRONG_DATE = ("tls-expired", "tls-not-yet-valid")
_MOST = 65536  # bytes of an answer that are read


@dataclass
class Visit:
    route: "Route | None" = None
    stage: Stage = "answer"  # that failed, or the last one
    finding: Finding | None = None  # why it failed
    ahead: float | None = None  # seconds by which this machine's clock is ahead of the server's; None: it did not say
    version: str | None = None
    days_left: int | None = None  # of the server's certificate
    begun: float = field(default_factory=time.time)

    def said_of(self, stage: Stage) -> Finding | None:
        """The fault of this stage; None where it went well. Raises LookupError when the visit did not come so far."""
        if self.finding is None or STAGES.index(stage) < STAGES.index(self.stage):
            return None
        if stage != self.stage:
            raise LookupError(stage)
        return self.finding


def visit(home: Path, coordinator: Coordinator, *, server: str | None, patience: float) -> Visit:
    """Ask for /health. Never raises: what failed is in the answer.

    Args:
        server: HOST:PORT instead of the settings' own.
        patience: seconds for each step.
    """
    from fedrad_client.node.connection import route_of

    named = server or coordinator.server
    if not named:
        return Visit(stage="address", finding=fault("no-server"))
    try:
        seen = Visit(route_of(home, coordinator, server=server))
    except FedradError as error:
        said = fault("address-wrong") if type(error) is MisuseError else fault("connection-settings", said=error, hint=error.hint)
        return Visit(stage="address", finding=said)
    _ask(seen, patience)
    return seen


def of_trouble(trouble: Trouble) -> Finding:
    """The node's own words for it."""
    return Finding("", "fail", trouble.code, trouble.sentence, trouble.hint)


def _ask(seen: Visit, patience: float) -> None:
    import httpx

    assert seen.route is not None, "nobody to ask"
    try:
        with _answer(seen.route, patience) as response:
            seen.days_left = _days_left(response, seen.begun)  # before the answer is read to its end, when the connection is given up
            content = _content(response, patience)
            seen.ahead = _ahead(response.headers, seen.begun)
            body = _object(content)
            if response.status_code != 200 or not str(body.get("format", "")).startswith("fedrad-health-"):
                seen.finding = fault("not-fedrad", status=response.status_code)
                return
            version = body.get("version")
            seen.version = version if isinstance(version, str) and len(version) <= 32 and version.isprintable() else None
    except httpx.HTTPError as error:
        trouble = seen.route.diagnose(error, patience=patience)
        seen.finding, seen.stage = of_trouble(trouble), _stage(trouble.code, error)
        if trouble.code in _WRONG_DATE:
            _compare_clocks(seen, patience)


def _stage(code: str, error: Exception) -> Stage:
    import httpx

    if code.startswith(("tls", "no-tls")):
        return "certificate"
    if code.startswith("proxy") or isinstance(error, httpx.ConnectTimeout):
        return "route"
    return _STAGE_OF.get(code) or ("certificate" if isinstance(error, httpx.ConnectError) else "answer")


def _compare_clocks(seen: Visit, patience: float) -> None:
    """Which of the two clocks is wrong? The date of a server that nobody vouches for is good enough to ask the question."""
    import httpx

    assert seen.route is not None, "nobody to ask"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    begun = time.time()
    with contextlib.suppress(httpx.HTTPError), _answer(seen.route, patience, context) as response:
        seen.ahead = _ahead(response.headers, begun)


@contextlib.contextmanager
def _answer(route: "Route", patience: float, context: ssl.SSLContext | None = None) -> "Iterator[httpx.Response]":
    with route.http(context) as client, client.stream("GET", f"https://{route.address}/health", timeout=patience) as response:
        yield response


def _content(response: "httpx.Response", patience: float) -> bytes:
    """As much as comes in time and may be read."""
    content, until = b"", time.monotonic() + patience
    for part in response.iter_raw():
        content += part
        if len(content) > _MOST or time.monotonic() > until:
            break
    return content


def _ahead(headers: Mapping[str, str], begun: float) -> float | None:
    try:
        theirs = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    early, late = begun - (theirs + 1), time.time() - theirs  # a Date has whole seconds; it was written some time in between
    return 0.0 if early <= 0 <= late else min(early, late, key=abs)


def _days_left(response: "httpx.Response", now: float) -> int | None:
    stream = response.extensions.get("network_stream")
    encrypted = stream.get_extra_info("ssl_object") if stream is not None else None
    certificate = encrypted.getpeercert() if encrypted is not None else None
    return int((ssl.cert_time_to_seconds(str(certificate["notAfter"])) - now) // 86400) if certificate else None


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
