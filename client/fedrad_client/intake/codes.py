"""Why a file is set aside: a closed list, so that no text of any file can stand in a message, a log or the quarantine."""

from typing import Literal

Code = Literal[
    "not-a-file", "not-dicom", "compressed-archive", "too-large", "unreadable", "truncated", "no-patient-id", "no-uid",
    "no-pixels", "modality", "multi-frame", "colour", "unsupported-syntax", "undecodable", "bad-pixels", "duplicate",
    "withdrawn", "unlabelled", "contradictory", "internal",
    "two-parts", "not-exported",
    "geometry", "missing-slices", "duplicate-slices", "units", "localizer",
    "too-complex", "too-slow", "burned-in", "needs-mask", "rejected",
]  # fmt: skip
CODES: dict[Code, str] = {
    "not-a-file": "a link, pipe, device or closed folder; never opened",
    "not-dicom": "has no DICOM header",
    "compressed-archive": "an archive (zip, gzip, zstandard, …); unpack it first",
    "too-large": "bigger than the limits on bytes (inflated, too), on rows × columns × frames, or on memory",
    "unreadable": "its data elements cannot be parsed, or the file may not be opened",
    "truncated": "ends before its pixels do",
    "no-patient-id": "the Patient ID is missing, blank or a placeholder as UNKNOWN, so nobody could be counted for it",
    "no-uid": "the SOP Instance UID is missing",
    "no-pixels": "holds no image (a report, a plan, a directory)",
    "modality": "the profile does not take this modality",
    "multi-frame": "more than one frame, where one image is wanted",
    "colour": "a colour image, and not only in name: its pixels are not gray",
    "unsupported-syntax": "no installed decoder knows its transfer syntax",
    "undecodable": "the decoder refused its pixels",
    "bad-pixels": "constant, not finite, or contradicting its own header",
    "duplicate": "the same image of the same patient was read already",
    "withdrawn": "its patient was withdrawn; nothing of it is kept",
    "unlabelled": "the label table has no value for it",
    "contradictory": "rows of the label table with the same key contradict each other, and no other row has a value for it",
    "two-parts": "its patient's merged ids stood in training and in validation; kept out of both, so that nobody moves",
    "not-exported": "the export writes CR, DX, MG, CT and MR images only",
    "geometry": "its position, orientation or spacing is missing, not finite, absurd or not that of its series",
    "missing-slices": "its series has gaps along the normal, or fewer slices than a volume needs",
    "duplicate-slices": "its series has several slices at one position",
    "units": "its values are not in Hounsfield units: no rescale, or a rescale to something else",
    "localizer": "a localizer (scout view), which is no slice",
    "too-complex": "more data elements, or nested deeper, than any image has",
    "too-slow": "not read and decoded within the time that a file of its size may take",
    "burned-in": "text was found in its picture, or its header says that there is some",
    "needs-mask": "a picture of a screen (ultrasound, secondary capture), for whose device nobody approved a mask",
    "rejected": "a reviewer rejected its picture",
    "internal": "an unforeseen fault of this program; please report the code",
}

# What a person may do about it; nothing where the file is as it should be, or cannot be helped.
ADVICE: dict[Code, str] = {
    "not-a-file": "copy the files themselves into the folder",
    "compressed-archive": "unpack it and ingest again",
    "too-large": "split multi-frame objects, or export them at lower resolution",
    "unreadable": "check the permissions; else export it again",
    "truncated": "copy or export it again: it broke off",
    "no-patient-id": "export it with the Patient ID; fedrad replaces it by a pseudonym",
    "modality": "nothing, unless the protocol names the wrong profile",
    "multi-frame": "export single images, or use a protocol for volumes",
    "unsupported-syntax": "export it uncompressed, or as JPEG 2000 or RLE",
    "undecodable": "export it again, uncompressed",
    "unlabelled": "add it to the label table and ingest again",
    "contradictory": "settle the rows in the label table and ingest again",
    "two-parts": "nothing: moving the patient would break the split",
    "geometry": "export the whole series again, with its positions",
    "missing-slices": "export the whole series again",
    "duplicate-slices": "export one reconstruction a series",
    "too-complex": "export the images without the objects nested in them",
    "too-slow": "ingest again on an idle machine; else export it uncompressed",
    "burned-in": "look at it with `fedrad-site review`, then ingest again",
    "needs-mask": "look at it with `fedrad-site review`, then ingest again",
    "internal": "report the code with `fedrad-site support`",
}


class Quarantined(Exception):  # noqa: N818 - an outcome of reading one file, not a fault of the program
    """Carries the code and nothing else: what pydicom says quotes values, names included."""

    def __init__(self, code: Code, element: str | None = None) -> None:
        """Args: element: DICOM keyword of the element at fault, where that helps; never anything out of the file."""
        super().__init__(code)
        self.code: Code = code
        self.element = element
