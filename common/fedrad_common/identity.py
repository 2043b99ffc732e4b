"""The keys by which the two sides know each other: made where they are used, kept with mode 0600, named by the hash of their public half.

Ed25519 signs what is kept: orders, envelopes, receipts. EC P-384 is a node's key, by which it connects: Flower asks for that kind.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA384

from fedrad_common.canonical import sha256_hex
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import write_atomic


@dataclass(frozen=True)
class PublicKey:
    raw: bytes  # 32 bytes

    @classmethod
    def from_hex(cls, text: str) -> "PublicKey":
        try:
            raw = bytes.fromhex(text.strip())
            Ed25519PublicKey.from_public_bytes(raw)
        except ValueError:
            raise FormatError("public key: not 64 hexadecimal digits of an Ed25519 key", hint="ask its owner for it again") from None
        return cls(raw)

    @classmethod
    def load(cls, path: Path) -> "PublicKey":
        """Read a file of hexadecimal digits. Raises FormatError when it holds anything else."""
        return cls.from_hex(path.read_bytes()[:256].decode("ascii", "replace"))

    @property
    def hex(self) -> str:
        return self.raw.hex()

    @property
    def id(self) -> str:
        return sha256_hex(self.raw)

    def verify(self, message: bytes, signature: bytes, *, what: str) -> None:
        """Raises FormatError when `signature` is not this key's over `message`."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            raise FormatError(f"{what}: the signature does not fit", hint="it was changed on the way, or signed by another key") from None


@dataclass(frozen=True)
class SigningKey:
    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "SigningKey":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            raise MisuseError(f"{path.name}: no such key", hint="run init first") from None
        except (ValueError, TypeError):  # TypeError: it is encrypted
            raise FormatError(f"{path.name}: is not a PEM private key", hint="restore it from the backup") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise FormatError(f"{path.name}: is not an Ed25519 key", hint="restore it from the backup")
        return cls(key)

    def save(self, path: Path) -> None:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_atomic(path, self.private.private_bytes(encoding, form, serialization.NoEncryption()), mode=0o600)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.private.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        return self.private.sign(message)


@dataclass(frozen=True)
class NodePublicKey:
    """The public half of a node's EC P-384 key."""

    key: EllipticCurvePublicKey

    @classmethod
    def from_pem(cls, pem: str | bytes) -> "NodePublicKey":
        """Raises FormatError when it is anything else, or is not written as we write it: one key has one text."""
        content = pem.encode() if isinstance(pem, str) else pem
        try:
            key = serialization.load_pem_public_key(content)
        except ValueError:
            key = None
        if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1) or cls(key).pem.encode() != content:
            raise FormatError("node key: is not an EC P-384 public key in PEM format", hint="ask its owner for it again")
        return cls(key)

    @property
    def pem(self) -> str:
        """SubjectPublicKeyInfo, as Flower wants it."""
        return self.key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def id(self) -> str:
        return sha256_hex(self.pem.encode())

    def verify(self, message: bytes, signature: bytes, *, what: str) -> None:
        """Raises FormatError when `signature` is not this key's over `message`."""
        try:
            self.key.verify(signature, message, ECDSA(SHA384()))
        except InvalidSignature:
            raise FormatError(f"{what}: the signature does not fit", hint="it was changed on the way, or signed by another key") from None


def node_signature(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ECDSA(SHA384()))
