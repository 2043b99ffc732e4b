"""The key by which the coordinator's server knows this node: EC P-384, made at the site. (What leaves is signed by another one.)"""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key

from fedrad_common.errors import FormatError
from fedrad_common.files import write_atomic
from fedrad_common.identity import NodePublicKey

PRIVATE, PUBLIC = Path("keys") / "node.key", Path("keys") / "node.pub"


def node_key(home: Path) -> EllipticCurvePrivateKey:
    """The site's node key, made at the first call; its public half lies beside it, to be given to the coordinator.

    Raises:
        FormatError: the file is no such key.
    """
    path = home / PRIVATE
    if not path.exists():
        _make(path)
    key = read_node_key(path)
    public = NodePublicKey(key.public_key()).pem.encode()
    if not (home / PUBLIC).exists() or (home / PUBLIC).read_bytes() != public:
        write_atomic(home / PUBLIC, public, mode=0o644)
    return key


def read_node_key(path: Path) -> EllipticCurvePrivateKey:
    """What is there; nothing is made. Raises FormatError when it is no EC P-384 key."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError(f"{PRIVATE}: is not an EC P-384 key in OpenSSH format", hint="remove it, and make a new one: fedrad-site renew")
    return key


def renew_node_key(home: Path) -> EllipticCurvePrivateKey:
    """A new key in the old one's place. A node that runs keeps the old one in memory, and is refused once the new one is admitted.

    Raises:
        FormatError: the old one is damaged, which a person should know before it is gone.
    """
    node_key(home)
    _make(home / PRIVATE)
    return node_key(home)


def _make(path: Path) -> None:
    key = generate_private_key(SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    write_atomic(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), mode=0o600)
