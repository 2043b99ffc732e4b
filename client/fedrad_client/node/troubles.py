"""Everything that can stand between a node and its coordinator, as one table: a short code, a person's sentence, and what to do about it.

The text of an exception or of an answer is never used: it would quote the other side. Light to import; an error is only looked into
by `trouble_of`.
"""

import errno
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedrad_common.errors import FormatError
from fedrad_common.requests import REASON

if TYPE_CHECKING:
    import httpx

_FIREWALL = "ask the network's people to let this machine connect out to the coordinator's host and port; see `fedrad-site firewall-sheet`"
_AUTHORITY = "compare `[coordinator] authority` in site.toml with what the coordinator gave you"


@dataclass(frozen=True)
class Trouble:
    code: str  # of TROUBLES
    sentence: str
    hint: str


TROUBLES: dict[str, tuple[str, str]] = {
    # The way to the coordinator
    "dns": ("the coordinator's name is not found", "check the name in `[coordinator] server` and this machine's name service"),
    "refused": ("nothing listens at the coordinator's address", "check host and port with the coordinator; its server may be down"),
    "unreachable": ("there is no way to the coordinator's address", _FIREWALL),
    "timeout": ("the coordinator does not answer in time", _FIREWALL),
    "cut": ("the connection is cut in its middle", "look for a firewall or an antivirus that inspects connections, and exempt this host"),
    "proxy-unreachable": ("the proxy in HTTPS_PROXY cannot be reached", "check HTTPS_PROXY, or exempt the coordinator's host in NO_PROXY"),
    "proxy-login": ("the proxy asks for a login (407)", "write HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, or have this machine exempted"),
    "proxy-refused": ("the proxy refuses to connect to the coordinator", "ask for the coordinator's host and port to be allowed there"),
    # Who answers there
    "no-tls": ("what answers there does not speak TLS", "check the port; a login page of the network may also be in between"),
    "tls-old": ("the other side speaks only versions of TLS older than 1.2", "a device in between may be outdated; tell the coordinator"),
    "tls-authority": ("the certificate is not vouched for by the coordinator's authority", f"{_AUTHORITY}; do not go around it"),
    "tls-intercepted": (
        "a device in between opens the connection: its own authority, which this machine trusts, vouches for the certificate",
        "have the coordinator's host exempted from TLS inspection by the proxy or the antivirus",
    ),
    "tls-expired": ("the certificate has expired", "tell the coordinator; check this machine's date if others can connect"),
    "tls-not-yet-valid": ("the certificate is not valid yet", "set this machine's clock; if it is right, tell the coordinator"),
    "tls-name": ("the certificate is for another name", "use in `[coordinator] server` the very name that the coordinator gave you"),
    "tls": ("no encrypted connection comes about", f"run `fedrad-site doctor`; {_AUTHORITY}"),
    # What it says
    "not-admitted": (
        "the coordinator does not admit this site, or no longer",
        "if you expect to be admitted, call the coordinator; the node waits and tries again",
    ),
    "clock": ("this machine's clock and the coordinator's differ by more than two minutes", "set the clock, best by NTP (`timedatectl`)"),
    "version": ("the coordinator's server is of another version", "install the release of fedrad that the coordinator names"),
    "too-large": ("the coordinator's server takes no request of this size", "tell the coordinator: a piece is larger than its cap"),
    "restarted": (
        "the coordinator's server was just started anew, and takes no request from before",
        "nothing to do: the node signs again and goes on; if it lasts for minutes, this machine's clock was set back: it passes by itself",
    ),
    "server": (
        "the coordinator's server has a fault of its own",
        "the node tries again; tell the coordinator if it lasts",
    ),
    "pieces": ("the pieces of an order or an answer did not get through", "nothing to do: the coordinator asks again"),
    "answer": ("the answer is not that of a coordinator of fedrad", "check host and port; update fedrad if the coordinator did"),
    "unknown": ("the connection failed", "run `fedrad-site doctor`"),
}

# OpenSSL's reasons for not believing a certificate (X509_V_ERR_*).
_CERTIFICATE = {
    2: "tls-authority", 9: "tls-not-yet-valid", 10: "tls-expired", 18: "tls-authority", 19: "tls-authority", 20: "tls-authority",
    21: "tls-authority", 24: "tls-authority", 62: "tls-name", 64: "tls-name",
}  # fmt: skip
_HANDSHAKE = {
    "WRONG_VERSION_NUMBER": "no-tls", "HTTP_REQUEST": "no-tls", "RECORD_LAYER_FAILURE": "no-tls", "PACKET_LENGTH_TOO_LONG": "no-tls",
    "UNSUPPORTED_PROTOCOL": "tls-old", "TLSV1_ALERT_PROTOCOL_VERSION": "tls-old", "NO_PROTOCOLS_AVAILABLE": "tls-old",
    "UNEXPECTED_EOF_WHILE_READING": "cut",
}  # fmt: skip
_NETWORK = {
    errno.ECONNREFUSED: "refused", errno.ECONNRESET: "cut", errno.EPIPE: "cut", errno.ECONNABORTED: "cut", errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable", errno.EHOSTUNREACH: "unreachable", errno.ENETDOWN: "unreachable", errno.EACCES: "unreachable",
    errno.EPERM: "unreachable",
}  # fmt: skip
_STATUS = {401: "not-admitted", 413: "too-large"}
_REASONS = {401: "clock", 503: "restarted"}
_OTHER_VERSION = 1001  # Flower's code for peers that do not share a version
_UNDELIVERED = {"ObjectPullError", "ObjectPushError"}  # of Flower; by name, so that nothing of it is loaded here


def trouble(code: str) -> Trouble:
    """The table's entry; a code of another release is `unknown`."""
    sentence, hint = TROUBLES.get(code, TROUBLES["unknown"])
    return Trouble(code, sentence, hint)


def trouble_of(error: "BaseException | httpx.Response") -> Trouble:
    """What an error of the connection, or an answer with an error's status, means to the person at the site."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return _of_response(error.response)
    if isinstance(error, httpx.Response):
        return _of_response(error)
    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3]  # what the proxy says is "407 and its own words"
        return trouble("proxy-login" if status == "407" else "proxy-refused" if status.isdigit() else "proxy-unreachable")
    for cause in _chain(error):
        if (code := _of_cause(cause)) is not None:
            return trouble(code)
    if isinstance(error, httpx.TimeoutException):
        return trouble("timeout")
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return trouble("cut")
    if isinstance(error, FormatError | httpx.DecodingError):
        return trouble("answer")
    return trouble("pieces" if type(error).__name__ in _UNDELIVERED else "unknown")


def _of_response(response: "httpx.Response") -> Trouble:
    status = response.status_code
    if (known := _REASONS.get(status)) and response.headers.get(REASON) == known:
        return trouble(known)
    if _flower_code(response) == _OTHER_VERSION:
        return trouble("version")
    found = trouble(_STATUS.get(status, "server" if status >= 500 else "answer"))
    return found if status in _STATUS else replace(found, sentence=f"{found.sentence} (status {status})")


def _flower_code(response: "httpx.Response") -> object:
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return value.get("code") if isinstance(value, dict) else None


def _of_cause(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATE.get(error.verify_code, "tls")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "cut"
    if isinstance(error, ssl.SSLError):
        return _HANDSHAKE.get(error.reason or "", "tls")
    if isinstance(error, socket.gaierror):
        return "dns"
    return _NETWORK.get(error.errno or 0) if isinstance(error, OSError) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
