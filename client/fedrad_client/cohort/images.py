"""A generation's pixels, read from disk when they are wanted: memory stays flat, and each image is checked each time it is read.

Nothing is mapped into memory: a map counts as memory as soon as it was looked at, and a file that is cut short while it is mapped ends
the process. No file stays open either, so that a simulation may hold the data sets of hundreds of sites.
"""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import FormatError

DIGEST_BYTES = 32  # SHA-256 of one image's stored bytes
_HINT = "restore it from the backup, or ingest again"


@dataclass(frozen=True)
class PixelFile:
    """One part: a header, then `n` images of little-endian uint16."""

    path: Path
    name: str  # inside its generation
    offset: int  # bytes before the first image
    n: int


def open_part(path: Path, name: str, shape: tuple[int, ...]) -> PixelFile:
    """Read the header. Raises FormatError when its images are not `shape`, (H, W) or (D, H, W)."""
    try:
        with path.open("rb") as stream:
            np.lib.format.read_magic(stream)
            found, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            offset = stream.tell()
    except (OSError, ValueError):
        raise _changed(name) from None
    if fortran or dtype != np.dtype("<u2") or found[1:] != shape:
        raise _changed(name)
    return PixelFile(path, name, offset, found[0])


@dataclass(frozen=True, eq=False)
class Images:
    """Some images of a generation, in the order of `rows`. Taking any of them reads them anew, as an array of uint16.

    Indexed like the first axis of an array: a number, a slice, or an array of row numbers or of truth values.
    """

    parts: tuple[PixelFile, ...]
    each: tuple[int, ...]  # shape of one image: (H, W) or (D, H, W)
    rows: npt.NDArray[np.int64]  # (n,) of the generation
    digests: npt.NDArray[np.uint8] | None = field(repr=False)  # (n_images, 32) of the generation; None: it was made without

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.each)

    @property
    def dtype(self) -> np.dtype[np.uint16]:
        return np.dtype(np.uint16)

    def only(self, rows: npt.NDArray[np.int64]) -> Self:
        """Those images alone; nothing is read."""
        return replace(self, rows=self.rows[rows])

    def __getitem__(self, wanted: Any) -> npt.NDArray[np.uint16]:
        """Raises FormatError: a file is missing or was changed. IndexError: there is no such image."""
        rows = self.rows[wanted]
        out = np.empty((rows.size, *self.each), dtype="<u2")
        starts = np.cumsum([0, *(part.n for part in self.parts)])
        flat = np.atleast_1d(rows)
        where = np.searchsorted(starts, flat, side="right") - 1
        for number in np.unique(where).tolist():
            mine = np.flatnonzero(where == number)
            self._read(self.parts[number], flat[mine] - starts[number], out, mine)
        self._check(flat, where, out)
        return (out[0] if rows.ndim == 0 else out).astype(np.uint16, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of them, in memory."""
        return self[:].astype(dtype or np.uint16, copy=False)

    def _read(self, part: PixelFile, rows: npt.NDArray[np.int64], out: npt.NDArray[Any], places: npt.NDArray[np.int64]) -> None:
        """`rows` of one part to their `places` in `out`; what lies together in both is read at once."""
        size = out.dtype.itemsize * int(np.prod(self.each))
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(places) != 1)) + 1
        try:
            descriptor = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            raise _changed(part.name) from None
        try:
            for run in np.split(np.arange(len(rows)), breaks):
                into = out[places[run[0]] : places[run[-1]] + 1].data.cast("B")
                _read_into(descriptor, into, part.offset + int(rows[run[0]]) * size, part.name)
        finally:
            os.close(descriptor)

    def _check(self, rows: npt.NDArray[np.int64], where: npt.NDArray[np.int64], out: npt.NDArray[Any]) -> None:
        if self.digests is None:
            return
        for place, row in enumerate(rows.tolist()):
            if hashlib.sha256(out[place]).digest() != self.digests[row].tobytes():
                raise _changed(self.parts[int(where[place])].name)


def _read_into(descriptor: int, into: memoryview, offset: int, name: str) -> None:
    done = 0
    while done < len(into):
        try:
            count = os.preadv(descriptor, [into[done:]], offset + done)
        except OSError:
            raise _changed(name) from None
        if count == 0:
            raise _changed(name)
        done += count


def _changed(name: str) -> FormatError:
    return FormatError(f"cohort: {name} is missing or was changed", hint=_HINT)
