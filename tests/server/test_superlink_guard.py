"""The guard before Flower's server: whose request passes, and that nothing is read of any other."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.superlink import Site

from fedrad_common.errors import DiskError
from fedrad_common.requests import WINDOW
from fedrad_server.superlink import guard as guards
from fedrad_server.superlink import times
from fedrad_server.superlink.bounds import PUSHING
from fedrad_server.superlink.guard import CALLS, PrivateGuard, PublicGuard
from fedrad_server.superlink.nonces import Nonces
from fedrad_server.superlink.times import SignedTimes

PULL, PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-object"
NOW = 1_800_000_000.0
NORTH = Site("north")


class App:
    """What lies behind the guard: notes what it is given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.scopes: list[str] = []
        self.sites: list[str] = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope["type"])
        self.sites.append(PUSHING.get())
        if scope["type"] == "http":
            message = await receive()
            assert not message["more_body"]
            self.bodies.append(message["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})


@dataclass
class Asked:
    status: int | None
    app: App
    read: int  # pieces
    headers: dict[bytes, bytes]

    @property
    def reason(self) -> str:
        return self.headers.get(b"x-fedrad-reason", b"").decode()


class Unwritten(SignedTimes):
    """Of a server that is never started anew."""

    def _write(self, sites):
        pass


@dataclass
class Door:
    """A guard with one admitted site, and a clock that stands still. With a folder, a later one is the same server, started anew."""

    folder: Path | None = None
    admitted: dict = field(default_factory=lambda: {"north": NORTH.public})
    now: float = NOW
    cap: int = 100
    patience: float = 60.0
    heard: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.app = App()
        signed = Unwritten(Path("nowhere"), self.now) if self.folder is None else SignedTimes(self.folder / times.FILE, self.now)
        self.guard = PublicGuard(
            self.app, lambda: self.admitted, self.heard.__setitem__, signed,
            clock=lambda: self.now, cap=self.cap, patience=self.patience,
        )  # fmt: skip
        self.now += 10  # the server was started ten seconds ago

    def ask(self, path: str = PULL, *, headers=None, body: bytes = b"", **more) -> Asked:
        signed = NORTH.headers(path, body, now=self.now) if headers is None else headers
        pairs = signed.items() if isinstance(signed, dict) else signed
        return ask(self.guard, path, headers=pairs, **{"chunks": [body], **more})


def ask(
    guard, path: str, *, chunks: Iterable[bytes] = (b"",), headers=(), kind="http", method="POST", raw_path=None, query=b"", receive=None
) -> Asked:
    sent, read, parts = [], [0], list(chunks)

    async def pieces():
        read[0] += 1
        body = parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind, "path": path, "raw_path": path.encode() if raw_path is None else raw_path, "query_string": query, "method": method,
        "headers": [(name.encode(), value.encode()) for name, value in headers], "state": {},
    }  # fmt: skip
    asyncio.run(guard(scope, receive or pieces, send))
    first = sent[0] if sent else {}
    return Asked(first.get("status"), guard.app, read[0], dict(first.get("headers", [])))


def altered(headers: dict[str, str], **changes: str) -> dict[str, str]:
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}


@pytest.mark.parametrize("call", CALLS)
def test_an_admitted_site_reaches_the_fleet_calls_of_our_node(call):
    asked = Door().ask(f"/v1/fleet/{call}", body=b"abc")

    assert (asked.status, asked.app.bodies) == (200, [b"abc"])


@pytest.mark.parametrize("call", ["register-node", "unregister-node", "get-fab", "get-run", "hello", "PULL-MESSAGES", "pull-messages/"])
def test_flowers_other_fleet_calls_are_not_there_even_for_an_admitted_site(call):
    asked = Door().ask(f"/v1/fleet/{call}")

    assert (asked.status, asked.app.scopes, asked.read) == (404, [], 0)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/",
        "/docs",
        "/openapi.json",
        "/v1/fleet",
        "/v1/fleetx/a",
        "/health/",
        "/health",
    ],
)
def test_everything_else_is_not_there_from_outside(path):
    asked = Door().ask(path)

    assert (asked.status, asked.app.scopes, asked.read) == (404, [], 0)


def test_health_is_answered_without_flower():
    asked = Door().ask("/health", headers={}, method="GET")

    assert (asked.status, asked.app.scopes, asked.read) == (200, [], 0)
    assert guards.HEALTH.startswith(b'{"format":"fedrad-health-1","version":"')


@pytest.mark.parametrize("path", [PULL, PUSH, "/v1/fleet/no-such-call"])
def test_a_request_that_nobody_signed_is_refused_unread(path):
    asked = Door().ask(path, headers={})

    assert (asked.status, asked.app.scopes, asked.read, asked.reason) == (401, [], 0, "")
    assert asked.headers[b"connection"] == b"close"


FORGED = {
    "a key that is not admitted": lambda: Site("north").headers(PULL, now=NOW + 10),
    "a site that is not admitted": lambda: Site("south").headers(PULL, now=NOW + 10),
    "another site's name": lambda: altered(NORTH.headers(PULL, now=NOW + 10), x_fedrad_site="east"),
    "a signature for another path": lambda: NORTH.headers(PUSH, now=NOW + 10),
    "a signature for another method": lambda: NORTH.headers(PULL, now=NOW + 10, method="GET"),
    "a time that was moved": lambda: altered(NORTH.headers(PULL, now=NOW - 500), x_fedrad_time=str(int(1000 * NOW + 10_000))),
    "another digest": lambda: altered(NORTH.headers(PULL, now=NOW + 10), x_fedrad_digest="0" * 64),
    "another nonce": lambda: altered(NORTH.headers(PULL, now=NOW + 10), x_fedrad_nonce="0" * 32),
    "no signature": lambda: altered(NORTH.headers(PULL, now=NOW + 10), x_fedrad_signature=""),
    "no hexadecimal signature": lambda: altered(NORTH.headers(PULL, now=NOW + 10), x_fedrad_signature="zz"),
    "a header twice": lambda: [*NORTH.headers(PULL, now=NOW + 10).items(), ("X-Fedrad-Site", "north")],
    "Flower's key twice": lambda: [*NORTH.headers(PULL, now=NOW + 10).items(), ("flwr-public-key", "eA==")],
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_request_is_refused_unread_and_without_a_reason(forged):
    door = Door(admitted={"north": NORTH.public, "east": Site("east").public})

    asked = door.ask(headers=forged())

    assert (asked.status, asked.app.scopes, asked.read, asked.reason) == (401, [], 0, "")
    assert not door.heard, "a forger counted as a sign of life"


@pytest.mark.parametrize("change", [{"raw_path": b"/v1/fleet/pull%2Dmessages"}, {"query": b"a=1"}])
def test_another_spelling_of_the_path_than_the_signed_one_is_refused(change):
    assert Door().ask(**change).status == 404


@pytest.mark.parametrize(("off", "status"), [(-WINDOW - 1, 401), (WINDOW + 1, 401), (WINDOW - 1, 200)])
def test_a_clock_that_is_too_far_off_is_told_to_the_site(off, status):
    door = Door()
    asked = door.ask(headers=NORTH.headers(PULL, now=door.now + off))

    assert (asked.status, asked.reason) == (status, "clock" if status == 401 else "")


def test_the_same_headers_pass_once():
    door = Door()
    headers = NORTH.headers(PULL, now=door.now)

    assert [door.ask(headers=headers).status for _ in range(3)] == [200, 401, 401]


def test_a_copy_from_before_a_restart_is_refused_though_its_nonce_is_forgotten():
    headers = NORTH.headers(PULL, now=NOW - 1)

    asked = Door().ask(headers=headers)

    assert (asked.status, asked.reason, asked.app.bodies) == (503, "restarted", [])


@pytest.mark.parametrize("ahead", [0.0, WINDOW - 1, 1 - WINDOW])
def test_no_request_counts_twice_over_a_restart_whatever_the_sites_clock_says(tmp_path, ahead):
    """Killed at any moment: nothing is written down when it ends."""
    before = Door(tmp_path)
    before.now += 2 * WINDOW
    copies = []
    for _ in range(8):
        before.now += 3
        copies.append(NORTH.headers(PULL, now=before.now + ahead))
        assert before.ask(headers=copies[-1]).status == 200
    after = Door(tmp_path, now=before.now)
    after.now = before.now

    assert {after.ask(headers=copy).reason for copy in copies} <= {"restarted", "clock"}
    assert not after.app.scopes
    after.now = before.now + times.MARGIN + 0.01
    assert after.ask(headers=NORTH.headers(PULL, now=after.now + ahead)).status == 200, "an honest site waits a few seconds at most"


def test_without_the_time_on_disk_a_clock_that_is_ahead_lets_a_copy_pass_again():
    """The positive control: a server that knows its own start only."""
    before = Door()
    copy = NORTH.headers(PULL, now=before.now + 60)
    assert before.ask(headers=copy).status == 200

    assert Door(now=before.now).ask(headers=copy).status == 200


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"{")], ids=["missing", "damaged"])
def test_without_the_former_times_the_servers_own_start_counts(tmp_path, damage):
    Door(tmp_path).ask()
    damage(tmp_path / times.FILE)
    after = Door(tmp_path)

    assert after.ask(headers=NORTH.headers(PULL, now=NOW - 1)).reason == "restarted"
    assert after.ask(headers=NORTH.headers(PULL, now=NOW + 1)).status == 200


def test_a_site_that_was_never_heard_is_not_kept_out_by_a_restart(tmp_path):
    Door(tmp_path).ask()
    south = Site("south")
    after = Door(tmp_path, admitted={"south": south.public})

    assert after.ask(headers=south.headers(PULL, now=NOW - 60)).status == 200


def test_a_request_whose_time_cannot_be_written_down_does_not_count(tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise DiskError("no space left on the disk")

    door = Door(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(times, "write_json", full)
        assert [door.ask().status for _ in range(3)] == [503] * 3
    assert not door.app.scopes
    assert capsys.readouterr().err.count("no space left") == 1

    assert door.ask().status == 200


def test_the_time_is_written_every_few_seconds_not_at_each_request(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(times, "write_json", lambda path, value: written.append(value))
    door = Door(tmp_path)
    for _ in range(50):
        door.now += 0.2
        assert door.ask().status == 200

    assert len(written) <= 1 + 10 / times.MARGIN


def test_whose_request_it_is_is_known_to_what_lies_behind():
    assert Door().ask(PUSH, body=b"x").app.sites == ["north"]


def test_the_key_that_flower_is_told_must_be_the_same_sites():
    import base64

    other = base64.b64encode(Site("south").public.pem.encode()).decode()
    door = Door()

    for told in (other, "", "no base64"):
        assert door.ask(headers=altered(NORTH.headers(PULL, now=door.now), flwr_public_key=told)).reason == "key"
    assert not door.app.scopes


def test_another_body_than_the_signed_one_reaches_nothing():
    door = Door()

    asked = door.ask(headers=NORTH.headers(PULL, b"signed", now=door.now), chunks=[b"other!"])

    assert (asked.status, asked.reason, asked.app.scopes) == (401, "digest", [])


def test_a_revocation_counts_at_the_next_request():
    door = Door()
    assert door.ask().status == 200
    door.admitted = {}

    assert door.ask().status == 401


def test_a_site_that_was_heard_is_noted_with_the_time():
    door = Door()
    door.ask()

    assert door.heard == {"north": door.now}


@pytest.mark.parametrize("length", ["101", "99999999999999999999", "-1", "ten", ""])
def test_a_body_that_announces_too_much_is_not_read_at_all(length):
    door = Door()
    headers = {**NORTH.headers(PUSH, now=door.now), "content-length": length}

    for asked in (door.ask(PUSH, headers=headers), ask(PrivateGuard(App(), cap=100), "/v1/runtime/push-object", headers=headers.items())):
        assert (asked.status, asked.app.bodies, asked.read) == (413, [], 0)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "push-object"])
def test_only_a_piece_of_an_answer_is_large(call):
    """Eight megabytes of names would keep everybody waiting."""
    door = Door(cap=8 * 1024 * 1024)
    large = b"x" * (256 * 1024 + 1)

    asked = door.ask(f"/v1/fleet/{call}", body=large, chunks=[large])
    assert (asked.status, asked.app.bodies) == (413, [])
    assert door.ask(PUSH, body=large, chunks=[large]).status == 200


def test_a_chunked_body_is_read_up_to_the_cap_only():
    asked = Door().ask(PUSH, chunks=[b"x" * 60] * 1000)

    assert (asked.status, asked.app.bodies, asked.read) == (413, [], 2)


def test_a_body_within_the_cap_arrives_whole():
    asked = Door().ask(PUSH, body=b"abcd", chunks=[b"ab", b"", b"cd"])

    assert asked.app.bodies == [b"abcd"]


def test_a_sender_that_trickles_is_cut():
    async def trickle():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    asked = Door(cap=10_000, patience=0.05).ask(PUSH, receive=trickle)

    assert (asked.status, asked.app.bodies) == (408, [])


def test_a_sender_that_goes_away_reaches_nothing_and_gets_nothing():
    async def gone():
        return {"type": "http.disconnect"}

    asked = Door().ask(PUSH, receive=gone)

    assert (asked.status, asked.app.bodies) == (None, [])


def test_one_site_can_only_push_so_much_for_one_answer(monkeypatch):
    monkeypatch.setattr(guards, "MOST_PER_ANSWER", 150)
    door = Door()

    assert [door.ask(PUSH, body=b"x" * 60).status for _ in range(3)] == [200, 200, 413]
    assert door.ask("/v1/fleet/push-messages").status == 200
    assert door.ask(PUSH, body=b"x" * 60).status == 200


def test_a_site_that_sends_many_at_once_waits_for_itself():
    """Four bodies of one site are in memory at a time; another site's goes on beside them."""
    south, running, most = Site("south"), [], [0]

    async def slow(scope, receive, send):
        running.append(dict(scope["headers"])[b"x-fedrad-site"])
        most[0] = max(most[0], running.count(b"north"))
        await asyncio.sleep(0.01)
        assert scope["path"] != "/v1/fleet/push-object" or b"south" in running or most[0] <= 4
        running.remove(dict(scope["headers"])[b"x-fedrad-site"])

    sites = {"north": NORTH.public, "south": south.public}
    guard = PublicGuard(slow, lambda: sites, lambda site, now: None, Unwritten(Path("nowhere"), NOW), clock=lambda: NOW)

    async def one(site):
        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            raise AssertionError(message)

        pairs = [(name.encode(), value.encode()) for name, value in site.headers(PUSH, now=NOW).items()]
        scope = {
            "type": "http", "path": PUSH, "raw_path": PUSH.encode(), "query_string": b"", "method": "POST", "headers": pairs, "state": {}
        }  # fmt: skip
        await guard(scope, receive, send)

    async def all_of_them():
        await asyncio.gather(*[one(NORTH) for _ in range(12)], one(south))

    asyncio.run(all_of_them())
    assert most == [4]


def test_websockets_get_no_answer():
    assert Door().ask(kind="websocket").status is None


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/control/list-runs", 200), ("/v1/runtime/acquire-task", 200), (PULL, 404), ("/docs", 404), ("/health", 404), ("/", 404)],
)
def test_the_private_socket_is_for_control_and_runtime_alone(path, status):
    assert ask(PrivateGuard(App()), path).status == status


def test_the_lifespan_passes_through_the_private_socket_only():
    assert ask(PrivateGuard(App()), "", kind="lifespan").app.scopes == ["lifespan"]
    assert Door().ask(kind="lifespan").app.scopes == []


def test_nonces_are_kept_for_the_window_and_no_longer():
    nonces = Nonces(window=120.0)
    assert nonces.take("north", "a", signed_at=1000.0, now=1000.0)

    assert not nonces.take("north", "a", signed_at=1000.0, now=1119.0)
    assert nonces.take("south", "a", signed_at=1000.0, now=1119.0), "two sites may draw the same"
    assert nonces.take("north", "b", signed_at=1300.0, now=1300.0)
    assert len(nonces) == 2


def test_a_nonce_of_a_clock_that_is_ahead_is_kept_until_its_own_time_has_passed():
    nonces = Nonces(window=120.0)
    nonces.take("north", "a", signed_at=1110.0, now=1000.0)
    nonces.take("north", "b", signed_at=1125.0, now=1125.0)

    assert not nonces.take("north", "a", signed_at=1110.0, now=1229.0)


def test_the_memory_of_nonces_is_bounded_for_each_site():
    nonces = Nonces(window=120.0, most=3)

    assert [nonces.take("north", str(number), signed_at=1.0, now=1.0) for number in range(5)] == [True] * 3 + [False] * 2
    assert nonces.take("south", "0", signed_at=1.0, now=1.0)
