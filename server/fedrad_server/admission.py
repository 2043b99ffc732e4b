"""Which sites take part: a node key that may connect, and an envelope key whose signature counts. Both are given by a person."""

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey

from fedrad_common.config import validate
from fedrad_common.errors import MisuseError
from fedrad_common.identity import PublicKey
from fedrad_server.control import Control
from fedrad_server.home import Home, Roster
from fedrad_server.superlink.files import SuperLinkFiles


def admit_site(home: Path, name: str, *, node_key: Path, envelope_key: str) -> None:
    """Register the node and add the site to the roster of runs launched from now on.

    Raises:
        MisuseError: the name or a key is taken or malformed. FedradError: the coordinator's server is not running.
    """
    opened = Home.open(home)
    sites, envelope = opened.roster, PublicKey.from_hex(envelope_key).hex
    if name in sites:
        raise MisuseError(f"{name}: is admitted already", hint="revoke it first, or use another name")
    if envelope in sites.values():
        raise MisuseError(f"{name}: another site has this envelope key", hint="ask the site for its own")
    validate({"sites": {**sites, name: envelope}}, Roster, name="roster.json")
    public = _node_key(node_key)
    with Control.open(SuperLinkFiles(home / "superlink")) as control:
        control.register(name, public)
    opened.save_roster({**sites, name: envelope})


def revoke_site(home: Path, name: str) -> None:
    """Take a site off the roster and refuse its node from its next call on. Raises MisuseError for an unknown one."""
    opened = Home.open(home)
    sites = opened.roster
    with Control.open(SuperLinkFiles(home / "superlink")) as control:
        control.unregister(name)
    opened.save_roster({other: key for other, key in sites.items() if other != name})


def _node_key(path: Path) -> bytes:
    """The PEM bytes of an EC P-384 public key, as Flower wants them."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except FileNotFoundError:
        raise MisuseError(f"--node-key: {path.name}: no such file", hint="ask the site for its keys/node.pub") from None
    except ValueError:
        key = None
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise MisuseError(
            f"--node-key: {path.name}: is not an EC P-384 public key in PEM format", hint="ask the site for its keys/node.pub"
        )
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
