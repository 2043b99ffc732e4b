"""An outcome as JSON and bytes: what a reader process answers, and what is kept so that a file need not be processed again."""

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrad_client.cohort.store import Record
from fedrad_client.intake.burnin.suspicion import Suspicion
from fedrad_client.intake.codes import CODES
from fedrad_client.intake.pixels.image import Slice
from fedrad_client.intake.pixels.levels import Tally
from fedrad_client.intake.pixels.place import Place
from fedrad_client.intake.process import Names, Outcome, Recipe, process
from fedrad_common.errors import FormatError

Head = dict[str, Any]


@dataclass(frozen=True)
class Processing:
    """The work of a reader process: a file's path to its outcome."""

    recipe: Recipe
    seen: Collection[bytes] = ()  # SHA-256 of files that need not be processed again

    def __call__(self, path: Path) -> tuple[Head, bytes]:
        return encode(process(path, self.recipe, seen=self.seen))


def encode(outcome: Outcome) -> tuple[Head, bytes]:
    """Labels are left out: they are looked up anew, in whatever table, by the outcome's keyed names."""
    head: Head = {
        "code": outcome.code,
        "element": outcome.element,
        "state": outcome.state,
        "content": outcome.content,
        "seen": outcome.seen,
        "named": outcome.named,
        "series": outcome.series,
        "record": outcome.record and asdict(outcome.record),
        "names": asdict(outcome.names),
        "slices": [_slice_head(one) for one in outcome.slices],
        "suspicion": None,
    }
    if (found := outcome.suspicion) is not None:
        head["suspicion"] = found.head()
        return head, found.picture
    return head, b"".join(part for one in outcome.slices for part in _slice_body(one))


def _slice_head(one: Slice) -> Head:
    place = one.place and asdict(one.place)
    tally = None if one.tally is None else len(one.tally.values)
    return {
        "size": one.pixels.shape, "low": one.low, "high": one.high, "tally": tally, "frame": one.frame, "place": place,
        "shape": one.shape, "spacing": one.spacing,
    }  # fmt: skip


def _slice_body(one: Slice) -> list[bytes]:
    parts = [one.pixels.astype("<u2", copy=False).tobytes()]
    if one.tally is not None:
        parts += [one.tally.values.astype("<f8", copy=False).tobytes(), one.tally.counts.astype("<i8", copy=False).tobytes()]
    return parts


def decode(head: Head, body: bytes) -> Outcome:
    """Raises FormatError: it is no outcome; whoever answered is not to be believed."""
    try:
        if head["code"] is not None and head["code"] not in CODES:
            raise ValueError
        return Outcome(
            code=head["code"],
            element=head["element"],
            state=head["state"],
            content=head["content"],
            seen=head["seen"],
            named=head["named"],
            series=head["series"],
            record=None if head["record"] is None else Record(**head["record"]),
            slices=tuple(_slices(head["slices"], b"" if head["suspicion"] else body)),
            names=Names(**head["names"]),
            suspicion=Suspicion.read(head["suspicion"], body) if head["suspicion"] else None,
        )
    except (KeyError, TypeError, ValueError):
        raise FormatError("ingest: an answer of a reader process is damaged", hint="run the same command again") from None


def _slices(heads: list[Head], body: bytes) -> list[Slice]:
    found, at = [], 0
    for head in heads:
        size = tuple(map(int, head["size"]))
        pixels = np.frombuffer(body, "<u2", size[0] * size[1], at).reshape(size)
        at += pixels.nbytes
        tally = None
        if head["tally"] is not None:
            values = np.frombuffer(body, "<f8", head["tally"], at)
            tally = Tally(values, np.frombuffer(body, "<i8", head["tally"], at + values.nbytes))
            at += 2 * values.nbytes
        place = head["place"] and Place(**{name: value and tuple(value) for name, value in head["place"].items()})
        spacing = head["spacing"] and tuple(head["spacing"])
        found.append(Slice(pixels, head["low"], head["high"], tally, head["frame"], place, tuple(head["shape"]), spacing))
    if at != len(body):
        raise ValueError
    return found


def digest_of(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
