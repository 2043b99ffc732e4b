"""Admitting and revoking a site: both keys or none, and the roster is as it was when anything is wrong."""

from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedrad_common.errors import ConfigError, FedradError, FormatError, MisuseError
from fedrad_common.identity import SigningKey
from fedrad_server import admission
from fedrad_server.admission import admit_site, revoke_site
from fedrad_server.home import Home


@dataclass
class FakeControl:
    registered: dict[str, bytes] = field(default_factory=dict)
    down: bool = False

    def __enter__(self):
        if self.down:
            raise FedradError("the coordinator's server is not running")
        return self

    def __exit__(self, *_):
        return None

    def register(self, name, key):
        self.registered[name] = key

    def unregister(self, name):
        if name not in self.registered:
            raise MisuseError(f"{name}: no node of this name is admitted")
        del self.registered[name]


@pytest.fixture
def control(monkeypatch):
    fake = FakeControl()
    monkeypatch.setattr(admission.Control, "open", lambda files: fake)
    return fake


@pytest.fixture
def home(tmp_path):
    return Home.create(tmp_path / "coordinator").directory


def public_key(path, curve=ec.SECP384R1):
    key = ec.generate_private_key(curve()).public_key()
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture
def node_key(tmp_path):
    return public_key(tmp_path / "node.pub")


ENVELOPE = SigningKey.generate().public.hex


def test_an_admitted_site_may_connect_and_is_on_the_roster(home, control, node_key):
    admit_site(home, "north", node_key=node_key, envelope_key=ENVELOPE)

    assert control.registered == {"north": node_key.read_bytes()}
    assert Home.open(home).roster == {"north": ENVELOPE}


def test_a_revoked_site_is_shut_out_and_may_come_back_with_new_keys(home, control, node_key):
    admit_site(home, "north", node_key=node_key, envelope_key=ENVELOPE)
    revoke_site(home, "north")

    assert (control.registered, Home.open(home).roster) == ({}, {})
    admit_site(home, "north", node_key=node_key, envelope_key=ENVELOPE)


@pytest.mark.parametrize(
    ("name", "envelope", "error"),
    [
        ("north", SigningKey.generate().public.hex, MisuseError),
        ("south", ENVELOPE, MisuseError),
        ("no/rth", "ab" * 32, ConfigError),
        ("west", "xyz", FormatError),
    ],
    ids=["taken-name", "taken-key", "malformed-name", "malformed-key"],  # the keys are drawn anew in each process
)
def test_a_taken_or_malformed_name_or_key_changes_nothing(home, control, node_key, name, envelope, error):
    admit_site(home, "north", node_key=node_key, envelope_key=ENVELOPE)
    before = dict(control.registered)

    with pytest.raises(error):
        admit_site(home, name, node_key=node_key, envelope_key=envelope)
    assert (control.registered, Home.open(home).roster) == (before, {"north": ENVELOPE})


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nno\n-----END PUBLIC KEY-----\n", None])
def test_a_node_key_of_another_kind_is_refused(home, control, tmp_path, content):
    path = public_key(tmp_path / "other.pub", ec.SECP256R1)
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(MisuseError, match="P-384"):
        admit_site(home, "north", node_key=path, envelope_key=ENVELOPE)
    assert not control.registered


def test_without_the_server_nothing_is_admitted(home, control, node_key):
    control.down = True

    with pytest.raises(FedradError, match="not running"):
        admit_site(home, "north", node_key=node_key, envelope_key=ENVELOPE)
    assert Home.open(home).roster == {}
