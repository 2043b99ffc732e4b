"""CPU seconds of a program's processes, each under the name of what it does: what a loaded machine does not change much."""

import os
from collections import defaultdict
from pathlib import Path

from programs import tree  # type: ignore[import-not-found] # beside this one

_ROLES = {
    b"fedrad_server.superlink": "server", b"fedrad_server.player": "player", b"fedrad_server.tidying": "tidying",
    b"fedrad-coordinator": "supervisor", b"fedrad_client.work": "a site's child", b"distinct_node": "a site's node",
}  # fmt: skip
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> dict[str, float]:
    """Of a program and its children so far, user and system, by role; processes that have ended are not among them."""
    found: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        except OSError:
            continue
        role = next((role for part, role in _ROLES.items() if part in words), "other")
        found[role] += sum(map(int, times)) / _TICKS
    return found
