"""What only a whole series can decide: the scale of its values, and its volume. One series of one patient, and nobody else's."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from fedrad_client.cohort.draft import Draft
from fedrad_client.cohort.labels import Values
from fedrad_client.cohort.store import Record
from fedrad_client.intake.answers import decode
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.pixels.geometry import Geometry
from fedrad_client.intake.pixels.image import Slice, finished, scale_of
from fedrad_client.intake.pixels.levels import Tally
from fedrad_client.intake.pixels.volume import volume_of
from fedrad_client.intake.states import States
from fedrad_common.errors import FormatError


@dataclass(frozen=True)
class Part:
    """One file of a series: what finds it again among the states."""

    entry: int
    series: int | None  # running number
    patient: str
    group: str  # pseudonymous UID of its series; of a file without one, its own
    image: str
    content: str
    digest: bytes  # of its record and pixels: decides between duplicates, whatever order they came in
    labels: Values
    contradictory: bool


def digest_of(record: Record, body_digest: bytes, labels: Values) -> bytes:
    return hashlib.sha256(record.line() + repr(labels).encode() + body_digest).digest()


def complete(parts: Iterable[Part], geometry: Geometry, states: States, draft: Draft) -> None:
    """Put every series into the draft, or set all its files aside with one code."""
    ordered = sorted(parts, key=lambda part: (part.patient, part.group, part.image, part.digest, part.entry))
    for _, members in groupby(ordered, key=lambda part: (part.patient, part.group)):
        unique: list[Part] = []
        for part in members:
            if unique and unique[-1].image == part.image:
                draft.set_aside("duplicate", entry=part.entry, series=part.series)
            else:
                unique.append(part)
        try:
            if geometry.depth is None:
                _add_scaled(unique, geometry, states, draft)
            else:
                _add_volume(unique, geometry, states, draft)
        except Quarantined as refused:
            _set_aside(unique, refused.code, draft)


def _set_aside(parts: Iterable[Part], code: Code, draft: Draft) -> None:
    for part in parts:
        draft.set_aside(code, entry=part.entry, series=part.series)


def _add_scaled(parts: list[Part], geometry: Geometry, states: States, draft: Draft) -> None:
    scale = scale_of((_tally(one) for part in parts for one in _read(part, states)[1]), geometry.profile)
    for part in parts:
        record, slices = _read(part, states)
        draft.add(record, finished(slices[0], scale), part.labels, entry=part.entry, series=part.series)


def _tally(one: Slice) -> Tally:
    assert one.tally is not None
    return one.tally


def _add_volume(parts: list[Part], geometry: Geometry, states: States, draft: Draft) -> None:
    found = [_read(part, states) for part in parts]
    labels = tuple(map(_agreed, zip(*(part.labels for part in parts), strict=True)))
    if labels and all(value is None for value in labels):
        raise Quarantined("contradictory" if any(map(_contradictory, parts)) or _any_label(parts) else "unlabelled")
    pixels = volume_of([one for _, slices in found for one in slices], geometry)
    draft.add(_common([record for record, _ in found], parts[0].group), pixels, labels, entry=parts[0].entry, series=parts[0].series)


def _agreed(values: tuple[int | None, ...]) -> int | None:
    """The label of a volume is what all of its slices that have one say."""
    said = set(values) - {None}
    return said.pop() if len(said) == 1 else None


def _contradictory(part: Part) -> bool:
    return part.contradictory


def _any_label(parts: Iterable[Part]) -> bool:
    return any(value is not None for part in parts for value in part.labels)


def _common(records: list[Record], name: str) -> Record:
    """The record of a volume: what all its files have in common, under the name of the series."""
    first, *others = records
    shared = {
        keyword: value for keyword, value in first.fields.items() if all(other.fields.get(keyword) == value for other in others)
    }  # fmt: skip
    shared.pop("SOPInstanceUID", None)
    return Record(first.patient, name, first.part, shared)


def _read(part: Part, states: States) -> tuple[Record, tuple[Slice, ...]]:
    row = states.find(part.content)
    body = None if row is None else states.body(row)
    if row is None or body is None:
        raise FormatError("cohort: what this ingest read was changed meanwhile", hint="run the same command again")
    outcome = decode(row.head, body)
    assert outcome.record is not None
    return outcome.record, outcome.slices
