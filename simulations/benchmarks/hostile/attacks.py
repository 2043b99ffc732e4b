"""Ways to ask for something that one may not ask for: credentials that are none, used before, another's or too old; and broken framing."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from asking import request  # type: ignore[import-not-found] # beside this one, as are the next
from routes import Route  # type: ignore[import-not-found]
from servers import Place, Site  # type: ignore[import-not-found]

# isort: split
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from fedrad_common.requests import WINDOW

Overheard = dict[str, tuple[dict[str, str], bytes]]  # headers and body by path
_BEAT = "/v1/fleet/send-node-heartbeat"
_LATE = WINDOW + 10.0


@dataclass(frozen=True)
class Attempt:
    kind: str
    route: Route
    raw: bytes
    private: bool = False


@dataclass
class Attacker:
    """Sees what travels where TLS ends, owns a key that nobody admitted, and has the key of a site that was revoked."""

    place: Place
    seen: Overheard  # north's requests that were answered
    stranger: Site = field(default_factory=lambda: Site("stranger"))

    def credentials(self, route: Route) -> Iterator[tuple[str, dict[str, str]]]:
        """What is shown with the forged body, by the name of the kind."""
        north, south, gone = (self.place.sites[name] for name in ("north", "south", "gone"))
        path, body, stranger = route.path, route.body, self.stranger
        yield "no key", {}
        yield "Control's token, from outside", {"authorization": f"Bearer {self.place.token or 'any'}", "x-forwarded-for": "127.0.0.1"}
        yield "foreign key, its own name", stranger.signs(path, body)
        yield "foreign key, a site's name", stranger.signs(path, body, name="north")
        yield "foreign signature, a site's key named", {**stranger.ours(path, body, name="north"), **north.flower()}
        yield "revoked key", gone.signs(path, body)
        yield "used headers, other body", self.seen.get(path, self.seen[_BEAT])[0]
        yield "unused headers, other path", self.intercepted(_BEAT if path != _BEAT else "/v1/fleet/pull-messages", body)
        yield "unused headers, other body", self.intercepted(path, b"another body")
        yield "one site's headers, another's key", {**south.ours(path, body), **north.flower()}
        yield "Flower's headers alone", north.flower()
        yield "stale", north.signs(path, body, ago=_LATE)
        yield "from the future", north.signs(path, body, ago=-_LATE)

    def intercepted(self, path: str, body: bytes) -> dict[str, str]:
        """Headers of a request of north's that never arrived."""
        headers: dict[str, str] = self.place.sites["north"].signs(path, body)
        return headers

    def replays(self, route: Route) -> Iterator[tuple[str, bytes]]:
        """Byte for byte what was answered before."""
        if route.path in self.seen:
            headers, body = self.seen[route.path]
            yield "used headers, same body", request(route.path, body, headers)

    def framings(self, route: Route) -> Iterator[tuple[str, bytes]]:
        """Requests whose end two programs could see at different places, with no key or with a site's headers for another body."""
        path, body, hidden = route.path, route.body, request(route.path, route.body, last=False)
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        unused = self.intercepted(path, b"another body")
        yield "chunked, other body", request(path, chunked, unused, framing="transfer-encoding: chunked")
        yield "two lengths", request(path, body, unused, framing=f"content-length: {len(body)}\r\ncontent-length: 0")
        yield "length and chunked", request(path, chunked, unused, framing=f"content-length: {len(body)}\r\ntransfer-encoding: chunked")
        yield "chunked in other words", request(path, chunked, unused, framing="transfer-encoding: xchunked")
        yield "a request inside a health check", request("/health", hidden, framing="content-length: 0", method="GET", last=False)
        smuggled = b"0\r\n\r\n" + hidden
        framing = f"content-length: {len(smuggled)}\r\ntransfer-encoding: chunked"
        yield "a request inside a chunked one", request("/health", smuggled, framing=framing, method="GET", last=False)
        yield "behind a site's own request", self.behind(request(path, body))
        yield "twice a header", request(path, body, unused, framing=f"content-length: {len(body)}\r\nx-fedrad-site: south")

    def behind(self, raw: bytes) -> bytes:
        """On a connection that an admitted site has just used: it asks for an activation that Flower refuses once it knows who asks."""
        path, north = "/v1/fleet/activate-node", self.place.sites["north"]
        body = ActivateNodeRequest(public_key=north.pem, heartbeat_interval=0.0).SerializeToString()
        own: bytes = request(path, body, north.signs(path, body), last=False)
        return own + raw

    def disguises(self, route: Route) -> Iterator[tuple[str, bytes]]:
        """A route that is nobody's, by other names, asked for by a site that is admitted and signs rightly."""
        rest = route.path.removeprefix("/v1/")
        names = (
            route.path, f"/v1/fleet/../{rest}", f"/v1/fleet/%2e%2e/{rest}", f"/v1/fleet/pull-messages/../../{rest}", f"//v1/{rest}",
            f"/v1/fleet/pull-messages?/../../{rest}", f"https://localhost{route.path}", f"/v1/fleet/..%2f{rest}", f"/V1/{rest}",
        )  # fmt: skip
        for name in names:
            extra = {"authorization": f"Bearer {self.place.token}", "x-original-url": route.path, "x-forwarded-for": "127.0.0.1"}
            yield (
                "an admitted site, another's route",
                request(name, route.body, {**self.place.sites["north"].signs(name, route.body), **extra}),
            )

    def insider(self, route: Route) -> Iterator[tuple[str, bytes]]:
        """A site that is admitted and signs rightly, and names another site's node in the body."""
        yield "an admitted site, another's node", request(route.path, route.body, self.place.sites["south"].signs(route.path, route.body))

    def inside(self, route: Route) -> Iterator[tuple[str, bytes]]:
        """On the private socket, without its token or secret."""
        wrong = {"authorization": "Bearer wrong", "flwr-superexec-ts": "1", "flwr-superexec-signature": "00", "flwr-task-token": "wrong"}
        yield "inside, no token", request(route.path, route.body)
        yield "inside, wrong token", request(route.path, route.body, wrong)
        yield "inside, a site's signature", request(route.path, route.body, self.place.sites["north"].signs(route.path, route.body))

    def outside(self, routes: Iterable[Route]) -> Iterator[Attempt]:
        """What one can try at any server of Flower's, ours or not."""
        for route in routes:
            for kind, headers in self.credentials(route):
                yield Attempt(kind, route, request(route.path, route.body, headers))
            for kind, raw in self.replays(route):
                yield Attempt(kind, route, raw)

    def everything(self, routes: Iterable[Route], *, ours: Collection[str]) -> Iterator[Attempt]:
        """All of them. `ours`: the calls that are open to a site's own node."""
        for route in routes:
            yield from self.outside([route])
            own = route.api == "fleet" and route.call in ours
            for kind, raw in (*self.framings(route), *(self.insider(route) if own else self.disguises(route))):
                yield Attempt(kind, route, raw)
            for kind, raw in self.inside(route):
                yield Attempt(kind, route, raw, private=True)
