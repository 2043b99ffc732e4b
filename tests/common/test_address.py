"""Until connections are encrypted, nothing listens or connects beyond this machine."""

import pytest

from fedrad_common.address import loopback
from fedrad_common.errors import MisuseError


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("localhost:9", ("127.0.0.1", 9)), ("127.3.2.1:1", ("127.3.2.1", 1)), ("[::1]:5", ("[::1]", 5))],
)
def test_addresses_of_this_machine_are_taken(text, found):
    assert loopback(text, what="--server") == found


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1:80",
        "0.0.0.0:80",
        "hospital.example:80",
        "localhost.example:80",
        "127.0.0.1",
        "127.0.0.1:0",
        "127.0.0.1:70000",
        ":80",
        "127.0.0.1:٣",
    ],
)
def test_all_others_are_refused_with_a_hint(text):
    with pytest.raises(MisuseError) as refused:
        loopback(text, what="--server")

    assert str(refused.value).startswith("--server: ")
    assert "127.0.0.1:PORT" in refused.value.hint
