"""The key by which the coordinator's server knows this node: EC P-384, made at the site. (What leaves is signed by another one.)"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key

from fedrad_common.errors import FormatError
from fedrad_common.files import write_atomic

PRIVATE, PUBLIC = Path("keys") / "node.key", Path("keys") / "node.pub"


def node_key(home: Path) -> EllipticCurvePrivateKey:
    """The site's node key, made at the first call; its public half lies beside it, to be given to the coordinator.

    Raises:
        FormatError: the file is no such key.
    """
    path = home / PRIVATE
    if not path.exists():
        _make(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError("keys/node.key: is not an EC P-384 key in OpenSSH format", hint="remove it and be admitted again with a new one")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    if not (home / PUBLIC).exists() or (home / PUBLIC).read_bytes() != public:
        write_atomic(home / PUBLIC, public, mode=0o644)
    return key


def _make(path: Path) -> None:
    key = generate_private_key(SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    write_atomic(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), mode=0o600)
