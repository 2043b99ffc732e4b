"""What of the planted strings stands in any output, however it is spelled; and what a careless scrubber leaves, so that the search is known
to find something."""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

TOKEN, HEX = re.compile(rb"(?=(ZQ[0-9A-Z]{12}))"), re.compile(rb"(?=(5A51[0-9A-F]{24}))")
# What fedrad itself computed with a key: its digits are chance, and among thousands of them some date would stand.
COMPUTED = re.compile(rb"2\.25\.[0-9]{20,39}|(?<![0-9a-f])(?=[0-9]*[a-f])[0-9a-f]{16,64}(?![0-9a-f])")
RUN = re.compile(rb"[0-9]{8,}")


def found(planted: Iterable[bytes], outputs: Iterable[bytes]) -> set[bytes]:
    """The planted strings that occur: as they are, in another case, in UTF-16, or as hexadecimal digits."""
    needles = set(planted)
    digits = {needle for needle in needles if needle.isdigit()}
    lengths = sorted({len(needle) for needle in digits})
    seen: set[bytes] = set()
    for output in outputs:
        for form in {output, output.replace(b"\0", b"")}:
            shouted = form.upper()
            seen.update(TOKEN.findall(shouted))
            seen.update(bytes.fromhex(text.decode()) for text in HEX.findall(shouted))
            for run in RUN.findall(COMPUTED.sub(b" ", form)):
                seen.update(run[at : at + length] for length in lengths for at in range(len(run) - length + 1))
    return needles & seen


def files_of(*folders: Path) -> Iterator[bytes]:
    """Name and content of every file."""
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes()


def nibbles(content: bytes) -> bytes:
    """What stands in the four bits above twelve stored ones, two words a byte; empty where all are zero."""
    words = np.frombuffer(content[len(content) % 2 :], "<u2") >> 12
    pairs = words[: len(words) // 2 * 2].reshape(-1, 2).astype(np.uint8)
    return bytes(pairs[:, 0] << 4 | pairs[:, 1]) if words.any() else b""


_BLANKED = (
    "PatientName PatientID PatientBirthDate PatientAddress PatientTelephoneNumbers OtherPatientIDs OtherPatientNames PatientComments "
    "InstitutionName InstitutionAddress ReferringPhysicianName OperatorsName PerformingPhysicianName AccessionNumber StudyID StationName "
    "StudyDescription SeriesDescription IssuerOfPatientID AdditionalPatientHistory"
)


def careless(content: bytes) -> bytes:
    """What a weekend's script does: blank twenty elements and all names, drop private elements, save the rest."""

    ds = dcmread(io.BytesIO(content), force=True)
    ds.remove_private_tags()
    for keyword in _BLANKED.split():
        if Tag(keyword) in ds:
            ds[keyword].value = None

    def nameless(_: Dataset, element: DataElement) -> None:
        if element.VR == "PN":
            element.value = None

    ds.walk(nameless)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=False)
    return stream.getvalue()
