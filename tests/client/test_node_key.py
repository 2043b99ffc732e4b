"""The node's own key: made once, private, and its public half beside it."""

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fedrad_client.node.key import PRIVATE, PUBLIC, node_key
from fedrad_common.errors import FormatError


@pytest.fixture
def home(tmp_path):
    (tmp_path / "keys").mkdir()
    return tmp_path


def test_the_key_is_made_once_and_only_its_owner_may_read_it(home):
    first, again = node_key(home), node_key(home)

    assert first.private_numbers() == again.private_numbers()
    assert (home / PRIVATE).stat().st_mode & 0o777 == 0o600


def test_the_public_half_is_for_the_coordinator(home):
    key = node_key(home)

    assert load_pem_public_key((home / PUBLIC).read_bytes()) == key.public_key()
    assert b"PRIVATE" not in (home / PUBLIC).read_bytes()


def test_a_damaged_key_is_refused_and_kept(home):
    (home / PRIVATE).write_bytes(b"nonsense")

    with pytest.raises(FormatError):
        node_key(home)
    assert (home / PRIVATE).read_bytes() == b"nonsense"
