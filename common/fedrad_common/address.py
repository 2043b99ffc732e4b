"""Where the other side listens: HOST:PORT as a person writes it, or a refusal that says what is wrong with it."""

import ipaddress
import re
from dataclasses import dataclass

from fedrad_common.errors import MisuseError

_HINT = "write a host's name or address and a port, as fl.example.org:9092 or [2001:db8::1]:9092"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")  # of a name in lower case; other alphabets have an ASCII form (xn--)


@dataclass(frozen=True)
class Address:
    """`str()` of it is HOST:PORT again, with the brackets that an IPv6 address needs."""

    host: str  # a name in lower case, or an IP address without brackets
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Is it this very machine? A name is not looked up: only `localhost` counts."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str, *, what: str, least_port: int = 1) -> Address:
    """`HOST:PORT` of any host. Nothing is looked up.

    Args:
        text: as a person typed it.
        what: the option or key it stands in, for the message.
        least_port: 0 where a free port may be asked for.

    Raises:
        MisuseError: no such form.
    """
    if "://" in text:
        raise MisuseError(f"{what}: {text!r} is a URL, not HOST:PORT", hint=f"leave out what stands before the host; {_HINT}")
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or len(port) > 5 or not least_port <= int(port) <= 65535:
        raise MisuseError(f"{what}: {text!r} is not HOST:PORT", hint=_HINT)
    return Address(_host(host, what=what), int(port))


def _host(text: str, *, what: str) -> str:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        address = None
    if address is not None and "%" not in inner and (address.version == 6) == (inner != text):
        return str(address)
    if ":" in inner:
        raise MisuseError(f"{what}: {text!r} is no IPv6 address in brackets", hint=_HINT)
    labels = text.lower().split(".")
    # A last label of digits alone would be a mistyped IPv4 address, which some resolvers read as a number.
    if address is None and len(text) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit():
        return text.lower()
    raise MisuseError(f"{what}: {text!r} is no name or address of a host", hint=_HINT)
