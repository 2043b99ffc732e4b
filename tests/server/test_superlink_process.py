"""The server as a real process on loopback: two sockets, one Flower, TLS outside and a token inside."""

import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable

import pytest
from fakes.patience import PATIENCE
from fakes.superlink import Server, Site, admit, serving

from fedrad_common.errors import FedradError, MisuseError
from fedrad_server.contacts import ages
from fedrad_server.control import Control
from fedrad_server.home import Home
from fedrad_server.superlink.health import check_health

# isort: split
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node

PULL = "/v1/fleet/pull-messages"
NORTH, SOUTH = Site("north"), Site("south")
SAMPLE = 48 * 1024 * 1024  # bytes; simulations/benchmarks/guard_body.py sends 600 MB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coordinator")
    home = Home.create(folder / "home")
    admit(home, NORTH)
    with serving(home, folder / "server.log") as running:
        yield running


def eventually(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def flower_headers(site: Site) -> dict[str, str]:
    """What Flower's own node authentication adds."""
    import httpx
    from flwr.supercore.protobuf.client import ProtobufRequestContext
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    request = httpx.Request("POST", "https://localhost")
    context = ProtobufRequestContext("", PullMessagesRequest(), request)
    NodeAuthHttpInterceptor(site.key, site.key.public_key()).intercept(context, lambda context: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr-")}


def activate(server: Server, site: Site) -> int:
    body = ActivateNodeRequest(public_key=site.public.pem.encode(), heartbeat_interval=30).SerializeToString()
    path = "/v1/fleet/activate-node"
    return server.ask(path, body=body, headers={**site.headers(path, body), **flower_headers(site)}).status


def test_health_is_told_to_everybody_with_the_time(server):
    found = server.ask("/health", method="GET")

    assert found.status == 200
    assert found.headers["date"]
    assert found.headers["server"] is None


def test_an_admitted_site_reaches_flower_and_a_revoked_one_does_not_from_its_next_request(server):
    with Control.open(server.files) as control:
        control.register("south", SOUTH.public.pem.encode())
    admit(server.home, NORTH, SOUTH)
    assert activate(server, SOUTH) == 200
    admit(server.home, NORTH)

    assert activate(server, SOUTH) == 401


def test_a_request_without_flowers_own_headers_is_refused_by_flower_still(server):
    body = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()

    assert server.ask(PULL, body=body, headers=NORTH.headers(PULL, body)).status == 401


@pytest.mark.parametrize(("path", "status"), [("/v1/control/list-runs", 404), ("/v1/runtime/acquire-task", 404), (PULL, 401)])
def test_from_outside_there_is_no_control_and_no_runtime_and_no_fleet_for_strangers(server, path, status):
    token = {"Authorization": f"Bearer {server.files.token}"}

    assert [server.ask(path, headers=headers).status for headers in ({}, token)] == [status, status]


def test_inside_control_asks_for_the_token_and_runtime_for_the_secret(server):
    paths = "/v1/control/list-runs", "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/runtime/pull-messages"

    assert {server.ask(path, private=True).status for path in paths} == {401}
    assert server.ask(paths[0], private=True, headers={"Authorization": "Bearer wrong"}).status == 401
    assert server.ask(paths[0], private=True, headers={"Authorization": f"Bearer {server.files.token}"}).status == 200
    assert server.ask(PULL, private=True, headers=NORTH.headers(PULL)).status == 404


def test_the_public_socket_speaks_nothing_but_tls(server):
    with socket.create_connection(("127.0.0.1", server.ports.public), timeout=PATIENCE) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")


def test_a_large_body_of_a_stranger_is_refused_before_it_is_read(server):
    before = server.memory
    context = ssl.create_default_context(cafile=server.authority)
    with (
        socket.create_connection(("localhost", server.ports.public), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(f"POST {PULL} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {SAMPLE}\r\n\r\n".encode())
        sent, answer = 0, b""
        with contextlib.suppress(OSError):
            while sent < SAMPLE:
                sent += secured.send(b"x" * 65536)
        with contextlib.suppress(OSError):
            answer = secured.recv(4096)

    assert sent < SAMPLE, "it was read to its end"
    assert not answer or answer.startswith(b"HTTP/1.1 401")
    assert server.memory - before < 16 * 1024 * 1024


def test_who_was_heard_last_is_written_down_for_others(server):
    server.ask(PULL, headers=NORTH.headers(PULL))

    eventually(lambda: ages(server.files.folder, time.time()).get("north", 99.0) < 9.0)
    assert "south" not in ages(server.files.folder, time.time())


def test_the_health_service_says_that_it_serves(server):
    assert check_health(f"127.0.0.1:{server.ports.health}") == "serving"


def test_control_registers_and_unregisters_and_says_no_in_our_words(server):
    site = Site("east")
    with Control.open(server.files) as control:
        number = control.register("east", site.public.pem.encode())
        assert ("east", number, site.public.pem.encode()) in [(node.name, node.number, node.public_key) for node in control.nodes()]
        with pytest.raises(MisuseError, match="admitted already"):
            control.register("east", site.public.pem.encode())
        control.remove(number)
        assert all(node.name != "east" for node in control.nodes())
        with pytest.raises(FedradError, match="registered, or was once") as error:
            control.register("east", site.public.pem.encode())
        assert "fedrad-site renew" in error.value.hint
        with pytest.raises(FedradError, match="no node key"):
            control.register("west", b"no key")


def test_a_wrong_token_is_said_with_its_remedy(server):
    with Control(f"127.0.0.1:{server.ports.private}", "wrong") as control, pytest.raises(FedradError, match="token") as error:
        control.nodes()

    assert "start it again" in error.value.hint


def test_its_files_are_for_its_owner_alone(server):
    modes = {path.name: path.stat().st_mode & 0o077 for path in server.files.folder.rglob("*")}

    assert set(modes.values()) == {0}, modes


def test_a_killed_server_comes_back_at_the_same_address_with_the_same_nodes(tmp_path):
    home = Home.create(tmp_path / "home")
    admit(home, NORTH)
    log = tmp_path / "server.log"
    with serving(home, log) as first:
        with Control.open(first.files) as control:
            control.register("north", NORTH.public.pem.encode())
        headers = {**NORTH.headers(PULL), **flower_headers(NORTH)}
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
    assert check_health(f"127.0.0.1:{first.ports.health}", patience=0.5) == "unreachable"
    home.superlink.ready_file.unlink()
    with serving(home, log) as second:
        assert (second.ports.public, second.ports.private) == (first.ports.public, first.ports.private)
        assert activate(second, NORTH) == 200
        assert second.ask(PULL, headers=headers).status == 503, "a copy of a request from before the restart passed"
    assert not home.superlink.ready_file.exists()
    assert "Traceback" not in log.read_text()


def test_two_servers_do_not_share_a_home(server, tmp_path):
    import subprocess
    import sys

    ended = subprocess.run(
        [sys.executable, "-m", "fedrad_server.superlink", str(server.home.directory)], capture_output=True, text=True, timeout=PATIENCE
    )

    assert ended.returncode == 1
    assert "in use by another process" in ended.stderr
    assert json.loads(server.files.ready_file.read_text())["pid"] == server.process.pid
