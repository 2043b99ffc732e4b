"""Why a file is set aside: a closed list, so that no text of any file can stand in a message, a log or the quarantine."""

from typing import Literal

Code = Literal[
    "not-a-file", "not-dicom", "compressed-archive", "too-large", "unreadable", "truncated", "no-patient-id", "no-uid",
    "no-pixels", "modality", "multi-frame", "colour", "unsupported-syntax", "undecodable", "bad-pixels", "duplicate",
    "withdrawn", "unlabelled", "contradictory", "internal",
]  # fmt: skip
CODES: dict[Code, str] = {
    "not-a-file": "a link, pipe, device or closed folder; never opened",
    "not-dicom": "has no DICOM header",
    "compressed-archive": "an archive (zip, gzip, zstandard, …); unpack it first",
    "too-large": "bigger than the limits on bytes or on rows × columns",
    "unreadable": "its data elements cannot be parsed, or the file may not be opened",
    "truncated": "ends before its pixels do",
    "no-patient-id": "the Patient ID is missing or blank, so nobody could be counted for it",
    "no-uid": "the SOP Instance UID is missing",
    "no-pixels": "holds no image (a report, a plan, a directory)",
    "modality": "the profile does not take this modality",
    "multi-frame": "more than one frame; not taken in by this version",
    "colour": "not a monochrome image",
    "unsupported-syntax": "no installed decoder knows its transfer syntax",
    "undecodable": "the decoder refused its pixels",
    "bad-pixels": "constant, not finite, or contradicting its own header",
    "duplicate": "the same image of the same patient was read already",
    "withdrawn": "its patient was withdrawn; nothing of it is kept",
    "unlabelled": "the label table has no value for it",
    "contradictory": "rows of the label table with the same key contradict each other, and no other row has a value for it",
    "internal": "an unforeseen fault of this program; please report the code",
}


class Quarantined(Exception):  # noqa: N818 - an outcome of reading one file, not a fault of the program
    """Carries the code and nothing else: what pydicom says quotes values, names included."""

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code: Code = code
