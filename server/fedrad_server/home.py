"""The coordinator's own folder: its signing key, the sites that it has admitted, its runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from fedrad_common.canonical import Sha256
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import MisuseError
from fedrad_common.files import fsync_directory, write_atomic, write_json
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.records import SiteName
from fedrad_server.layout import whole_folder

_KEY, _PUBLIC, _ROSTER, _RUNS = "keys/coordinator.key", "keys/coordinator.pub", "roster.json", "runs"


class Roster(Section):
    format: Literal["fedrad-roster-1"] = "fedrad-roster-1"
    sites: dict[SiteName, Sha256] = {}  # each site's Ed25519 public key, in hex


@dataclass(frozen=True)
class Home:
    directory: Path

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make the folder with a new signing key and an empty roster. Raises MisuseError when something is there."""
        key = SigningKey.generate()
        with whole_folder(directory) as folder:
            for name in ("keys", _RUNS):
                (folder / name).mkdir(mode=0o700)
            key.save(folder / _KEY)
            write_atomic(folder / _PUBLIC, f"{key.public.hex}\n".encode(), mode=0o644)
            write_json(folder / _ROSTER, Roster().model_dump(mode="json"))
            fsync_directory(folder / "keys")
        return cls(directory)

    @classmethod
    def open(cls, directory: Path) -> Self:
        if not (directory / _ROSTER).is_file():
            raise MisuseError(f"{directory}: is no coordinator's home", hint=f"make one with: fedrad-coordinator init {directory}")
        return cls(directory)

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.directory / _KEY)

    @property
    def public(self) -> PublicKey:
        return PublicKey.from_hex((self.directory / _PUBLIC).read_text())

    @property
    def roster(self) -> dict[str, str]:
        """Each site's public key in hex, by name. Raises FormatError when the file is damaged or of another version."""
        return dict(sorted(parse_json((self.directory / _ROSTER).read_bytes(), Roster, name=_ROSTER).sites.items()))

    def save_roster(self, sites: dict[str, str]) -> None:
        write_json(self.directory / _ROSTER, Roster(sites=sites).model_dump(mode="json"))

    @property
    def runs(self) -> list[Path]:
        return sorted(path.parent for path in (self.directory / _RUNS).glob("[!.]*/launch.json"))
