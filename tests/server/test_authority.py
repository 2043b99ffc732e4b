"""The server's certificate, as a site's Python sees it: believed with our authority and by our names, and by nothing else."""

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrad_common.chain import utc_now
from fedrad_common.errors import FormatError, MisuseError
from fedrad_server.authority import (
    Institution,
    adopt,
    authority_text,
    make_authority,
    make_server_certificate,
    read_certificate,
)

HOSTS = ("fl.example.org", "localhost", "127.0.0.1")
NOW = utc_now()
DAY = datetime.timedelta(days=1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return own(tmp_path / "home")


def own(home: Path, *, now: datetime.datetime = NOW) -> Path:
    (home / "keys").mkdir(parents=True)
    make_authority(home, now=now)
    make_server_certificate(home, HOSTS, now=now)
    return home


@contextmanager
def serving(home: Path) -> Iterator[int]:
    """A TLS server on loopback that says "hello" to one who believes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "keys/server.pem", home / "keys/server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as stream:
                    stream.sendall(b"hello")
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def connect(home: Path, name: str, *, authority: str | None, strict: bool = True) -> bytes:
    context = ssl.create_default_context(cadata=authority)
    if strict:  # as newer Pythons are by default
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    with (
        serving(home) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as stream,
    ):
        return stream.recv(5)


@pytest.mark.parametrize("name", HOSTS)
def test_a_site_that_has_our_authority_believes_the_server_by_each_of_its_names(home: Path, name: str) -> None:
    assert connect(home, name, authority=authority_text(home)) == b"hello"


def test_without_our_authority_the_server_is_not_believed(home: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed"):
        connect(home, "localhost", authority=None)


def test_another_authority_of_the_same_make_is_not_believed(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(own(tmp_path / "other"), "localhost", authority=authority_text(home))


@pytest.mark.parametrize("name", ["example.org", "other.example.org", "127.0.0.2"])
def test_by_another_name_the_server_is_not_believed(home: Path, name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(home, name, authority=authority_text(home))


def test_an_expired_certificate_is_not_believed(tmp_path: Path) -> None:
    old = own(tmp_path / "old", now=NOW - 398 * DAY)

    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(old, "localhost", authority=authority_text(old))


def test_renewed_by_the_same_authority_a_site_needs_nothing_new(home: Path) -> None:
    known, before = authority_text(home), (home / "keys/server.pem").read_bytes()
    key = (home / "keys/server.key").read_bytes()
    make_server_certificate(home, ("new.example.org",), now=NOW)

    assert (home / "keys/server.pem").read_bytes() != before
    assert (home / "keys/server.key").read_bytes() != key
    assert connect(home, "new.example.org", authority=known) == b"hello"


def test_a_certificate_lives_at_most_397_days_and_never_longer_than_its_authority(home: Path) -> None:
    found = load(home / "keys/server.pem")
    assert found.not_valid_after_utc - found.not_valid_before_utc <= 397 * DAY
    assert found.not_valid_before_utc < NOW - DAY / 4, "a site whose clock is some hours behind must believe it"

    last = load(home / "keys/authority.pem").not_valid_after_utc
    assert datetime.timedelta(days=3650) < last - NOW < datetime.timedelta(days=3653)
    assert make_server_certificate(home, HOSTS, now=last - 10 * DAY).not_after == last
    with pytest.raises(MisuseError, match="has expired"):
        make_server_certificate(home, HOSTS, now=last)


def test_keys_may_do_what_they_are_for_and_no_more(home: Path) -> None:
    authority, server = load(home / "keys/authority.pem"), load(home / "keys/server.pem")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)

    assert server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    usage = server.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (False, True)
    assert list(server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_private_keys_are_for_their_owner_only(home: Path) -> None:
    for name in ("authority.key", "server.key"):
        assert (home / "keys" / name).stat().st_mode & 0o777 == 0o600


def test_what_a_person_should_know_of_the_certificate(home: Path) -> None:
    found = read_certificate(home)

    assert (found.hosts, found.own) == (HOSTS, True)
    assert found.days_left(NOW) in (395, 396)


def test_a_lost_or_foreign_authority_key_is_said_to_be_so(home: Path, tmp_path: Path) -> None:
    other = own(tmp_path / "other")
    (home / "keys/authority.key").write_bytes((other / "keys/authority.key").read_bytes())
    with pytest.raises(FormatError, match=r"is not the key of authority\.pem"):
        make_server_certificate(home, HOSTS, now=NOW)

    (home / "keys/authority.key").unlink()
    with pytest.raises(MisuseError, match="is not here"):
        make_server_certificate(home, HOSTS, now=NOW)


# ── an institution's certificate ──


@pytest.fixture
def institution(tmp_path: Path) -> Institution:
    return issue(tmp_path / "institution")


def issue(folder: Path, *, hosts: tuple[str, ...] = HOSTS, now: datetime.datetime = NOW) -> Institution:
    """As a hospital's computing centre would: its root, an authority below it, a certificate with its chain."""
    folder.mkdir()
    root, middle, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    top = certify("root", root, "root", root, now=now, level=1)
    below = certify("middle", middle, "root", root, now=now, level=0)
    leaf = certify("server", server, "middle", middle, now=now, level=None, hosts=hosts)
    (folder / "chain.pem").write_bytes(pem(leaf) + pem(below))
    (folder / "root.pem").write_bytes(pem(top))
    form = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(server.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return Institution(folder / "chain.pem", folder / "server.key", folder / "root.pem")


def certify(subject, key, issuer, signing, *, now, level, hosts=()) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=level is not None, path_length=level), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts[:2]]), critical=False)
    return builder.sign(signing, hashes.SHA256())


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    (tmp_path / "bare" / "keys").mkdir(parents=True)
    return tmp_path / "bare"


def test_an_institutions_certificate_serves_with_its_chain_and_there_is_no_authority_key(bare: Path, institution: Institution) -> None:
    found = adopt(bare, institution, HOSTS[:2])

    assert (found.hosts, found.own) == (HOSTS[:2], False)
    assert not (bare / "keys/authority.key").exists()
    assert (bare / "keys/server.key").stat().st_mode & 0o777 == 0o600
    assert connect(bare, "localhost", authority=authority_text(bare), strict=False) == b"hello"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("other-host", "for host 'elsewhere.org': does not hold this name"),
        ("expired", "for host 'fl.example.org': has expired"),
        ("other-authority", "for host 'fl.example.org': is signed by an authority that is not believed"),
        ("no-authority", "for host 'fl.example.org': is signed by an authority that is not believed"),
        ("no-chain", "for host 'fl.example.org': is signed by an authority that is not believed"),
        ("other-key", "--key: is not the key of the certificate"),
        ("encrypted-key", "--key: is not a PEM private key without a passphrase"),
        ("no-certificate", "--certificate: holds no certificate"),
        ("missing", "--key: nowhere.key: no such file"),
    ],
)
def test_a_certificate_that_sites_would_refuse_is_refused_here(
    bare: Path, institution: Institution, tmp_path: Path, fault: str, error: str
) -> None:
    hosts = HOSTS[:2]
    match fault:
        case "other-host":
            hosts = (*hosts, "elsewhere.org")
        case "expired":
            institution = issue(tmp_path / "old", now=NOW - 100 * DAY)
        case "other-authority":
            institution = Institution(institution.certificate, institution.key, issue(tmp_path / "other").authority)
        case "no-authority":
            institution = Institution(institution.certificate, institution.key, None)
        case "no-chain":
            institution.certificate.write_bytes(pem(load(institution.certificate)))
        case "other-key":
            institution = Institution(institution.certificate, issue(tmp_path / "other").key, institution.authority)
        case "encrypted-key":
            key = serialization.load_pem_private_key(institution.key.read_bytes(), None)
            secret = serialization.BestAvailableEncryption(b"secret")
            institution.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret))
        case "no-certificate":
            institution.certificate.write_text("not a certificate")
        case "missing":
            institution = Institution(institution.certificate, tmp_path / "nowhere.key", institution.authority)

    with pytest.raises(MisuseError) as refused:
        adopt(bare, institution, hosts)
    assert error in str(refused.value)
    assert list((bare / "keys").iterdir()) == []


def test_a_home_with_an_authority_of_its_own_keeps_it(home: Path, institution: Institution) -> None:
    before = (home / "keys/server.pem").read_bytes()

    with pytest.raises(MisuseError, match="has an authority of its own"):
        adopt(home, institution, HOSTS[:2])
    assert (home / "keys/server.pem").read_bytes() == before
