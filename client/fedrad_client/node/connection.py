"""The one way out of a hospital: TLS to the coordinator's host and port, believing only its authority, each request signed."""

import os
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import fedrad_common.offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedrad_client.config import Coordinator
from fedrad_client.node.troubles import Trouble, trouble, trouble_of
from fedrad_client.node.wire import Fleet, Signature, Version, bounded_client
from fedrad_common.address import Address, parse_address
from fedrad_common.errors import ConfigError, FormatError, MisuseError

_PATIENCE = 10.0  # seconds for each step of a look at who is in between
_LOOK_AGAIN = 60.0  # seconds that one look at who vouches for a certificate counts
_PROXY = "write HTTPS_PROXY=http://HOST:PORT; SOCKS is not supported"
_NO_INTERVAL = 0.0  # seconds; Flower refuses it, once it knows who asks


@dataclass
class Route:
    """How the coordinator is reached and whom it must prove to be; fixed before anything is sent."""

    address: Address
    context: ssl.SSLContext
    pinned: bool  # the coordinator's own authority, instead of all that this machine trusts
    proxy: httpx.Proxy | None = None
    _looked: tuple[float, bool] = field(default=(float("-inf"), False), repr=False)

    def http(self, context: ssl.SSLContext | None = None) -> httpx.Client:
        """A plain client for this route, which shows no key; `context` to believe others. To be closed."""
        return bounded_client(context or self.context, self.proxy)

    def fleet(self, key: EllipticCurvePrivateKey, *, site: str) -> Fleet:
        """Flower's Fleet API over this route, signed with the node's key. Usable by several threads; to be closed."""
        signing = [Version(), NodeAuthHttpInterceptor(key, key.public_key()), Signature(key, site)]
        return Fleet(self.address, self.http(), signing)

    def diagnose(self, error: BaseException, *, patience: float = _PATIENCE) -> Trouble:
        """`trouble_of`, and one closer look where a certificate is not the coordinator's: is a device of this network in between?

        Args:
            patience: seconds for each step of that look.
        """
        found = trouble_of(error)
        return trouble("tls-intercepted") if found.code == "tls-authority" and self.pinned and self._intercepted(patience) else found

    def _intercepted(self, patience: float) -> bool:
        """Does somebody whom this machine trusts vouch for the name? Without the node's key, and without believing the answer."""
        at, found = self._looked
        if time.monotonic() - at > _LOOK_AGAIN:
            with self.http(_machines_authorities()) as client:
                try:
                    client.get(f"https://{self.address}/health", timeout=patience)
                    found = True
                except httpx.HTTPError:
                    found = False
            self._looked = (time.monotonic(), found)
        return found


def route_of(home: Path, coordinator: Coordinator, *, server: str | None = None, environment: Mapping[str, str] | None = None) -> Route:
    """The route that a site's settings name.

    Args:
        server: HOST:PORT instead of the settings' own.
        environment: where HTTPS_PROXY and NO_PROXY stand; the process's by default.

    Raises:
        MisuseError: no coordinator is named, or no such form.
        ConfigError: the authority's file or the proxy is not what it must be.
    """
    named = server or coordinator.server
    if not named:
        raise MisuseError("site.toml: coordinator.server: is empty", hint="write there the HOST:PORT that the coordinator gave you")
    address = parse_address(named, what="--server" if server else "site.toml: coordinator.server")
    pinned = bool(coordinator.authority)
    context = _authority(home / coordinator.authority, coordinator.authority) if pinned else _machines_authorities()
    return Route(address, context, pinned, proxy_for(address, os.environ if environment is None else environment))


def check_in(route: Route, key: EllipticCurvePrivateKey, *, site: str) -> Trouble | None:
    """One signed request that changes nothing at the coordinator: what stands in its way, or None where this site is admitted.

    It asks to be activated with an interval that Flower refuses, but only once it knows the node.
    """
    with route.fleet(key, site=site) as fleet:
        public = public_key_to_bytes(key.public_key())
        try:
            fleet.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=_NO_INTERVAL))
        except httpx.HTTPStatusError as error:
            code = _flower_code(error.response)
            if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
                return trouble("not-admitted")
            return None if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL else trouble_of(error)
        except (httpx.HTTPError, FormatError) as error:
            return route.diagnose(error)
    return None


def _flower_code(response: httpx.Response) -> int | None:
    try:
        known = FlowerError.from_json(response.text)
    except (ValueError, RecursionError):
        return None
    return known.code if known else None


def proxy_for(address: Address, environment: Mapping[str, str]) -> httpx.Proxy | None:
    """The proxy that HTTPS_PROXY names; none for this very machine, nor for what NO_PROXY lists.

    Raises:
        ConfigError: it is no proxy that we can speak through. (It may hold a password, and is not quoted.)
    """
    proxies = {name: environment.get(name.upper()) or environment.get(name) or "" for name in ("https_proxy", "no_proxy")}
    url = proxies["https_proxy"].strip()
    excepted = urllib.request.proxy_bypass_environment(str(address), {"no": proxies["no_proxy"]})  # type: ignore[attr-defined] # typeshed lacks it
    if not url or address.loopback or excepted:
        return None
    url = url if "://" in url else f"http://{url}"
    try:
        proxy = httpx.Proxy(url)
        parse_address(proxy.url.netloc.decode() if proxy.url.port else f"{proxy.url.netloc.decode()}:80", what="HTTPS_PROXY")
    except (ValueError, httpx.InvalidURL, MisuseError):
        raise ConfigError("HTTPS_PROXY: is no proxy's URL", hint=_PROXY) from None
    if proxy.url.scheme not in ("http", "https"):
        raise ConfigError("HTTPS_PROXY: is no HTTP proxy", hint=_PROXY)
    proxy.ssl_context = _machines_authorities() if proxy.url.scheme == "https" else None
    return proxy


def _machines_authorities() -> ssl.SSLContext:
    context = _context()
    context.load_default_certs()
    return context


def _authority(path: Path, name: str) -> ssl.SSLContext:
    hint = (
        'take the file from the coordinator\'s invitation; `authority = ""` is for a coordinator whose certificate every browser believes'
    )
    context = _context()
    try:
        context.load_verify_locations(cadata=path.read_text(encoding="ascii"))
    except OSError as error:
        if isinstance(error, ssl.SSLError):
            raise ConfigError(f"{name}: holds no certificate in PEM form", hint=hint) from None
        raise ConfigError(f"{name}: cannot be read ({type(error).__name__})", hint=hint) from None
    except ValueError:
        raise ConfigError(f"{name}: holds no certificate in PEM form", hint=hint) from None
    return context


def _context() -> ssl.SSLContext:
    """Certificate and name are checked, whatever else is set; nothing writes the session's keys to a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
