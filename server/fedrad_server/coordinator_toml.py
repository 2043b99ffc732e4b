"""The coordinator's own settings, `coordinator.toml`: where its server listens, and by which names sites know it."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedrad_common.address import Address, parse_address
from fedrad_common.config import Section, load_toml
from fedrad_common.errors import MisuseError

SETTINGS = "coordinator.toml"
LOCAL_HOSTS = ("localhost", "127.0.0.1")
LOCAL_LISTEN, OPEN_LISTEN = "127.0.0.1:0", "0.0.0.0:9092"

TEMPLATE = """\
# A fedrad coordinator. After a change: restart `fedrad-coordinator start`.
format = "fedrad-coordinator-1"
listen = {listen}           # where the server listens for sites; port 0: a free one, kept over restarts
hosts = {hosts}  # names and addresses in the server's certificate; after a change: fedrad-coordinator renew HOME
address = {address}                     # HOST:PORT as sites see it, written into invitations; empty: the first host and the server's port
keep_gigabytes = {keep}             # of old rounds of one run; what is older goes, updates first; manifests, envelopes and receipts stay
"""


def _parsed(text: str, *, least_port: int) -> Address:
    try:
        return parse_address(text, what="address", least_port=least_port)
    except MisuseError:  # the key stands in the message that is made of this
        raise ValueError("must be HOST:PORT") from None


def _listen(text: str) -> str:
    return str(_parsed(text, least_port=0))


def _address(text: str) -> str:
    return str(_parsed(text, least_port=1)) if text else ""


def _host(text: str) -> str:
    try:
        return parse_address(f"[{text}]:1" if ":" in text else f"{text}:1", what="host").host
    except MisuseError:
        raise ValueError("must be a host's name or address, without a port") from None


class Settings(Section):
    format: Literal["fedrad-coordinator-1"] = "fedrad-coordinator-1"
    listen: Annotated[str, AfterValidator(_listen)] = LOCAL_LISTEN
    hosts: Annotated[tuple[Annotated[str, AfterValidator(_host)], ...], Field(min_length=1)] = LOCAL_HOSTS
    address: Annotated[str, AfterValidator(_address)] = ""
    keep_gigabytes: Annotated[float, Field(ge=0)] = 1.5  # of each run; `replay` begins at the oldest round whose updates are kept

    @property
    def listen_host(self) -> str:
        return _parsed(self.listen, least_port=0).host

    @property
    def listen_port(self) -> int:
        """0: any free one."""
        return _parsed(self.listen, least_port=0).port

    def seen_as(self, port: int) -> str:
        """The address for sites, where the server's real port is `port`."""
        return self.address or str(Address(self.hosts[0], port))


def load_settings(home: Path) -> Settings:
    """Raises ConfigError: no such file, or a key does not say what it must."""
    return load_toml(home / SETTINGS, Settings)


def render(settings: Settings) -> str:
    """The commented file that `fedrad-coordinator init` writes. JSON's strings and lists are TOML's, too."""
    return TEMPLATE.format(
        listen=json.dumps(settings.listen),
        hosts=json.dumps(list(settings.hosts)),
        address=json.dumps(settings.address),
        keep=settings.keep_gigabytes,
    )
