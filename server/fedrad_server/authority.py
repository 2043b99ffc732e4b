"""The server's certificate: signed by an authority of the coordinator's own, or brought by the institution."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import write_atomic
from fedrad_server.handshake import refusal

AUTHORITY, AUTHORITY_KEY = "keys/authority.pem", "keys/authority.key"
SERVER, SERVER_KEY = "keys/server.pem", "keys/server.key"
AUTHORITY_DAYS = 3652  # ten years
SERVER_DAYS = 397  # browsers and some clients refuse a server's certificate that lives longer
_BACKDATED = datetime.timedelta(hours=12)  # for sites whose clock is behind


@dataclass(frozen=True)
class Institution:
    """A certificate that somebody else made. Files that a person names; they are copied."""

    certificate: Path  # PEM: the server's own first, then those between it and the authority
    key: Path
    authority: Path | None  # None: one that every machine knows


@dataclass(frozen=True)
class Certificate:
    """What a person should know of the server's certificate."""

    hosts: tuple[str, ...]
    not_after: datetime.datetime  # UTC
    own: bool  # signed by the coordinator's own authority, which can renew it

    def days_left(self, now: datetime.datetime) -> int:
        return (self.not_after - now).days


@dataclass(frozen=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(home: Path, *, now: datetime.datetime) -> None:
    """A new authority: it can sign certificates of servers, and no further authority."""
    _save(home, _new_authority(now), AUTHORITY, AUTHORITY_KEY)


def make_server_certificate(home: Path, hosts: tuple[str, ...], *, now: datetime.datetime) -> Certificate:
    """A new key and certificate for the server, signed by the home's own authority; sites need nothing new.

    Raises:
        MisuseError: the authority's key is not here. FormatError: it is damaged, or not that of the authority's certificate.
    """
    _save(home, _new_server(own_authority(home), hosts, now), SERVER, SERVER_KEY)
    return read_certificate(home)


def replace_authority(home: Path, hosts: tuple[str, ...], *, now: datetime.datetime) -> Certificate:
    """A new authority, and a server certificate by it. Both are made before one is written; killed in between, `doctor` says what to do."""
    authority = _new_authority(now)
    server = _new_server(authority, hosts, now)
    _save(home, authority, AUTHORITY, AUTHORITY_KEY)
    _save(home, server, SERVER, SERVER_KEY)
    return read_certificate(home)


def _new_authority(now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP384R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedrad authority {identifier.digest.hex()[:16]}")])
    certificate = (
        _builder(name, name, key.public_key(), now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )
    return _Pair(certificate, key)


def _new_server(authority: _Pair, hosts: tuple[str, ...], now: datetime.datetime) -> _Pair:
    end = authority.certificate.not_valid_after_utc
    if now >= end:
        raise MisuseError("keys/authority.pem: has expired", hint="fedrad-coordinator renew HOME --new-authority; each site then needs it")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedrad coordinator")])
    certificate = (
        _builder(subject, authority.certificate.subject, key.public_key(), now=now, days=SERVER_DAYS, end=end)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return _Pair(certificate, key)


def adopt(home: Path, institution: Institution, hosts: tuple[str, ...]) -> Certificate:
    """Copy the institution's certificate and key, once a site would believe them for every host.

    Raises:
        MisuseError: a file is missing or is no PEM, the key is encrypted or another's, or a site would refuse the certificate.
    """
    if (home / AUTHORITY_KEY).exists():
        raise MisuseError(
            "--certificate: this home has an authority of its own",
            hint="sites believe that one: make a new home, or move keys/authority.key away and give each site a new invitation",
        )
    chain, key = _read(institution.certificate, "--certificate"), _read(institution.key, "--key")
    authority = _read(institution.authority, "--authority") if institution.authority else b""
    _check_pem(chain, key, authority)
    for host in hosts:
        try:
            why = refusal(institution.certificate, institution.key, host=host, authority=authority.decode())
        except ssl.SSLError as error:
            raise MisuseError(
                f"--certificate: cannot be used ({error.reason})", hint="ask who made it for a PEM chain and its key"
            ) from None
        if why:
            raise MisuseError(f"--certificate: for host {host!r}: {why}", hint="sites would refuse the server: see --host and --authority")
    write_atomic(home / SERVER_KEY, key)
    write_atomic(home / SERVER, chain, mode=0o644)
    if authority:
        write_atomic(home / AUTHORITY, authority, mode=0o644)
    else:
        (home / AUTHORITY).unlink(missing_ok=True)
    return read_certificate(home)


def was_own(home: Path) -> bool:
    """Whether the authority's certificate is one of ours, whose key may be lost."""
    try:
        found = x509.load_pem_x509_certificate((home / AUTHORITY).read_bytes())
    except (OSError, ValueError):
        return False
    return "fedrad authority" in found.subject.rfc4514_string()


def authority_text(home: Path) -> str:
    """PEM of whose certificates sites are to believe; empty: those that every machine knows."""
    path = home / AUTHORITY
    return path.read_text() if path.exists() else ""


def read_certificate(home: Path) -> Certificate:
    """Raises FormatError when the server's certificate is missing or damaged."""
    try:
        found = x509.load_pem_x509_certificates((home / SERVER).read_bytes())[0]
    except (FileNotFoundError, ValueError):
        raise FormatError(f"{SERVER}: is missing or damaged", hint="make a new one: fedrad-coordinator renew HOME") from None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    hosts = (*names.get_values_for_type(x509.DNSName), *(str(ip) for ip in names.get_values_for_type(x509.IPAddress)))
    return Certificate(hosts, found.not_valid_after_utc, (home / AUTHORITY_KEY).exists())


def own_authority(home: Path) -> _Pair:
    """Raises MisuseError: its key is not here. FormatError: it is damaged, or its key and its certificate are of two."""
    if not (home / AUTHORITY_KEY).exists():
        raise MisuseError(
            f"{AUTHORITY_KEY}: is not here",
            hint="bring the institution's new certificate with --certificate and --key; if the key is lost: --new-authority",
        )
    try:
        certificate = x509.load_pem_x509_certificate((home / AUTHORITY).read_bytes())
        key = serialization.load_pem_private_key((home / AUTHORITY_KEY).read_bytes(), password=None)
    except (FileNotFoundError, ValueError, TypeError):
        raise FormatError("keys/authority: is damaged", hint="restore authority.pem and authority.key from the backup") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise FormatError(f"{AUTHORITY_KEY}: is not the key of authority.pem", hint="restore both from the same backup")
    return _Pair(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    now: datetime.datetime,
    days: int,
    end: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    begin = now - _BACKDATED
    last = begin + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(min(last, end or last))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _save(home: Path, pair: _Pair, certificate: str, key: str) -> None:
    """Killed between the two: they do not fit, the server and `doctor` say so, and renewing again heals it."""
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_atomic(home / key, pair.key.private_bytes(encoding, form, serialization.NoEncryption()), mode=0o600)
    write_atomic(home / certificate, pair.certificate.public_bytes(encoding), mode=0o644)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise MisuseError(f"{option}: {path.name}: {why}", hint="name a PEM file that you may read") from None


def _check_pem(chain: bytes, key: bytes, authority: bytes) -> None:
    """What ssl would say in words of its own, or ask for at the terminal."""
    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        raise MisuseError("--certificate: holds no certificate in PEM format", hint="ask who made it for a PEM chain") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        raise MisuseError(
            "--key: is not a PEM private key without a passphrase",
            hint="the server starts unattended: decrypt it, it is kept with mode 0600",
        ) from None
    if cast("ec.EllipticCurvePrivateKey", private).public_key() != first.public_key():
        raise MisuseError("--key: is not the key of the certificate", hint="the server's own certificate comes first in its file")
    try:
        if authority:
            x509.load_pem_x509_certificates(authority)
    except ValueError:
        raise MisuseError("--authority: holds no certificate in PEM format", hint="ask who made it for a PEM file") from None
