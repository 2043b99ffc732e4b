"""The server's next certificate, and what the audit log says of it."""

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from fedrad_common.chain import utc_now
from fedrad_common.errors import MisuseError
from fedrad_common.files import exclusive_lock
from fedrad_server.audit import record
from fedrad_server.authority import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    Certificate,
    Institution,
    adopt,
    make_server_certificate,
    replace_authority,
    was_own,
)
from fedrad_server.home import Home


def renew_certificate(home: Home, *, institution: Institution | None = None, new_authority: bool = False) -> Certificate:
    """A new server certificate for the hosts in coordinator.toml.

    Raises:
        MisuseError: there is no authority of our own, and no new certificate was brought; or sites would refuse what was brought.
        FormatError: the authority's files are damaged.
    """
    hosts, now = home.settings.hosts, utc_now()
    with exclusive_lock(home.directory / "renew.lock", what="the coordinator's certificate"):
        if institution is not None:
            made = adopt(home.directory, institution, hosts)
        elif new_authority:
            _check_own(home)
            made = replace_authority(home.directory, hosts, now=now)
        else:
            made = make_server_certificate(home.directory, hosts, now=now)
        facts = {"certificate": _fingerprint(home, SERVER)}
        if (home.directory / AUTHORITY).exists():
            facts["authority"] = _fingerprint(home, AUTHORITY)
        record(home.directory, "renew", **facts)
    return made


def _check_own(home: Home) -> None:
    """A lost key leaves its certificate behind; an institution's authority must not be replaced by ours unasked."""
    if not (home.directory / AUTHORITY_KEY).exists() and not was_own(home.directory):
        raise MisuseError(
            "--new-authority: this home has the institution's certificate", hint="bring the next one with --certificate and --key"
        )


def _fingerprint(home: Home, name: str) -> str:
    return x509.load_pem_x509_certificates((home.directory / name).read_bytes())[0].fingerprint(SHA256()).hex()
