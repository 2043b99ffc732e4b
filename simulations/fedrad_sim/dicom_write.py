"""Bytes of one DICOM file from plain values (PS3.5, PS3.10), fast enough to write a hospital of thousands in seconds."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Tag: TypeAlias = tuple[int, int, str]  # group, element, VR; for private elements
Elements: TypeAlias = Mapping[str | Tag, "Value"]
Value: TypeAlias = str | int | float | bytes | Sequence[str] | Sequence[int] | Sequence[float] | Sequence[Elements]
Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLEMENTATION = "2.25.91461237746133911830614352190046713349"
SOP_CLASS = {  # by Modality (PS3.4 B.5)
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
}

# The part of PS3.6 that the phantom and the importer write: keyword, group, element, VR.
_DICTIONARY = """
FileMetaInformationVersion 0002 0001 OB
MediaStorageSOPClassUID 0002 0002 UI
MediaStorageSOPInstanceUID 0002 0003 UI
TransferSyntaxUID 0002 0010 UI
ImplementationClassUID 0002 0012 UI
SourceApplicationEntityTitle 0002 0016 AE
PrivateInformationCreatorUID 0002 0100 UI
PrivateInformation 0002 0102 OB
SpecificCharacterSet 0008 0005 CS
ImageType 0008 0008 CS
SOPClassUID 0008 0016 UI
SOPInstanceUID 0008 0018 UI
StudyDate 0008 0020 DA
ContentDate 0008 0023 DA
StudyTime 0008 0030 TM
ContentTime 0008 0033 TM
AccessionNumber 0008 0050 SH
Modality 0008 0060 CS
Manufacturer 0008 0070 LO
InstitutionName 0008 0080 LO
InstitutionAddress 0008 0081 ST
ReferringPhysicianName 0008 0090 PN
CodeValue 0008 0100 SH
CodingSchemeDesignator 0008 0102 SH
CodeMeaning 0008 0104 LO
StationName 0008 1010 SH
StudyDescription 0008 1030 LO
SeriesDescription 0008 103E LO
InstitutionalDepartmentName 0008 1040 LO
PerformingPhysicianName 0008 1050 PN
OperatorsName 0008 1070 PN
PatientName 0010 0010 PN
PatientID 0010 0020 LO
PatientBirthDate 0010 0030 DA
PatientSex 0010 0040 CS
OtherPatientIDs 0010 1000 LO
OtherPatientNames 0010 1001 PN
OtherPatientIDsSequence 0010 1002 SQ
PatientAge 0010 1010 AS
PatientAddress 0010 1040 LO
PatientTelephoneNumbers 0010 2154 SH
AdditionalPatientHistory 0010 21B0 LT
PatientComments 0010 4000 LT
BodyPartExamined 0018 0015 CS
ProtocolName 0018 1030 LO
ViewPosition 0018 5101 CS
StudyInstanceUID 0020 000D UI
SeriesInstanceUID 0020 000E UI
StudyID 0020 0010 SH
SeriesNumber 0020 0011 IS
InstanceNumber 0020 0013 IS
PatientOrientation 0020 0020 CS
ImageComments 0020 4000 LT
SamplesPerPixel 0028 0002 US
PhotometricInterpretation 0028 0004 CS
Rows 0028 0010 US
Columns 0028 0011 US
PixelSpacing 0028 0030 DS
BitsAllocated 0028 0100 US
BitsStored 0028 0101 US
HighBit 0028 0102 US
PixelRepresentation 0028 0103 US
PixelPaddingValue 0028 0120 US
BurnedInAnnotation 0028 0301 CS
RescaleIntercept 0028 1052 DS
RescaleSlope 0028 1053 DS
RescaleType 0028 1054 LO
RequestedProcedureDescription 0032 1060 LO
ScheduledProcedureStepDescription 0040 0007 LO
ScheduledProtocolCodeSequence 0040 0008 SQ
RequestAttributesSequence 0040 0275 SQ
ProtocolContextSequence 0040 0440 SQ
TextValue 0040 A160 UT
PersonName 0040 A123 PN
PixelData 7FE0 0010 OW
DataSetTrailingPadding FFFC FFFC OB
"""
TAGS: dict[str, Tag] = {
    keyword: (int(group, 16), int(element, 16), vr) for keyword, group, element, vr in map(str.split, _DICTIONARY.strip().splitlines())
}

_LONG = frozenset({"OB", "OW", "SQ", "UN", "UT"})  # 32-bit length after two reserved bytes (PS3.5, 7.1.2)
_NUMBERS = {"US": "H", "UL": "I"}
_HEADER = struct.Struct("<HH2sH")
_LONG_HEADER = struct.Struct("<HH2sxxI")
_ITEM = struct.Struct("<HHI")


def write_dicom(path: Path, elements: Elements, *, meta: Elements | None = None, preamble: bytes = bytes(128)) -> None:
    """Write one file, not durable by itself: the caller renames the finished folder into place."""
    path.write_bytes(encode_file(elements, meta=meta, preamble=preamble))


def encode_file(elements: Elements, *, meta: Elements | None = None, preamble: bytes = bytes(128)) -> bytes:
    """A whole Part 10 file, explicit VR little endian.

    Args:
        elements: the data set, keyed by DICOM keyword or by (group, element, VR); needs SOPClassUID and SOPInstanceUID. Text is UTF-8.
        meta: further file meta elements.
        preamble: exactly 128 bytes.
    """
    assert len(preamble) == 128
    group_two = encode(
        {
            "FileMetaInformationVersion": b"\x00\x01",
            "MediaStorageSOPClassUID": elements["SOPClassUID"],
            "MediaStorageSOPInstanceUID": elements["SOPInstanceUID"],
            "TransferSyntaxUID": EXPLICIT_LITTLE_ENDIAN,
            "ImplementationClassUID": IMPLEMENTATION,
            **(meta or {}),
        }
    )
    length = _HEADER.pack(2, 0, b"UL", 4) + struct.pack("<I", len(group_two))
    return b"".join((preamble, b"DICM", length, group_two, encode(elements)))


def encode(elements: Elements) -> bytes:
    """The elements in ascending order of tag, as the standard wants them."""
    tagged = sorted(((TAGS[key] if isinstance(key, str) else key, value) for key, value in elements.items()), key=lambda pair: pair[0])
    return b"".join(_encode_all(tagged))


def _encode_all(tagged: list[tuple[Tag, Value]]) -> Iterator[bytes]:
    for (group, element, vr), value in tagged:
        content = _content(vr, value)
        if vr in _LONG:
            yield _LONG_HEADER.pack(group, element, vr.encode(), len(content))
        else:
            yield _HEADER.pack(group, element, vr.encode(), len(content))
        yield content


def _content(vr: str, value: Value) -> bytes:
    if vr == "SQ":
        return b"".join(_ITEM.pack(0xFFFE, 0xE000, len(item)) + item for item in map(encode, value))  # type: ignore[arg-type]
    if vr in _NUMBERS:
        numbers = [value] if isinstance(value, int) else list(value)  # type: ignore[arg-type]
        return struct.pack(f"<{len(numbers)}{_NUMBERS[vr]}", *numbers)
    if isinstance(value, bytes):
        content, pad = value, b"\x00"
    else:
        parts = [value] if isinstance(value, str | int | float) else value
        content, pad = "\\".join(map(str, parts)).encode(), b"\x00" if vr == "UI" else b" "
    return content + pad if len(content) % 2 else content


def pixel_elements(pixels: Pixels, *, bits_stored: int | None = None, photometric: str = "MONOCHROME2") -> dict[str | Tag, Value]:
    """The Image Pixel module (PS3.3 C.7.6.3) of one (H, W) unsigned image; `bits_stored` is the dtype's width unless given."""
    allocated = 8 * pixels.dtype.itemsize
    stored = bits_stored or allocated
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": photometric,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes(),
    }
