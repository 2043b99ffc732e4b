"""A hospital that has approved a protocol, without a command: what its node needs on disk, and the authority that it believes."""

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

sys.path.append(str(Path(__file__).resolve().parents[1]))
from echo import N_PATIENTS, make_site  # type: ignore[import-not-found] # in the folder above
from servers import Place  # type: ignore[import-not-found] # beside this one

from fedrad_client.grants import Approval, write_approval
from fedrad_client.node.key import node_key
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Home as Site
from fedrad_common.files import write_atomic, write_json
from fedrad_common.identity import NodePublicKey
from fedrad_common.protocol import parse_protocol
from fedrad_server.control import Control
from fedrad_server.home import Home, Member

# Each order is asked again after a refusal, a hundred times: a benchmark that lets orders fail needs no more than one round.
PROTOCOL = """
format = "fedrad-protocol-1"
name = "failing"
task = { kind = "echo", labels = ["lesion"] }
input = { profile = "xr", height = 8, width = 8 }
model = { name = "echo", options = { length = 16 } }
privacy = { unit = "patient", epsilon = 0.02, expected_batch = 5.0, steps_per_round = 1, rounds = 1 }
training = { learning_rate = 0.1 }
rounds = { quorum = 1, deadline_seconds = 2.0, retries = 100 }
"""


def hospital(
    folder: Path, coordinator: Home, *, server: str = "localhost:1", protocol: str = PROTOCOL, runs: int = 1
) -> tuple[Site, EllipticCurvePrivateKey]:
    """Its home, and the key by which its node connects.

    Args:
        server: for its settings; `--server` goes before it.
    """
    site = make_site(folder, coordinator.key)
    key = node_key(site.path)
    settings = site.path / "site.toml"
    text = settings.read_text().replace('authority = ""', 'authority = "keys/authority.pem"')
    settings.write_text(text.replace('server = ""', f'server = "{server}"'))
    (site.path / "keys" / "authority.pem").write_bytes((coordinator.directory / "keys" / "authority.pem").read_bytes())
    _approve(site.path, protocol.encode(), runs)
    return site, key


def _approve(home: Path, content: bytes, runs: int) -> None:
    """As the command writes it, with noise as nobody would want: the plan is not what is tried, and computing one takes seconds."""
    parsed = parse_protocol(content)
    plan = Plan(
        protocol=parsed.hash, n_parameters=int(parsed.model.options["length"]), declared_size=N_PATIENTS, sampling_rate=5 / N_PATIENTS,
        expected_batch=5.0, noise_multiplier=20.0, delta=1e-3, epsilon=0.1, evaluation="none", evaluation_noise=0.0,
    )  # fmt: skip
    folder = home / "approved" / parsed.hash
    folder.mkdir()
    write_atomic(folder / "protocol.toml", content)
    write_json(folder / "plan.json", plan.model_dump(mode="json"))
    write_approval(folder, Approval(runs=runs, since=0))


def admitted(place: Place, folder: Path, *, protocol: str = PROTOCOL, runs: int = 1) -> Site:
    """One hospital that has approved the protocol; admitted by hand, for nothing here is about that."""
    site, key = hospital(folder / "north", place.home, protocol=protocol, runs=runs)
    public = NodePublicKey(key.public_key()).pem
    place.home.save_members({"north": Member(envelope=site.envelope_key.public.hex, node=public, admitted="2026-01-01")})
    with Control.open(place.home.superlink) as control:
        control.register("north", public.encode())
    return site
