"""One file becomes one outcome, on its own: nothing in it depends on any other file (privacy.md, rule 5)."""

import functools
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydicom import Dataset

from fedrad_client.cohort.labels import Key, Known, LabelTable, Level, Values
from fedrad_client.cohort.split import part_of
from fedrad_client.cohort.store import Record
from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.burnin.gate import GATE_KEYWORDS, judge
from fedrad_client.intake.burnin.rules import DEVICE_KEYWORDS, BurnRules, device_of
from fedrad_client.intake.burnin.suspicion import Suspicion
from fedrad_client.intake.codes import Code, Quarantined
from fedrad_client.intake.deid.keys import mac
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.rules import KEYWORDS, PseudonymKeys, Subject, Value, rebuild, ruled, subject, uid
from fedrad_client.intake.deid.values import Cloak
from fedrad_client.intake.pixels.array import Array
from fedrad_client.intake.pixels.header import ELEMENTS, PIXELS, check_header, n_frames, whole
from fedrad_client.intake.pixels.image import Geometry, Slice, frames_of, slices_of
from fedrad_client.intake.reading.content import load
from fedrad_client.intake.reading.dicom import hushed, parse
from fedrad_client.intake.reading.limits import allow_for_pixels

State = Literal["received", "read", "gated", "de-identified", "normalised", "in-cohort", "quarantined"]
_SERIES = uid("SeriesInstanceUID")


@dataclass(frozen=True)
class Recipe:
    """All that turns one file into one image."""

    geometry: Geometry
    keys: PseudonymKeys
    validation_fraction: float
    labels: LabelTable | None = None
    withdrawn: frozenset[str] = frozenset()  # pseudonyms
    merges: Merges = field(default_factory=Merges)  # who is one person
    burn: BurnRules = field(default_factory=BurnRules)  # what people decided about text in pictures


@dataclass(frozen=True)
class Names:
    """What a label table may call an image by, as keyed pseudonyms: they fit a table that went through the same key, and say nothing."""

    keys: dict[Level, str] = field(default_factory=dict)
    issuer: str = ""

    def known(self, table: LabelTable | None) -> Known:
        return Known((), False, ()) if table is None else table.find(self.keys, issuer=self.issuer)


@dataclass(frozen=True)
class Outcome:
    """What became of one file: a record and its frames, or a code. Holds pseudonyms, no identifier."""

    code: Code | None = None
    element: str | None = None  # DICOM keyword of the element at fault, where one is
    state: State = "received"  # how far it came
    content: str = ""  # SHA-256 of the file; empty where it was not read
    seen: bool = False  # a file of these bytes was processed before: nothing else of it was looked at
    named: str | None = None  # pseudonym of the Patient ID as it stands in the file
    series: str | None = None  # pseudonymous UID
    record: Record | None = None
    slices: tuple[Slice, ...] = ()  # frames, as far as one file can bring them
    names: Names = Names()
    labels: Values = ()
    used: tuple[Key, ...] = ()  # label rows that speak of it
    suspicion: Suspicion | None = None  # with "burned-in" and "needs-mask"


def process(path: Path, recipe: Recipe, *, seen: Collection[bytes] = ()) -> Outcome:
    """Lets no text of the file out, and raises nothing for what it holds.

    Args:
        seen: SHA-256 of files that need not be processed again.

    Raises:
        MemoryError: it needs more than this process may take.
    """
    file = _File(recipe)
    try:
        with hushed():
            return file.outcome_of(path, seen)
    except Quarantined as refused:
        code = refused.code
        return replace(file.so_far, code=code, element=refused.element, series=None if code == "withdrawn" else file.so_far.series)
    except MemoryError:
        raise
    except Exception:  # its text may quote the file; the code is counted and shown
        return replace(file.so_far, code="internal")


class _File:
    """One file on its way; `so_far` is what is known of it when a step refuses it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.so_far = recipe, Outcome()

    def outcome_of(self, path: Path, seen: Collection[bytes]) -> Outcome:
        ds = self._read(path, seen)
        if ds is None:
            return replace(self.so_far, seen=True)
        who = self._whose(ds)
        check_header(ds, self.recipe.geometry.profile)
        self.so_far = replace(self.so_far, state="gated")
        record = self._record(ds, who)
        known = self.so_far.names.known(self.recipe.labels)
        self.so_far = replace(self.so_far, state="de-identified", labels=known.values, used=known.used)
        # A volume has its labels from any of its slices: they are asked for when all are there.
        if self.recipe.labels and self.recipe.geometry.depth is None and all(value is None for value in known.values):
            raise Quarantined("contradictory" if known.contradictory else "unlabelled")
        slices = self._frames(ds)
        return replace(self.so_far, state="normalised", record=record, slices=slices)

    def _read(self, path: Path, seen: Collection[bytes]) -> Dataset | None:
        """None where the file is among `seen`. Its bytes are given back before anything is decoded."""
        content = load(path)
        digest = hashlib.sha256(content)
        self.so_far = replace(self.so_far, content=digest.hexdigest())
        if digest.digest() in seen:
            return None
        ds = parse(content, _WANTED)
        self.so_far = replace(self.so_far, state="read")
        return ds

    def _whose(self, ds: Dataset) -> Subject:
        keys = self.recipe.keys
        named = _subject(ds)
        self.so_far = replace(self.so_far, named=named.pseudonym(keys))
        who = self.recipe.merges.person(named, keys)
        if who.pseudonym(keys) in self.recipe.withdrawn:
            raise Quarantined("withdrawn")
        series = ruled(ds, (_SERIES,), Cloak(keys, who.shift(keys))).get("SeriesInstanceUID")
        self.so_far = replace(self.so_far, series=_text(series), names=names_of(ds, named, keys))
        return who

    def _record(self, ds: Dataset, who: Subject) -> Record:
        keys = self.recipe.keys
        fields = rebuild(ds, who, keys)
        part = part_of(who.identity, key=keys.split, fraction=self.recipe.validation_fraction)
        return Record(who.pseudonym(keys), str(fields["SOPInstanceUID"]), part, dict(fields))

    def _frames(self, ds: Dataset) -> tuple[Slice, ...]:
        geometry = self.recipe.geometry
        allow_for_pixels(whole(ds, "Rows") * whole(ds, "Columns") * n_frames(ds))
        frames = frames_of(ds)
        if len(frames) > 1 and geometry.depth is None:
            raise Quarantined("multi-frame")
        return slices_of(ds, geometry, frames=frames, masks=self._masks(ds, frames))

    def _masks(self, ds: Dataset, frames: Array) -> tuple[Box, ...]:
        """What a person wants blanked. Raises Quarantined where text was found that nobody has looked at."""
        device = device_of(ds, self.recipe.keys)
        verdict = judge(ds, frames, self.recipe.burn, content=self.so_far.content, device=device)
        if verdict.code is None:
            return verdict.masks
        self.so_far = replace(self.so_far, suspicion=Suspicion.of(verdict, frames, device))
        raise Quarantined(verdict.code)


def _subject(ds: Dataset) -> Subject:
    """Of a directory or a report without a patient, that it holds no image says more than that it names nobody."""
    try:
        return subject(ds)
    except Quarantined as refused:
        raise refused if any(ds.get(keyword) for keyword in PIXELS) else Quarantined("no-pixels") from None


_WANTED = tuple(dict.fromkeys((*KEYWORDS, *ELEMENTS, *GATE_KEYWORDS, *DEVICE_KEYWORDS)))


def names_of(ds: Dataset, who: Subject, keys: PseudonymKeys) -> Names:
    """By which a label table may speak of this image."""
    name = functools.partial(keyed_name, keys)
    found: dict[Level, Any] = {
        "SOPInstanceUID": ds.get("SOPInstanceUID"),
        "SeriesInstanceUID": ds.get("SeriesInstanceUID"),
        "PatientID": who.patient_id,
    }
    return Names({level: name(str(value or "").strip(" \0")) for level, value in found.items()}, name(who.issuer))


def keyed_name(keys: PseudonymKeys, value: str) -> str:
    """Empty stays empty: a field that was not filled fits everybody."""
    return mac(_key_of_names(keys), value.encode())[:16].hex() if value else ""


@functools.lru_cache(maxsize=8)
def _key_of_names(keys: PseudonymKeys) -> bytes:
    return mac(keys.uid, b"names in a label table")


def _text(value: Value | None) -> str | None:
    return None if value is None else str(value)
