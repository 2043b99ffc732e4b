"""When each site was last heard by the coordinator's server: written there, read by whoever asks who is away. Readable without Flower."""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat

from fedrad_common.canonical import canonical_json
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import FedradError, FormatError
from fedrad_common.files import disk_errors
from fedrad_common.records import SiteName

FILE = "contacts.json"
GONE = 9.0  # seconds of silence: a node speaks every 3, also while it works


class Contacts(Section):
    format: Literal["fedrad-contacts-1"] = "fedrad-contacts-1"
    sites: dict[SiteName, NonNegativeFloat] = {}  # seconds since 1970 of the last request that carried the site's signature


def ages(folder: Path, now: float) -> dict[str, float]:
    """Seconds since each site was last heard; a site that was never heard is missing.

    Args:
        folder: of the coordinator's server, HOME/superlink.
        now: seconds since 1970.

    Raises:
        FedradError: another account's file.
    """
    return {site: max(0.0, now - at) for site, at in _read(folder / FILE).items()}


@dataclass
class ContactBook:
    """The server's side: `note` each request, `flush` about once a second. Times of before a restart stay true."""

    folder: Path
    _sites: dict[str, float] = field(init=False)
    _written: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        try:
            self._sites = _read(self.folder / FILE)
        except FedradError:  # replaced by the first `flush`
            self._sites = {}
        self._written = {}

    def note(self, site: str, now: float) -> None:
        self._sites[site] = now

    def flush(self, admitted: Collection[str]) -> None:
        """Write what is new, of the sites that are still admitted. Raises DiskError; the former file is then untouched."""
        current = {site: at for site, at in self._sites.copy().items() if site in admitted}
        if current == self._written:
            return
        path, beside = self.folder / FILE, self.folder / f".{FILE}.tmp"
        with disk_errors(path):
            beside.write_bytes(canonical_json(Contacts(sites=current).model_dump(mode="json")) + b"\n")
            beside.replace(path)  # no fsync: a power cut loses what a second of running brings back
        self._written = current


def _read(path: Path) -> dict[str, float]:
    """Nothing where there is no file, or one that a power cut left empty."""
    try:
        return dict(parse_json(path.read_bytes(), Contacts, name=FILE).sites)
    except (FileNotFoundError, FormatError):
        return {}
    except PermissionError:
        raise FedradError(f"{FILE}: cannot be read", hint="run this as the account that the coordinator runs as") from None
