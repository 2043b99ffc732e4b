"""Keys are what their file says they are, or are refused with a word on what to do."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.identity import SigningKey

PEM, PKCS8 = Encoding.PEM, PrivateFormat.PKCS8
FILES = {
    "nonsense": b"nonsense",
    "encrypted": Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, BestAvailableEncryption(b"secret")),
    "another kind": generate_private_key(SECP384R1()).private_bytes(PEM, PKCS8, NoEncryption()),
}


def test_a_key_comes_back_as_it_was(tmp_path: Path) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "a.key")

    assert SigningKey.load(tmp_path / "a.key").public == key.public
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_key_of_ours_is_refused_with_a_hint(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.key").write_bytes(FILES[kind])

    with pytest.raises(FormatError, match=r"^a\.key: ") as refused:
        SigningKey.load(tmp_path / "a.key")
    assert refused.value.hint


def test_a_key_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="no such key"):
        SigningKey.load(tmp_path / "a.key")
