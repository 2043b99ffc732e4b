"""Each trouble between a node and its coordinator is provoked for real, and named with a code, a sentence and a remedy."""

import json
import socket
import ssl
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.certificates import DAY, Authority
from fakes.servers import Reply, Server, accepting, free_port, proxying, serving

from fedrad_client.config import Coordinator
from fedrad_client.node.connection import Route, check_in, route_of
from fedrad_client.node.pieces import UNDELIVERED
from fedrad_client.node.troubles import TROUBLES, Trouble, trouble, trouble_of

# isort: split
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

CANARY = "Jane Doe"
KEY = ec.generate_private_key(ec.SECP384R1())


@dataclass
class Stage:
    """A site's home that believes one authority, and whatever a test puts at the coordinator's address."""

    home: Path
    authority: Authority
    stack: ExitStack

    def serve(self, *names: str, by: Authority | None = None, begins: timedelta = -DAY, ends: timedelta = DAY, **server: object) -> Server:
        certificate = (by or self.authority).issue(self.home, *(names or ("127.0.0.1", "fl.example.org")), begins=begins, ends=ends)
        return self.stack.enter_context(serving(certificate, **server))  # type: ignore[arg-type]

    def answering(self, status: int, headers: dict[str, str] | None = None, body: bytes = CANARY.encode()) -> str:
        reply: Reply = (status, headers or {}, body)
        return f"127.0.0.1:{self.serve(answer=lambda asked: reply).port}"

    def route(self, server: str, *, authority: str = "authority.pem", **environment: str) -> Route:
        return route_of(self.home, Coordinator(server=server, authority=authority), environment=environment)

    def trouble(self, server: str, **environment: str) -> Trouble | None:
        return check_in(self.route(server, **environment), KEY, site="north")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    authority = Authority.make()
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    with ExitStack() as stack:
        yield Stage(tmp_path, authority, stack)


def test_a_site_that_is_admitted_has_no_trouble(stage: Stage) -> None:
    """The server of most tests here: what they refuse is not refused for another reason. Flower's refusal of an interval is the sign."""
    server = stage.answering(400, body=json.dumps({"code": int(ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL), "detail": CANARY}).encode())

    assert stage.trouble(server) is None


def test_a_look_at_who_is_in_between_takes_no_longer_than_it_may(stage: Stage) -> None:
    """A device that lets the first connection fail and the second hang."""
    waits: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"])
        raise httpx.ReadTimeout("")

    route = stage.route(f"127.0.0.1:{stage.serve(by=Authority.make('another')).port}")
    with pytest.raises(httpx.ConnectError) as failed, route.http() as client:
        client.get(f"https://{route.address}/health")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, "http", lambda context: httpx.Client(transport=httpx.MockTransport(answer)))
        found = route.diagnose(failed.value, patience=0.3)

    assert found.code == "tls-authority"
    assert waits == [dict.fromkeys(("connect", "read", "write", "pool"), 0.3)]


def test_an_answer_that_no_parser_can_hold_is_named(stage: Stage) -> None:
    found = stage.trouble(stage.answering(400, body=b'{"code":' + b"[" * 100_000))

    assert found is not None
    assert found.code == "answer"


def refused(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{free_port()}")


def unreachable(stage: Stage) -> Trouble | None:
    return stage.trouble("255.255.255.255:443")  # Linux knows of no way for TCP there, and sends nothing


def dns(stage: Stage) -> Trouble | None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", _unknown_name)  # the machine of a test has no name service, and must not ask one
        return stage.trouble("fl.example.org:443")


def _unknown_name(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, CANARY)


def timeout(stage: Stage) -> Trouble | None:
    port = stage.stack.enter_context(accepting(_listen_for_ever))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedrad_client.node.wire._TIMEOUT", httpx.Timeout(0.2))
        return stage.trouble(f"127.0.0.1:{port}")


def _listen_for_ever(found: socket.socket) -> None:
    while found.recv(65536):
        pass


def cut(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.stack.enter_context(accepting(lambda found: None))}")


def no_tls(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.stack.enter_context(serving(None)).port}")


def tls_old(stage: Stage) -> Trouble | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return stage.trouble(f"127.0.0.1:{stage.serve(context=context).port}")


def tls_authority(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.serve(by=Authority.make('another')).port}")


def tls_intercepted(stage: Stage) -> Trouble | None:
    """The hospital's proxy opens connections: its authority is among those that the machine trusts."""
    device = Authority.make("device")
    (stage.home / "machine.pem").write_bytes(device.pem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(stage.home / "machine.pem"))
        server = stage.serve(by=device)
        found = stage.trouble(f"127.0.0.1:{server.port}")
    assert [(asked.method, asked.path) for asked in server.asked] == [("GET", "/health")]
    assert not [name for name in server.asked[0].headers if name.startswith(("x-fedrad", "flwr", "x-flwr"))], "it was shown to the device"
    return found


def tls_expired(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.serve(begins=-2 * DAY, ends=-DAY).port}")


def tls_not_yet_valid(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.serve(begins=DAY, ends=2 * DAY).port}")


def tls_name(stage: Stage) -> Trouble | None:
    return stage.trouble(f"127.0.0.1:{stage.serve('other.example.org').port}")


def tls(stage: Stage) -> Trouble | None:
    """A server that speaks no cipher of ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    return stage.trouble(f"127.0.0.1:{stage.serve(context=context).port}")


def through(stage: Stage, *, refuses: bytes) -> Trouble | None:
    port, _ = stage.stack.enter_context(proxying(free_port(), refuses=refuses))
    return stage.trouble("fl.example.org:443", HTTPS_PROXY=f"http://127.0.0.1:{port}")


PROVOKED = {
    "refused": refused,
    "unreachable": unreachable,
    "dns": dns,
    "timeout": timeout,
    "cut": cut,
    "no-tls": no_tls,
    "tls-old": tls_old,
    "tls-authority": tls_authority,
    "tls-intercepted": tls_intercepted,
    "tls-expired": tls_expired,
    "tls-not-yet-valid": tls_not_yet_valid,
    "tls-name": tls_name,
    "tls": tls,
    "proxy-unreachable": lambda stage: stage.trouble("fl.example.org:443", HTTPS_PROXY=f"127.0.0.1:{free_port()}"),
    "proxy-login": lambda stage: through(stage, refuses=b"407 " + CANARY.encode()),
    "proxy-refused": lambda stage: through(stage, refuses=b"403 " + CANARY.encode()),
    "not-admitted": lambda stage: stage.trouble(stage.answering(401)),
    "clock": lambda stage: stage.trouble(stage.answering(401, {"x-fedrad-reason": "clock"})),
    "version": lambda stage: stage.trouble(
        stage.answering(400, body=json.dumps({"code": int(ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE), "detail": CANARY}).encode())
    ),
    "too-large": lambda stage: stage.trouble(stage.answering(413)),
    "restarted": lambda stage: stage.trouble(stage.answering(503, {"x-fedrad-reason": "restarted"})),
    "server": lambda stage: stage.trouble(stage.answering(503)),
    "answer": lambda stage: stage.trouble(stage.answering(200)),  # no protobuf message
    "pieces": lambda stage: trouble_of(ObjectPullError(CANARY, CANARY)),
    "unknown": lambda stage: trouble_of(RuntimeError(CANARY)),
}


@pytest.mark.parametrize("code", TROUBLES)
def test_each_trouble_has_a_code_a_sentence_and_a_remedy(stage: Stage, code: str) -> None:
    found = PROVOKED[code](stage)

    assert found is not None
    assert found.code == code
    assert found.sentence.startswith(TROUBLES[code][0])
    assert found.hint
    assert CANARY not in f"{found}"


def test_the_sentences_are_worded_like_all_our_errors() -> None:
    for sentence, hint in TROUBLES.values():
        assert sentence[0].islower()
        assert not sentence.endswith(".")
        assert not hint.endswith(".")


def test_a_code_of_another_release_has_a_sentence_too() -> None:
    assert trouble("solar-flare") == Trouble("solar-flare", *TROUBLES["unknown"])


def test_flowers_own_exceptions_of_pieces_are_known_by_name() -> None:
    assert [error.__name__ for error in UNDELIVERED] == ["ObjectPullError", "ObjectPushError"]
    assert {trouble_of(error.__new__(error)).code for error in UNDELIVERED} == {"pieces"}


@pytest.mark.parametrize("status", [302, 404, 409])
def test_any_other_status_is_named_by_its_number_alone(stage: Stage, status: int) -> None:
    found = stage.trouble(stage.answering(status, {"location": "https://127.0.0.1:1/"}))

    assert found is not None
    assert found.code == "answer"
    assert found.sentence.endswith(f"(status {status})")


def test_a_node_that_flower_does_not_know_is_not_admitted(stage: Stage) -> None:
    found = stage.trouble(
        stage.answering(400, body=json.dumps({"code": int(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED), "detail": CANARY}).encode())
    )

    assert found == trouble("not-admitted")
