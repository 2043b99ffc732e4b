"""Where the other side listens. Until there is TLS, only on this very machine."""

import ipaddress

from fedrad_common.errors import MisuseError

_HINT = "connections are not encrypted yet: run both ends on one machine, as 127.0.0.1:PORT"


def loopback(text: str, *, what: str, least_port: int = 1) -> tuple[str, int]:
    """`HOST:PORT` as (host, port); a name other than localhost is not even looked up.

    Raises:
        MisuseError: no such form, or an address that leaves this machine.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or not least_port <= int(port) <= 65535:
        raise MisuseError(f"{what}: {text!r} is not HOST:PORT", hint=_HINT)
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise MisuseError(f"{what}: {host!r} is not an address of this machine", hint=_HINT)
    return (f"[{host}]" if ":" in host else host), int(port)
