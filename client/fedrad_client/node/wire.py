"""HTTP as a node speaks it: Flower's Fleet client over a connection of ours, each request signed, each answer bounded.

Flower's own would follow redirects, take whatever the environment says, read answers of any size and end the process at a word of the
server's.
"""

import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import fedrad_common.offline  # noqa: F401 - first: Flower reads its switches at import

# isort: split
import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedrad_client.node.troubles import trouble_of
from fedrad_common.address import Address
from fedrad_common.errors import FormatError
from fedrad_common.requests import sign_request

_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # seconds without a byte; a piece of 5 MiB waits in the kernel's buffer of a slow line
_MOST_ANSWER = 8 * 1024 * 1024  # bytes; pieces are of 5 MiB
_MOST_SECONDS = 600.0  # for one answer that trickles


def bounded_client(context: ssl.SSLContext, proxy: httpx.Proxy | None) -> httpx.Client:
    """A plain client. Nothing of the environment is read: not its proxies, its certificates nor its .netrc."""
    transport = _Bounded(verify=context, proxy=proxy, trust_env=False)
    return httpx.Client(
        transport=transport, timeout=_TIMEOUT, follow_redirects=False, trust_env=False, headers={"accept-encoding": "identity"}
    )  # fmt: skip


class Fleet(FleetHttpClient):  # type: ignore[misc] # Flower's own client, over our connection
    """Usable by several threads; to be closed."""

    def __init__(self, address: Address, client: httpx.Client, interceptors: Sequence[Any]) -> None:
        # Instead of Flower's, which makes a client of its own.
        self._base_url, self._interceptors, self._retry_invoker = f"https://{address}", tuple(interceptors), None
        self._client = client

    def _unary_unary(self, **request: Any) -> Any:
        try:
            return super()._unary_unary(**request)
        except ValueError:
            raise FormatError("the coordinator's server: an answer cannot be read") from None


class Version:
    """Tells Flower's version, as Flower's own interceptor does; that one would also end this process when the server says so."""

    def __init__(self) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(self._headers)
        return call_next(context)  # type: ignore[no-any-return] # Flower's types are not known to mypy


@dataclass(frozen=True)
class Signature:
    """Signs this very request, each retry anew. Comes last, when method, path and body are final."""

    key: EllipticCurvePrivateKey
    site: str

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        request = context.request
        signed = sign_request(self.key, site=self.site, method=request.method, path=request.url.path, body=request.content)
        request.headers.update(signed)
        return call_next(context)  # type: ignore[no-any-return] # as above


class _Bounded(httpx.HTTPTransport):
    """Reads no answer beyond a cap or a deadline, unpacks none, and tells the proxy's absence from the coordinator's."""

    def __init__(self, *, verify: ssl.SSLContext, proxy: httpx.Proxy | None, trust_env: bool) -> None:
        super().__init__(verify=verify, proxy=proxy, trust_env=trust_env)
        self._proxied = proxy is not None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = super().handle_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if self._proxied and not trouble_of(error).code.startswith(("tls", "no-tls", "cut")):
                raise httpx.ProxyError("unreachable") from error
            raise
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx.DecodingError("an answer is packed, which was not asked for")
        stream = _Capped(response.stream)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream, extensions=response.extensions)


class _Capped(httpx.SyncByteStream):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        left, until = _MOST_ANSWER, time.monotonic() + _MOST_SECONDS
        for part in self._inner:
            left -= len(part)
            if left < 0:
                raise httpx.DecodingError("an answer is larger than any of Flower's")
            if time.monotonic() > until:
                raise httpx.ReadTimeout("an answer trickles")
            yield part

    def close(self) -> None:
        self._inner.close()
