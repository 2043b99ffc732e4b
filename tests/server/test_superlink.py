"""The guard before Flower's server: who gets through which socket, and how much is read of a body."""

import asyncio
from collections.abc import Iterable

import pytest

from fedrad_server.superlink.files import Ports, SuperLinkFiles
from fedrad_server.superlink.serving import Guard, TokenPlugin

# isort: split
from flwr.common.constant import ACCESS_TOKEN_KEY

from fedrad_common.errors import FedradError
from fedrad_common.files import write_json

PUBLIC, PRIVATE = 1001, 1002


class App:
    """What lies behind the guard: notes what it is given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.scopes: list[str] = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope["type"])
        if scope["type"] == "http":
            message = await receive()
            assert not message["more_body"]
            self.bodies.append(message["body"])
            await send({"type": "http.response.start", "status": 200, "headers": []})


def ask(path: str, *, port: int = PUBLIC, chunks: Iterable[bytes] = (b"",), headers=(), kind: str = "http", cap: int = 100):
    """(status or None, what the application saw, chunks read)."""
    app, sent, read, parts = App(), [], [0], list(chunks)

    async def receive():
        read[0] += 1
        body = parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "server": ("127.0.0.1", port), "headers": list(headers)}
    asyncio.run(Guard(app, PRIVATE, cap)(scope, receive, send))
    return (sent[0].get("status") if sent else None), app, read[0]


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/health"])
def test_sites_reach_fleet_and_health(path):
    assert ask(path)[0] == 200


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
        "/V1/FLEET/a",
    ],
)
def test_everything_else_is_not_there_from_outside(path):
    status, app, read = ask(path)

    assert (status, app.scopes, read) == (404, [], 0)


def test_the_private_socket_lets_the_coordinators_own_programs_through():
    assert ask("/v1/control/list-runs", port=PRIVATE)[0] == 200


def test_a_forged_peer_address_opens_nothing():
    assert ask("/v1/control/list-runs", headers=[(b"x-forwarded-for", b"127.0.0.1"), (b"host", b"127.0.0.1:1002")])[0] == 404


@pytest.mark.parametrize("length", [b"101", b"99999999999999999999", b"-1", b"ten", b""])
@pytest.mark.parametrize("port", [PUBLIC, PRIVATE])
def test_a_body_that_announces_too_much_is_not_read_at_all(length, port):
    status, app, read = ask("/v1/fleet/push-object", port=port, chunks=[b"x" * 101], headers=[(b"content-length", length)])

    assert (status, app.bodies, read) == (413, [], 0)


def test_a_chunked_body_is_read_up_to_the_cap_only():
    status, app, read = ask("/v1/fleet/push-object", chunks=[b"x" * 60] * 1000)

    assert (status, app.bodies, read) == (413, [], 2)


def test_a_body_within_the_cap_arrives_whole():
    assert ask("/v1/fleet/push-object", chunks=[b"ab", b"", b"cd"])[1].bodies == [b"abcd"]


def test_a_sender_that_goes_away_reaches_nothing():
    app, sent = App(), []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/v1/fleet/x", "server": ("127.0.0.1", PUBLIC), "headers": []}
    asyncio.run(Guard(app, PRIVATE, 100)(scope, receive, send))

    assert app.bodies == []


def test_websockets_get_no_answer_and_the_lifespan_passes():
    assert ask("/v1/fleet/x", kind="websocket")[1].scopes == []
    assert ask("", kind="lifespan")[1].scopes == ["lifespan"]


@pytest.mark.parametrize(
    ("metadata", "let_in"),
    [
        ([], False),
        ([(ACCESS_TOKEN_KEY, "")], False),
        ([(ACCESS_TOKEN_KEY, "secre")], False),
        ([("other", "secret")], False),
        ([(ACCESS_TOKEN_KEY, "secret")], True),
        ([(ACCESS_TOKEN_KEY, b"secret")], True),
    ],
)
def test_control_is_for_whoever_has_the_token(metadata, let_in):
    allowed, account = TokenPlugin("secret").validate_tokens_in_metadata(metadata)

    assert (allowed, account is not None) == (let_in, let_in)


def test_an_empty_token_lets_nobody_in():
    assert TokenPlugin("").validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, "")]) == (False, None)


def test_token_and_secret_are_made_once_and_are_private(tmp_path):
    files = SuperLinkFiles(tmp_path / "superlink")
    files.prepare()
    before = (files.token, files.secret)
    files.prepare()

    assert (files.token, files.secret) == before
    assert len({*before}) == 2
    assert {(files.folder / name).stat().st_mode & 0o777 for name in ("token", "secret")} == {0o600}


def test_a_server_that_is_not_running_is_said_so(tmp_path):
    with pytest.raises(FedradError, match="not running") as error:
        _ = SuperLinkFiles(tmp_path).serving

    assert "fedrad-coordinator start" in error.value.hint


def test_the_former_ports_are_remembered(tmp_path):
    files = SuperLinkFiles(tmp_path)
    assert files.ports is None
    write_json(files.ports_file, {"format": "fedrad-superlink-1", "public": 5, "private": 6})

    assert files.ports == Ports(public=5, private=6)
