"""The coordinator's own folder: its settings and keys, the sites that it has admitted, its runs."""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from fedrad_common.canonical import Sha256
from fedrad_common.chain import utc_now
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import check_account, fsync_directory, write_atomic, write_json
from fedrad_common.identity import NodePublicKey, PublicKey, SigningKey
from fedrad_common.records import SiteName
from fedrad_server.audit import record
from fedrad_server.authority import Institution, adopt, make_authority, make_server_certificate
from fedrad_server.coordinator_toml import SETTINGS, Settings, load_settings, render
from fedrad_server.layout import whole_folder
from fedrad_server.superlink.files import SuperLinkFiles

_KEY, _PUBLIC, _ROSTER, _RUNS = "keys/coordinator.key", "keys/coordinator.pub", "roster.json", "runs"


class Member(Section):
    """An admitted site."""

    envelope: Sha256  # the Ed25519 public key that signs its updates, in hex
    node: str  # PEM of the EC P-384 public key by which its node connects
    admitted: str  # ISO 8601 date
    created: str = ""  # when it made the request that was admitted last, by its own clock, ISO 8601 in UTC; empty in an older roster

    @property
    def node_key(self) -> NodePublicKey:
        return NodePublicKey.from_pem(self.node)


class Roster(Section):
    format: Literal["fedrad-roster-2"] = "fedrad-roster-2"
    sites: dict[SiteName, Member] = {}
    retired: tuple[Sha256, ...] = ()  # ids of node keys that were admitted once: none comes back, in an old request or otherwise


@dataclass(frozen=True)
class Home:
    directory: Path

    @classmethod
    def create(
        cls,
        directory: Path,
        settings: Settings | None = None,
        *,
        institution: Institution | None = None,
        now: datetime.datetime | None = None,
    ) -> Self:
        """Make the folder with new keys, certificates and an empty roster; without `settings` for this machine alone.

        Raises:
            MisuseError: something is there, or the institution's certificate is not for these hosts. Nothing was made.
        """
        settings, key, now = settings or Settings(), SigningKey.generate(), now or utc_now()
        with whole_folder(directory) as folder:
            for name in ("keys", _RUNS):
                (folder / name).mkdir(mode=0o700)
            key.save(folder / _KEY)
            write_atomic(folder / _PUBLIC, f"{key.public.hex}\n".encode(), mode=0o644)
            if institution is None:
                make_authority(folder, now=now)
                make_server_certificate(folder, settings.hosts, now=now)
            else:
                adopt(folder, institution, settings.hosts)
            SuperLinkFiles(folder / "superlink").prepare()
            write_atomic(folder / SETTINGS, render(settings).encode())
            write_json(folder / _ROSTER, Roster().model_dump(mode="json"))
            record(folder, "init", coordinator=key.public.hex)
            fsync_directory(folder / "keys")
        return cls(directory)

    @classmethod
    def open(cls, directory: Path) -> Self:
        if not (directory / _ROSTER).is_file():
            raise MisuseError(f"{directory}: is no coordinator's home", hint=f"make one with: fedrad-coordinator init {directory}")
        return cls(directory)

    @classmethod
    def own(cls, directory: Path) -> Self:
        """Open it to write to it. Raises MisuseError when another account owns it."""
        opened = cls.open(directory)
        check_account(directory)
        return opened

    @property
    def key(self) -> SigningKey:
        return SigningKey.load(self.directory / _KEY)

    @property
    def public(self) -> PublicKey:
        return PublicKey.from_hex((self.directory / _PUBLIC).read_text())

    @property
    def settings(self) -> Settings:
        return load_settings(self.directory)

    @property
    def superlink(self) -> SuperLinkFiles:
        return SuperLinkFiles(self.directory / "superlink")

    @property
    def roster_file(self) -> Path:
        """Replaced as a whole at each change."""
        return self.directory / _ROSTER

    @property
    def admissions(self) -> Roster:
        """Raises FormatError when the file is damaged or of another version."""
        content = (self.directory / _ROSTER).read_bytes()
        if _format(content) == "fedrad-roster-1":
            raise FormatError(
                f"{_ROSTER}: was written by a release without certificates",
                hint="make a new home with fedrad-coordinator init, and admit each site again; finished runs can be moved there",
            )
        return parse_json(content, Roster, name=_ROSTER)

    @property
    def members(self) -> dict[str, Member]:
        """The admitted sites by name, sorted."""
        return dict(sorted(self.admissions.sites.items()))

    @property
    def roster(self) -> dict[str, str]:
        """Each site's public envelope key in hex, by name: what a launch signs."""
        return {name: member.envelope for name, member in self.members.items()}

    def save_members(self, members: dict[str, Member]) -> None:
        """Replace the admitted sites; node keys that are no longer among them are retired for good."""
        former = self.admissions
        gone = {member.node_key.id for member in former.sites.values()} - {member.node_key.id for member in members.values()}
        roster = Roster(sites=members, retired=tuple(sorted({*former.retired, *gone})))
        write_json(self.directory / _ROSTER, roster.model_dump(mode="json"))


def _format(content: bytes) -> object:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value.get("format") if isinstance(value, dict) else None
