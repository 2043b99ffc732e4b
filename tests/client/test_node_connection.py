"""A node connects to its coordinator alone: over TLS, through the hospital's proxy, each request signed, each answer bounded."""

import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.certificates import Authority
from fakes.servers import Reply, Server, proxying, serving

from fedrad_client.config import Coordinator
from fedrad_client.node import wire
from fedrad_client.node.connection import Route, proxy_for, route_of
from fedrad_client.node.troubles import trouble_of
from fedrad_common.address import parse_address
from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import ConfigError, FormatError, MisuseError
from fedrad_common.requests import read_claim

# isort: split
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse
from flwr.supernode.fleet_http_client import FleetHttpClient

KEY = ec.generate_private_key(ec.SECP384R1())
REQUEST = ActivateNodeRequest(public_key=b"k", heartbeat_interval=10)
ADMITTED: Reply = (200, {"content-type": "application/protobuf"}, ActivateNodeResponse(node_id=7).SerializeToString())


@dataclass
class Stage:
    home: Path
    authority: Authority
    stack: ExitStack
    looked_up: list[str] = field(default_factory=list)

    def serve(self, *replies: Reply) -> Server:
        """A coordinator's server; the last reply is given for ever."""
        left = list(replies or (ADMITTED,))
        certificate = self.authority.issue(self.home, "127.0.0.1", "localhost", "fl.example.org")
        return self.stack.enter_context(serving(certificate, lambda asked: left.pop(0) if len(left) > 1 else left[0]))

    def route(self, server: str, *, authority: str = "authority.pem", **environment: str) -> Route:
        return route_of(self.home, Coordinator(server=server, authority=authority), environment=environment)

    def ask(self, server: str, **environment: str) -> int:
        with self.route(server, **environment).fleet(KEY, site="north") as fleet:
            return int(fleet.ActivateNode(REQUEST).node_id)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    authority = Authority.make()
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    with ExitStack() as stack:
        made, real = Stage(tmp_path, authority, stack), socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: made.looked_up.append(host) or real(host, *rest, **named))
        yield made


# ── whom it believes ──


def test_a_server_that_the_coordinators_authority_vouches_for_is_believed(stage: Stage) -> None:
    assert stage.ask(f"127.0.0.1:{stage.serve().port}") == 7
    assert stage.ask(f"localhost:{stage.serve().port}") == 7


def test_another_authority_that_the_machine_trusts_is_not_believed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the same server is believed by whoever trusts what this machine trusts."""
    server = f"127.0.0.1:{stage.serve().port}"
    monkeypatch.setenv("SSL_CERT_FILE", str(stage.home / "authority.pem"))
    (stage.home / "other.pem").write_bytes(Authority.make("other").pem)

    with stage.route(server, authority="").fleet(KEY, site="north") as fleet:
        assert fleet.ActivateNode(REQUEST).node_id == 7
    with stage.route(server, authority="other.pem").fleet(KEY, site="north") as fleet, pytest.raises(httpx.ConnectError) as failed:
        fleet.ActivateNode(REQUEST)
    assert trouble_of(failed.value).code == "tls-authority"


def test_no_setting_of_the_environment_makes_a_connection_unchecked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("SSLKEYLOGFILE", stage.home / "keys.log"),
        ("PYTHONHTTPSVERIFY", "0"),
        ("CURL_CA_BUNDLE", ""),
        ("SSL_CERT_DIR", ""),
    ):
        monkeypatch.setenv(name, str(value))
    route = stage.route(f"127.0.0.1:{stage.serve().port}")
    assert stage.ask(str(route.address)) == 7

    assert (route.context.verify_mode, route.context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert route.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert not (stage.home / "keys.log").exists(), "the session's keys were written down"


def test_a_plain_server_gets_no_request_even_on_loopback(stage: Stage) -> None:
    plain = stage.stack.enter_context(serving(None, lambda asked: ADMITTED))
    with pytest.raises(httpx.ConnectError):
        stage.ask(f"127.0.0.1:{plain.port}")

    assert plain.asked == []
    with FleetHttpClient.from_server_address(f"127.0.0.1:{plain.port}", True, None, interceptors=[]) as stock:
        assert stock.ActivateNode(REQUEST).node_id == 7, "control: the server would have answered Flower's plain client"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no certificate"),
        (b"\xff\xfe", "holds no certificate"),
        (b"-----BEGIN", "holds no certificate"),
        (None, "cannot be read"),
    ],
)
def test_an_authority_that_is_no_certificate_is_refused_before_anything_is_sent(stage: Stage, content: bytes | None, message: str) -> None:
    if content is not None:
        (stage.home / "wrong.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=f"wrong.pem: {message}") as refused:
        stage.route("127.0.0.1:1", authority="wrong.pem")

    assert "invitation" in refused.value.hint


@pytest.mark.parametrize(
    ("server", "message"), [("", "coordinator.server: is empty"), ("https://fl.example.org", "is a URL"), ("host", "is not HOST:PORT")]
)
def test_a_coordinator_that_is_no_address_is_refused_with_a_hint(stage: Stage, server: str, message: str) -> None:
    with pytest.raises(MisuseError, match=message) as refused:
        stage.route(server)

    assert refused.value.hint


# ── what it sends ──


def test_each_request_is_signed_over_its_own_body_and_each_retry_anew(stage: Stage) -> None:
    server = stage.serve()
    for _ in range(2):
        stage.ask(f"127.0.0.1:{server.port}")

    claims = [read_claim(asked.headers) for asked in server.asked]
    for asked, claim in zip(server.asked, claims, strict=True):
        claim.verify(KEY.public_key(), "POST", "/v1/fleet/activate-node")
        assert (claim.site, claim.digest) == ("north", sha256_hex(REQUEST.SerializeToString(deterministic=True)))
        assert asked.body == REQUEST.SerializeToString(deterministic=True)
    assert claims[0].nonce != claims[1].nonce
    with pytest.raises(FormatError):
        claims[0].verify(KEY.public_key(), "POST", "/v1/fleet/push-messages")


def test_flowers_own_headers_are_there_too(stage: Stage) -> None:
    server = stage.serve()
    stage.ask(f"127.0.0.1:{server.port}")

    names = set(server.asked[0].headers)
    assert {"flwr-public-key", "flwr-signature"} <= names or len([name for name in names if "signature" in name]) == 2
    assert [name for name in names if "version" in name]


# ── whom it contacts ──


def test_a_redirect_is_not_followed(stage: Stage) -> None:
    """Control: Flower's own client follows it, and asks whomever the server names."""
    elsewhere = stage.serve()
    first = stage.serve((302, {"location": f"https://127.0.0.1:{elsewhere.port}/"}, b""))
    with pytest.raises(httpx.HTTPStatusError):
        stage.ask(f"127.0.0.1:{first.port}")
    assert elsewhere.asked == []

    with FleetHttpClient.from_server_address(f"127.0.0.1:{first.port}", False, stage.authority.pem, interceptors=[]) as stock:
        stock.ActivateNode(REQUEST)
    assert [asked.method for asked in elsewhere.asked] == ["GET"]


def test_only_the_coordinators_name_is_looked_up(stage: Stage) -> None:
    stage.ask(f"localhost:{stage.serve().port}")

    assert set(stage.looked_up) == {"localhost"}


def test_a_header_of_the_servers_does_not_end_the_process(stage: Stage) -> None:
    """Flower's own interceptor calls sys.exit when the server says that versions differ."""
    server = stage.serve((400, {}, b'{"code": 1001, "detail": "Jane Doe"}'))

    with pytest.raises(httpx.HTTPStatusError):
        stage.ask(f"127.0.0.1:{server.port}")


def test_a_proxy_is_used_and_the_coordinators_name_is_looked_up_there(stage: Stage) -> None:
    server = stage.serve()
    port, told = stage.stack.enter_context(proxying(server.port))

    assert stage.ask("fl.example.org:9092", HTTPS_PROXY=f"http://nurse:secret@127.0.0.1:{port}") == 7
    assert told[0].startswith(b"CONNECT fl.example.org:9092 ")
    assert b"Proxy-Authorization: Basic " in told[0]
    assert set(stage.looked_up) == {"127.0.0.1"}
    assert not [name for name in server.asked[0].headers if name.startswith("proxy")]


def test_the_proxy_cannot_read_what_goes_through_it(stage: Stage) -> None:
    port, told = stage.stack.enter_context(proxying(stage.serve().port))
    stage.ask("fl.example.org:9092", HTTPS_PROXY=f"127.0.0.1:{port}")

    assert b"north" not in told[0]
    assert b"x-fedrad" not in told[0].lower()


@pytest.mark.parametrize(
    ("address", "environment", "proxied"),
    [
        ("fl.example.org:443", {"HTTPS_PROXY": "http://proxy:3128"}, True),
        ("fl.example.org:443", {"https_proxy": "proxy:3128"}, True),
        ("fl.example.org:443", {"HTTP_PROXY": "http://proxy:3128"}, False),
        ("fl.example.org:443", {}, False),
        ("fl.example.org:443", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example.org"}, False),
        ("fl.example.org:443", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, False),
        ("fl.example.org:443", {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "localhost"}, True),
        ("127.0.0.1:443", {"HTTPS_PROXY": "http://proxy:3128"}, False),
        ("localhost:443", {"HTTPS_PROXY": "http://proxy:3128"}, False),
        ("[::1]:443", {"HTTPS_PROXY": "http://proxy:3128"}, False),
    ],
)
def test_the_proxy_of_the_environment_is_honoured_and_this_machine_exempt(address: str, environment: dict[str, str], proxied: bool) -> None:
    found = proxy_for(parse_address(address, what="server"), environment)

    assert (found is not None) == proxied


@pytest.mark.parametrize("url", ["socks5://proxy:1080", "ftp://proxy", "http://pro xy:1", "http://nurse:secret@[x"])
def test_a_proxy_that_cannot_be_spoken_through_is_refused_without_quoting_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        proxy_for(parse_address("fl.example.org:443", what="server"), {"HTTPS_PROXY": url})

    assert "secret" not in f"{refused.value} {refused.value.hint}"


# ── what it reads ──


def padded(size: int) -> bytes:
    """A right answer with a field behind it that no version of Flower knows, and that its parser skips."""
    return ADMITTED[2] + b"\x7a" + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14 & 0x7F | 0x80, size >> 21]) + bytes(size)


@pytest.mark.parametrize(
    "reply",
    [(200, {}, padded(9 * 1024 * 1024)), (200, {"content-encoding": "gzip"}, gzip.compress(padded(7 * 1024 * 1024)))],
    ids=["too long", "packed"],
)
def test_an_answer_that_is_larger_than_any_of_flowers_or_packed_is_not_read_to_its_end(stage: Stage, reply: Reply) -> None:
    """Control: the same in a size that Flower's answers have, and not packed, is read."""
    assert stage.ask(f"127.0.0.1:{stage.serve((200, {}, padded(7 * 1024 * 1024))).port}") == 7
    with pytest.raises(httpx.DecodingError) as failed:
        stage.ask(f"127.0.0.1:{stage.serve(reply).port}")

    assert trouble_of(failed.value).code == "answer"


def test_an_answer_that_is_no_message_is_not_quoted(stage: Stage) -> None:
    with pytest.raises(FormatError) as failed:
        stage.ask(f"127.0.0.1:{stage.serve((200, {}, b'Jane Doe')).port}")

    assert trouble_of(failed.value).code == "answer"
    assert "Jane" not in str(failed.value)


def test_an_answer_that_trickles_ends(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_SECONDS", -1.0)
    with pytest.raises(httpx.ReadTimeout):
        stage.ask(f"127.0.0.1:{stage.serve().port}")


# ── what else there is ──


def test_two_threads_share_one_client(stage: Stage) -> None:
    server, found = stage.serve(), []
    with stage.route(f"127.0.0.1:{server.port}").fleet(KEY, site="north") as fleet:
        threads = [threading.Thread(target=lambda: found.append(fleet.ActivateNode(REQUEST).node_id)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert found == [7] * 4
    assert len({read_claim(asked.headers).nonce for asked in server.asked}) == 4


def test_a_look_at_who_vouches_is_not_repeated_at_every_failure(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(stage.home / "authority.pem"))
    (stage.home / "other.pem").write_bytes(Authority.make("other").pem)
    server = stage.serve()
    route = stage.route(f"127.0.0.1:{server.port}", authority="other.pem")
    with route.fleet(KEY, site="north") as fleet:
        codes = []
        for _ in range(3):
            with pytest.raises(httpx.ConnectError) as failed:
                fleet.ActivateNode(REQUEST)
            codes.append(route.diagnose(failed.value).code)

    assert codes == ["tls-intercepted"] * 3
    assert [asked.path for asked in server.asked] == ["/health"]


def test_the_module_switches_flowers_telemetry_off_by_itself() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    program = "import fedrad_client.node.connection; import flwr.supercore.telemetry as telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "0"
