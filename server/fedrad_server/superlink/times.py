"""Up to which time a site's requests may have counted: on the disk before they do, so that none counts twice over a restart.

Nonces are in memory. After a restart every request that is signed with such a time is refused, whenever and however the former process
ended. The times are by the site's own clock: one that is ahead gets no copy through, and one that is behind is not kept out for it.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeFloat

from fedrad_common.config import Section, parse_json
from fedrad_common.errors import DiskError, FormatError
from fedrad_common.files import write_json
from fedrad_common.records import SiteName
from fedrad_server.log import say

FILE = "signed.json"
MARGIN = 5.0  # seconds that are written ahead, so that not each request waits for the disk; a restarted server refuses a site as long


class Signed(Section):
    format: Literal["fedrad-signed-1"] = "fedrad-signed-1"
    sites: dict[SiteName, NonNegativeFloat] = {}  # seconds since 1970


@dataclass
class SignedTimes:
    """`started`, seconds since 1970 by the server's clock, stands in for all times where the file is missing or damaged."""

    file: Path
    started: float
    _before: dict[str, float] | None = field(init=False)  # of the former process
    _written: dict[str, float] = field(init=False)
    _newest: dict[str, float] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _said: bool = False

    def __post_init__(self) -> None:
        self._before = _read(self.file)
        self._written = dict(self._before or {})

    def is_old(self, site: str, signed_at: float) -> bool:
        """Whether the former process may have taken it, or one of its time."""
        if self._before is None:
            return signed_at < self.started
        return signed_at <= self._before.get(site, 0.0)

    async def reserve(self, site: str, signed_at: float) -> None:
        """Returns when a request of this time may count. Raises DiskError: it may not."""
        self._newest[site] = max(signed_at, self._newest.get(site, 0.0))
        async with self._turn:
            if signed_at <= self._written.get(site, 0.0):
                return
            former = self._written
            ahead = {**former, **{name: max(at + MARGIN, former.get(name, 0.0)) for name, at in self._newest.items()}}
            try:
                await asyncio.to_thread(self._write, ahead)
            except DiskError as error:
                if not self._said:
                    say(f"server: no request is taken: {error}")
                self._said = True
                raise
            self._written, self._said = ahead, False

    def _write(self, sites: dict[str, float]) -> None:
        write_json(self.file, Signed(sites=sites).model_dump(mode="json"))


def _read(path: Path) -> dict[str, float] | None:
    try:
        return dict(parse_json(path.read_bytes(), Signed, name=FILE).sites)
    except FileNotFoundError:
        return None
    except FormatError:
        say(f"server: {FILE} is damaged: sites are refused until their clocks have passed this start")
        return None
