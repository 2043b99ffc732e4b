"""The SuperLink's own folder in the coordinator's home: token, secret, ports, state. Readable without Flower."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FedradError
from fedrad_common.files import write_atomic

READY_FORMAT: Literal["fedrad-superlink-1"] = "fedrad-superlink-1"
Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(Section):
    format: Literal["fedrad-superlink-1"] = READY_FORMAT
    public: Port  # for sites
    private: Port  # for the coordinator's own programs
    health: Port | None = None  # gRPC health service, on loopback; a free one at each start
    host: str = "127.0.0.1"  # of the public one
    pid: int | None = None


@dataclass(frozen=True)
class SuperLinkFiles:
    folder: Path

    def prepare(self) -> None:
        """Make the folder and, once, the token of Control and the secret of Runtime."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        for name in ("token", "secret"):
            if not (self.folder / name).exists():
                write_atomic(self.folder / name, secrets.token_hex(32).encode() + b"\n")

    @property
    def token(self) -> str:
        return self._word("token")

    @property
    def secret(self) -> str:
        return self._word("secret")

    @property
    def database(self) -> Path:
        return self.folder / "state.db"

    @property
    def objects(self) -> Path:
        """Vectors on their way, one file each, until their receiver has them."""
        return self.folder / "objects"

    @property
    def ready_file(self) -> Path:
        """There while the server listens."""
        return self.folder / "ready.json"

    @property
    def ports_file(self) -> Path:
        """The ports of the last start, which sites know."""
        return self.folder / "ports.json"

    @property
    def ports(self) -> Ports | None:
        return parse_json(self.ports_file.read_bytes(), Ports, name="ports.json") if self.ports_file.exists() else None

    @property
    def serving(self) -> Ports:
        """Raises FedradError when the server is not running."""
        try:
            return parse_json(self.ready_file.read_bytes(), Ports, name="ready.json")
        except FileNotFoundError:
            raise not_running() from None

    def _word(self, name: str) -> str:
        try:
            return (self.folder / name).read_text().strip()
        except FileNotFoundError:
            raise not_running() from None


def not_running() -> FedradError:
    return FedradError("the coordinator's server is not running", hint="start it with: fedrad-coordinator start HOME")
