"""What the checks look at: one site, its settings as far as they can be read, and what is costly, looked at once and shared."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client import audit
from fedrad_client.config import Coordinator, SiteConfig
from fedrad_client.doctor.imports import ImportCheck, Imported
from fedrad_client.doctor.visit import Visit, visit
from fedrad_client.privacy.ledger import KIND
from fedrad_client.site import AUDIT, LEDGER, Home
from fedrad_common.chain import Entry, read
from fedrad_common.errors import FedradError


@dataclass
class Subject:
    home: Path
    server: str | None = None  # HOST:PORT instead of the one in site.toml
    patience: float = 4.0  # seconds for each step of the network
    # In a process of its own while the other checks are made. Looked up when a subject is made: a test puts another in its place.
    imports: ImportCheck = field(default_factory=lambda: ImportCheck())  # noqa: PLW0108

    @functools.cached_property
    def config(self) -> SiteConfig | FedradError:
        try:
            return Home(self.home).config
        except FedradError as error:
            return error

    @property
    def settings(self) -> SiteConfig | None:
        return self.config if isinstance(self.config, SiteConfig) else None

    @property
    def address(self) -> str:
        return self.server or (self.settings.coordinator.server if self.settings else "")

    @functools.cached_property
    def visit(self) -> Visit:
        coordinator = self.settings.coordinator if self.settings else Coordinator()
        return visit(self.home, coordinator, server=self.server, patience=self.patience)

    @functools.cached_property
    def ledger(self) -> list[Entry] | FedradError:
        return _entries(self.home / LEDGER, KIND)

    @functools.cached_property
    def audit(self) -> list[Entry] | FedradError:
        return _entries(self.home / AUDIT, audit.KIND)

    @functools.cached_property
    def imported(self) -> Imported:
        return self.imports.result()


def _entries(path: Path, kind: str) -> list[Entry] | FedradError:
    try:
        return read(path, kind)
    except FedradError as error:
        return error
