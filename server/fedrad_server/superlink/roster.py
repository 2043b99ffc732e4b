"""The node keys of the admitted sites, as the guard needs them: read anew when the roster changes, so that a revocation counts at once."""

from dataclasses import dataclass, field
from typing import Literal

from fedrad_common.errors import FormatError
from fedrad_common.identity import NodePublicKey
from fedrad_server.home import Home
from fedrad_server.log import say

_Stamp = tuple[int, int, int]


@dataclass
class NodeKeys:
    """Whose request may pass. A roster that is missing or damaged admits nobody."""

    home: Home
    _stamp: _Stamp | Literal["missing", "unread"] = "unread"
    _keys: dict[str, NodePublicKey] = field(default_factory=dict)

    def current(self) -> dict[str, NodePublicKey]:
        """By the site's name. Costs one look at the file's date, number and length where nothing changed."""
        stamp = self._look()
        if stamp != self._stamp:
            self._keys, self._stamp = self._read(), stamp
        return self._keys

    def _look(self) -> _Stamp | Literal["missing"]:
        try:
            found = self.home.roster_file.stat()
        except OSError:
            return "missing"
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> dict[str, NodePublicKey]:
        try:
            return {name: member.node_key for name, member in self.home.members.items()}
        except (FormatError, OSError) as error:
            say(f"no site is admitted: {error if isinstance(error, FormatError) else type(error).__name__}")
            return {}
