"""An audit's runs as lines of a file, so that one that was stopped goes on where it was, and never mixes two settings."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import MisuseError
from fedrad_common.files import exclusive_lock, make_folder, write_atomic
from fedrad_common.progress import Advance, progress_bar

FORMAT = "fedrad-audit-runs-1"
Row = Mapping[str, Any]
Bar = Callable[[str], AbstractContextManager[Advance]]  # of what is being done
SILENT: Bar = functools.partial(progress_bar, quiet=True)


def played(path: Path, settings: Row, total: int, play: Callable[[int], Row], *, bar: Bar, what: str) -> list[Row]:
    """The rows 0 … total - 1: what the file holds already, and what `play` gives for the rest.

    Args:
        settings: all that a row depends on; a file of other settings is refused.

    Raises:
        MisuseError: the file belongs to other settings.
        BusyError: another audit is at it.
    """
    head = canonical_json({"format": FORMAT, **settings})
    make_folder(path.parent)
    with exclusive_lock(path.with_suffix(".lock"), what=path.name):
        rows = list(_read(path, head))[:total]
        if not rows:
            write_atomic(path, head + b"\n")
        with path.open("ab") as stream, bar(what) as advance:
            for number in range(len(rows), total):
                row = play(number)
                stream.write(canonical_json(row) + b"\n")
                stream.flush()
                rows.append(row)
                advance(number + 1, total)
    return rows


def _read(path: Path, head: bytes) -> Iterator[Row]:
    """Whole lines; what a killed audit half wrote is cut off."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.split(b"\n")[:-1] or [b""]
    if first != head:
        raise MisuseError(f"{path.name}: holds runs of other settings", hint="name a new folder with --out")
    if whole != content:
        write_atomic(path, whole)
    for line in lines:
        yield json.loads(line)
