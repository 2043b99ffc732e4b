"""Patients who withdrew: a keyed tombstone each, beside the generations, so that nothing trains on them and no later ingest takes them in.

The tombstone is the patient's pseudonym: whoever lacks the site's key learns nothing from it, and a loader without any key can leave the
patient out of generations that were made before. Withdrawal takes effect between rounds; what was spent stays spent, N stays, and released
models are not unlearned (privacy.md, rule 13).
"""

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedrad_client.cohort.merged import check_merges, read_table
from fedrad_client.cohort.store import RECORDS
from fedrad_client.cohort.usage import Use
from fedrad_common.canonical import canonical_json
from fedrad_common.chain import Entry
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.files import make_folder, write_atomic

WITHDRAWN = "withdrawn.jsonl"
FORMAT = "fedrad-withdrawn-1"


@dataclass(frozen=True)
class Withdrawal:
    """What one withdrawal did, in patients. Counts stay at the site."""

    given: int
    known: int  # of those given, with images in some generation
    already: int  # of those given, withdrawn before
    listed: int  # withdrawn by now, all in all
    # Runs that had used their images; None: nobody asked, or ledger or audit log cannot be read.
    uses: tuple[Use, ...] | None = field(default=None, compare=False)


def withdrawn(directory: Path) -> frozenset[str]:
    """Pseudonyms that no reader of the cohort in `directory` takes: of patients who withdrew, and those that the merge table leaves out.

    Raises:
        FormatError: the list is damaged; then nobody can be told from those who withdrew, and nothing is read.
    """
    return tombstones(directory) | read_table(directory).left_out


def tombstones(directory: Path) -> frozenset[str]:
    """Of the patients who withdrew, alone. Raises FormatError, as `withdrawn` does."""
    return _read(directory)[1]


def withdraw(directory: Path, patients: Collection[str], *, key: str) -> Withdrawal:
    """Add tombstones; durable when this returns. The generations stay as they are.

    Args:
        patients: pseudonyms.
        key: id of the pseudonym key that made them.

    Raises:
        MisuseError: the list was made with another key. FormatError: it is damaged. FedradError: the disk is full; nothing changed.
    """
    made_with, before = _read(directory)
    if made_with not in (None, key):
        raise MisuseError(f"cohort: {WITHDRAWN} was made with another pseudonym key", hint="restore keys/pseudonym.key from the backup")
    given = set(patients)
    listed = sorted(before | given)  # sorted, so that the order says nothing about who withdrew when
    head = {"format": FORMAT, "key": key, "patients": len(listed)}
    make_folder(directory)
    write_atomic(directory / WITHDRAWN, b"".join(canonical_json(line) + b"\n" for line in (head, *({"patient": name} for name in listed))))
    return Withdrawal(
        given=len(given), known=len(given.intersection(ever_ingested(directory))), already=len(given & before), listed=len(listed)
    )


def check_tombstones(directory: Path, log: Iterable[Entry]) -> None:
    """Refuse where the list is missing or shorter than the audit log says, as with a cohort folder restored from before a withdrawal.

    Raises:
        FormatError: patients who withdrew could not be told from the others, or one person would count as two.
    """
    log = list(log)
    check_merges(directory, log)
    listed = max((entry.body["listed"] for entry in log if entry.type == "withdraw"), default=0)
    missing = listed - len(tombstones(directory))
    if missing > 0:
        raise FormatError(
            f"cohort: {WITHDRAWN} lacks {missing} of {listed} withdrawn patients",
            hint="restore it from the backup, or withdraw them again; nothing was ingested or answered",
        )


def _read(directory: Path) -> tuple[str | None, frozenset[str]]:
    """Id of the key, None before the first withdrawal, and the pseudonyms."""
    try:
        content = (directory / WITHDRAWN).read_bytes()
    except FileNotFoundError:
        return None, frozenset()
    try:
        head, *lines = map(json.loads, content.splitlines())
        patients = frozenset(str(line["patient"]) for line in lines)
        if head["format"] == FORMAT and head["patients"] == len(lines) == len(patients):
            return str(head["key"]), patients
    except (ValueError, KeyError, TypeError):
        pass
    raise FormatError(
        f"cohort: {WITHDRAWN} is damaged or of another version", hint="restore it from the backup: it says who must not be trained on"
    )


def ever_ingested(directory: Path) -> Iterator[str]:
    """Pseudonyms of all generations; a damaged one must not stand in a withdrawal's way."""
    for path in directory.glob(f"[0-9]*/{RECORDS}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            yield from (json.loads(line)["patient"] for line in path.read_bytes().splitlines())
