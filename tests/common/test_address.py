"""HOST:PORT as a person writes it: any host's, or a refusal that says how to write it."""

import pytest

from fedrad_common.address import Address, parse_address
from fedrad_common.errors import MisuseError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("fl.example.org:9092", "fl.example.org", 9092),
        ("FL.Example.ORG:443", "fl.example.org", 443),
        ("coordinator:1", "coordinator", 1),
        ("fl_2.example.org:65535", "fl_2.example.org", 65535),
        ("xn--krankenhaus-xyz.example:443", "xn--krankenhaus-xyz.example", 443),
        ("10.0.0.1:80", "10.0.0.1", 80),
        ("localhost:9", "localhost", 9),
        ("[2001:DB8::1]:443", "2001:db8::1", 443),
    ],
)
def test_any_host_is_taken_and_written_back_as_it_is_understood(text, host, port):
    found = parse_address(text, what="--server")

    assert found == Address(host, port)
    assert parse_address(str(found), what="again") == found


@pytest.mark.parametrize(
    "text",
    [
        "", "fl.example.org", ":80", "fl.example.org:", "fl.example.org:0", "fl.example.org:65536", "fl.example.org:٣", "fl.example.org:+1",
        "fl.example.org:80/x", "fl.example.org/x:80", "https://fl.example.org:443", "user@fl.example.org:443", "fl .example.org:443",
        "fl..example.org:443", ".example.org:443", "fl.example.org.:443", "-fl.example.org:443", "klinik-münchen.example:443",
        "1.2.3:80", "1.2.3.256:80", "::1:80", "[::1:80", "[fe80::1%eth0]:80", "[127.0.0.1]:80", "[fl.example.org]:80", f"{'a' * 64}.org:80",
        f"{'a.' * 130}org:80", "fl.example.org\n:80",
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_hint(text):
    with pytest.raises(MisuseError) as refused:
        parse_address(text, what="--server")

    assert str(refused.value).startswith("--server: ")
    assert "fl.example.org:9092" in refused.value.hint


def test_a_free_port_can_be_asked_for_where_that_has_a_meaning():
    assert parse_address("0.0.0.0:0", what="listen", least_port=0) == Address("0.0.0.0", 0)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        *((f"{host}:1", True) for host in ("127.0.0.1", "127.3.2.1", "[::1]", "localhost")),
        *((f"{host}:1", False) for host in ("10.0.0.1", "localhost.example", "[2001:db8::1]")),
    ],
)
def test_this_machine_is_known_without_a_look_up(text, own, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("a name was looked up"))

    assert parse_address(text, what="server").loopback == own
