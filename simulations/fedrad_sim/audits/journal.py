"""An audit's runs as lines of a file, so that one that was stopped goes on where it was, and never mixes two settings, codes or data."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from fedrad_common.canonical import canonical_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import exclusive_lock, make_folder, write_atomic
from fedrad_common.progress import Advance, progress_bar
from fedrad_sim.audits import provenance

FORMAT = "fedrad-audit-runs-2"
Row = Mapping[str, Any]
Bar = Callable[[str], AbstractContextManager[Advance]]  # of what is being done
SILENT: Bar = functools.partial(progress_bar, quiet=True)
_SYNC_EVERY = 1.0  # seconds: a power cut costs no more than the rows since
_OTHER = {
    "format": "was written by another version of fedrad",
    "settings": "holds runs of other settings",
    "code": "holds runs of other code: what it says is not about the code that is here now",
    "data": "holds runs over other data",
}


def played(
    path: Path, settings: Row, total: int, play: Callable[[int], Row], *, bar: Bar, what: str, data: Iterable[npt.NDArray[Any]] = ()
) -> list[Row]:  # fmt: skip
    """The rows 0 … total - 1: what the file holds already, and what `play` gives for the rest.

    Args:
        settings, data: with the code, all that a row depends on; a file of any other is refused.

    Raises:
        MisuseError: the file belongs to other settings, code or data.
        FormatError: a line of it is damaged.
        BusyError: another audit is at it.
    """
    head = {"format": FORMAT, "settings": settings, "code": provenance.code(), "data": provenance.digest_of_arrays(data)}
    make_folder(path.parent)
    with exclusive_lock(path.with_suffix(".lock"), what=path.name):
        rows = list(_read(path, head))[:total]
        if not rows:
            write_atomic(path, canonical_json(head) + b"\n")
        with path.open("ab") as stream, bar(what) as advance:
            synced = time.monotonic()
            for number in range(len(rows), total):
                row = play(number)
                stream.write(canonical_json(row) + b"\n")
                stream.flush()
                if number + 1 == total or time.monotonic() - synced > _SYNC_EVERY:
                    os.fsync(stream.fileno())
                    synced = time.monotonic()
                rows.append(row)
                advance(number + 1, total)
    return rows


def _read(path: Path, head: Row) -> Iterator[Row]:
    """Whole lines; what a killed audit half wrote is cut off."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    first, *lines = whole.split(b"\n")[:-1] or [b""]
    held, wanted = _object(path, 1, first), json.loads(canonical_json(head))
    for key, meaning in _OTHER.items():
        if held.get(key) != wanted[key]:
            raise MisuseError(f"{path.name}: {meaning}", hint="name a new folder with --out, and play all of it again")
    if whole != content:
        write_atomic(path, whole)
    for number, line in enumerate(lines, start=2):
        yield _object(path, number, line)


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        hint = "it was not cut short but changed: name a new folder with --out, and play all of it again"
        raise FormatError(f"{path.name}: line {number} is damaged", hint=hint)
    return value
