"""The corpus: files with identifiers in every place that a DICOM file has, each string found nowhere else."""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from deid_images import KINDS, Who, encoded, sound  # type: ignore[import-not-found] # beside this one
from PIL import Image
from pydicom import Dataset, dcmwrite
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from fedrad_sim.identifiers import token

TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
DIGITS = {"DS": 16, "IS": 12}
WHEN = {"DA", "DT", "TM"}
A_FILE = 36  # elements of the dictionary that one file of the sweep plants
# An image cannot be without these, or is no image with another value; UIDs are planted in them by `Who`.
_STRUCTURE = (
    "SpecificCharacterSet SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID PatientID Modality Rows Columns "
    "SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation NumberOfFrames "
    "PlanarConfiguration PixelData IssuerOfPatientID BurnedInAnnotation RescaleSlope RescaleIntercept PixelPaddingValue "
    "PixelPaddingRangeLimit"
)
STRUCTURE = frozenset(_STRUCTURE.split())


@dataclass
class Case:
    """One file, and what must not be found of it."""

    name: str
    planted: list[bytes] = field(default_factory=list)  # as they stand in the file
    hidden: list[bytes] = field(default_factory=list)  # in bits that no search of bytes finds: see `nibbles`
    content: bytes = b""

    def text(self, place: object) -> str:
        """Letters and digits."""
        self.planted.append(token("ZQ", self.name, place).encode())
        return self.planted[-1].decode()

    def digits(self, place: object, length: int) -> str:
        """So many digits, at least nine: a telephone or record number."""
        number = int.from_bytes(token("", self.name, place, "digits").encode(), "big") % 10 ** (length - 1)
        self.planted.append(f"7{number:0{length - 1}d}".encode())
        return self.planted[-1].decode()

    def birth(self, place: object, length: int = 14) -> str:
        """A date of before 1950, with the time behind it where a place takes both: `19310422093017`."""
        number = int.from_bytes(token("", self.name, place, "day").encode(), "big")
        said = f"19{31 + number % 18}{1 + number // 20 % 12:02d}{1 + number // 300 % 28:02d}{number // 9999 % 240000:06d}"[:length]
        self.planted.append(said.encode())
        return said

    def uid(self, place: object) -> str:
        """As scanners make them: with a serial number and a date inside."""
        return f"1.2.840.113619.2.{self.digits((place, 'serial'), 9)}.{self.birth(place)}"


def raw(ds: Dataset, tag: BaseTag | tuple[int, int] | str, vr: str, value: bytes) -> None:
    """An element of any VR with any bytes, as only a broken or a hostile program writes it."""
    at = Tag(tag)
    value += b"\0" * (len(value) % 2)
    ds._dict[at] = RawDataElement(at, vr, len(value), value, 0, False, True)


def cases() -> list[Case]:
    """All of them, the same at each call."""
    made = [case for group in GROUPS for case in group()]
    for case in made:
        assert case.content, case.name
    return made


def _new(name: str, kind: str = "CR") -> tuple[Case, Dataset]:
    case = Case(name)
    ds = sound(kind, Who(f"{case.text('patient id')}-{case.digits('record number', 10)}"))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(ds, keyword, case.uid(keyword))
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return case, ds


def _done(case: Case, ds: Dataset, **options: bytes) -> Case:
    case.content = encoded(ds, **options)
    return case


def sweep() -> Iterator[Case]:
    """Every public element that holds text, digits, dates or UIDs, each with an identifier of its VR, also where the element is kept."""
    listed = [(tag, vr, keyword) for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items()) if keyword and tag >> 16 not in (0, 2)]
    wanted = [(tag, vr) for tag, vr, keyword in listed if keyword not in STRUCTURE and vr in TEXT | WHEN | set(DIGITS) | {"UI", "AS", "OB"}]
    kinds = list(KINDS)
    for number, start in enumerate(range(0, len(wanted), A_FILE)):
        case, ds = _new(f"sweep {number}", kinds[number % len(kinds)])
        for tag, vr in wanted[start : start + A_FILE]:
            raw(ds, Tag(tag), vr, _said(case, vr, tag).encode())
        yield _done(case, ds)


def _said(case: Case, vr: str, place: object) -> str:
    if vr in DIGITS:
        return case.digits(place, DIGITS[vr])
    if vr in WHEN:
        return case.digits(place, 9) if vr == "TM" else case.birth(place, 8 if vr == "DA" else 14)
    return case.uid(place) if vr == "UI" else case.text(place)


def nested() -> Iterator[Case]:
    """Sequences up to eight deep, public and private, and one written as UN."""
    for depth in range(1, 9):
        case, ds = _new(f"nested {depth}", "DX")
        at = ds
        for level in range(depth):
            inner = Dataset()
            inner.PatientName, inner.TextValue, inner.PatientID = (
                f"{case.text(('name', level))}^A",
                case.text(level),
                case.text(("id", level)),
            )
            inner.ReferencedSOPInstanceUID, inner.PatientBirthDate = case.uid(("ref", level)), case.birth(("born", level), 8)
            at.add_new((0x0040, 0xA730) if level % 2 else (0x0009, 0x1010 + level) if level == 4 else (0x0040, 0x0275), "SQ", [inner])
            at = inner
        ds.add_new((0x0009, 0x0010), "LO", case.text("creator"))
        yield _done(case, ds)
    case, ds = _new("sequence as UN")
    item = Dataset()
    item.PatientName, item.PatientComments = case.text("name"), case.text("comment")
    stream = io.BytesIO()
    dcmwrite(stream, item, implicit_vr=True, little_endian=True)
    content = stream.getvalue()
    for place in ((0x0040, 0x0275), (0x0019, 0x1001), (0x0008, 0x1140)):
        raw(ds, place, "UN", struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    yield _done(case, ds)


def references() -> Iterator[Case]:
    """Sequences that an export keeps: whatever else stands in their items."""
    for kind in KINDS:
        case, ds = _new(f"references {kind}", kind)
        for keyword in (
            "ReferencedImageSequence",
            "SourceImageSequence",
            "ReferencedStudySequence",
            "ViewCodeSequence",
            "AnatomicRegionSequence",
        ):
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = KINDS[kind], case.uid(keyword)
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "399162004", "SCT", case.text((keyword, "meaning"))
            item.PatientName, item.PurposeOfReferenceCodeSequence = case.text((keyword, "name")), [Dataset()]
            item.PurposeOfReferenceCodeSequence[0].CodeMeaning = case.text((keyword, "purpose"))
            other = Dataset()
            other.ReferencedSOPClassUID, other.ReferencedSOPInstanceUID = case.uid((keyword, "class")), case.uid((keyword, "other"))
            other.CodeValue, other.CodingSchemeDesignator = case.text((keyword, "code")), case.text((keyword, "scheme"))
            setattr(ds, keyword, [item, other])
        yield _done(case, ds)


def private() -> Iterator[Case]:
    for group in (0x0009, 0x0019, 0x0029, 0x0051, 0x7FE1, 0xE001):
        case, ds = _new(f"private {group:04x}", "CT")
        raw(ds, (group, 0x0010), "LO", case.text("creator").encode())
        for element, vr in enumerate(("LO", "PN", "UN", "OB", "UT", "DA", "SH", "OW"), start=0x1001):
            raw(ds, (group, element), vr, (case.birth(element, 8) if vr == "DA" else f"  {case.text(element)}").encode())
        raw(ds, (group, 0x10FF), "UN", b"\x00\x01CSA2" + case.text("blob").encode() + bytes(9) + case.digits("blob", 12).encode())
        yield _done(case, ds)


CHARACTER_SETS = {
    "ISO_IR 100": ("latin-1", "Müller-{}^Änne"),
    "ISO_IR 144": ("iso8859-5", "Люкceмбypг{}"),
    "ISO_IR 127": ("iso8859-6", "قباني^لنزار{}"),
    "ISO_IR 126": ("iso8859-7", "Διονυσιος{}"),
    "ISO_IR 138": ("iso8859-8", "שרון^{}"),
    "ISO_IR 166": ("cp874", "ศักดิ์{}"),
    "ISO_IR 192": ("utf-8", "王{}^小东="),
    "GB18030": ("gb18030", "王{}^小东"),
    "GBK": ("gbk", "李{}^明"),
    "\\ISO 2022 IR 87": ("iso2022_jp", "Yamada^Tarou=山田{}^太郎"),
    "\\ISO 2022 IR 149": ("iso2022_kr", "Hong^Gildong=洪{}^吉洞"),
    "ISO 2022 IR 13\\ISO 2022 IR 87": ("shift_jis", "ﾔﾏﾀﾞ{}^ﾀﾛｳ"),
    "ISO_IR 999": ("latin-1", "{}^no such set"),
}


def character_sets() -> Iterator[Case]:
    for name, (codec, pattern) in CHARACTER_SETS.items():
        case, ds = _new(f"character set {name}", "MR")
        raw(ds, "SpecificCharacterSet", "CS", name.encode())
        for keyword in ("PatientName", "StudyDescription", "InstitutionName", "PatientComments", "OtherPatientNames", "BodyPartExamined"):
            said = pattern.format(case.text(keyword)).encode(codec, "replace")
            raw(ds, keyword, "PN" if "Name" in keyword else "LO", said)
        yield _done(case, ds)


def around() -> Iterator[Case]:
    """Beside the data set: preamble, file meta, trailing padding, bytes behind the last element."""
    for kind in KINDS:
        case, ds = _new(f"around {kind}", kind)
        meta = ds.file_meta
        meta.SourceApplicationEntityTitle, meta.SendingApplicationEntityTitle = case.text("source")[:16], case.text("sending")[:16]
        meta.ReceivingApplicationEntityTitle, meta.ImplementationVersionName = case.text("receiving")[:16], case.text("version")[:16]
        meta.ImplementationClassUID, meta.PrivateInformationCreatorUID = UID(case.uid("implementation")), UID(case.uid("creator"))
        meta.PrivateInformation = case.text("private").encode()
        raw(ds, (0xFFFC, 0xFFFC), "OB", case.text("trailing").encode())
        preamble = f"{case.text('preamble')} {case.birth('preamble')} {case.digits('preamble', 12)}".encode().ljust(128, b"\0")
        _done(case, ds, preamble=preamble)
        case.content += b"" if kind == "CT" else case.text("behind").encode()
        yield case


def graphics() -> Iterator[Case]:
    """Overlays, curves, icons, annotations, signatures."""
    for group in range(0x6000, 0x6010, 2):
        case, ds = _new(f"overlay {group:04x}", "DX")
        raw(ds, (group, 0x0010), "US", struct.pack("<H", 32))
        raw(ds, (group, 0x0011), "US", struct.pack("<H", 32))
        for element, vr in ((0x0022, "LO"), (0x1500, "LO"), (0x4000, "UN"), (0x3000, "OW")):
            raw(ds, (group, element), vr, case.text(element).encode().ljust(128 if element == 0x3000 else 0, b"\0"))
        raw(ds, (group - 0x1000, 0x0022), "LO", case.text("curve").encode())
        raw(ds, (group - 0x1000, 0x3000), "OW", case.text("curve data").encode())
        yield _done(case, ds)
    for kind in KINDS:
        case, ds = _new(f"icon and signature {kind}", kind)
        icon = Dataset()
        icon.Rows, icon.Columns, icon.BitsAllocated, icon.SamplesPerPixel = 8, 8, 8, 1
        icon.add_new("PixelData", "OB", case.text("icon").encode().ljust(64, b"\0"))
        ds.IconImageSequence = [icon]
        signature = Dataset()
        signature.add_new("CertificateOfSigner", "OB", case.text("certificate").encode() + b"\0" * 2)
        signature.add_new("Signature", "OB", case.text("signature").encode() + b"\0" * 2)
        signature.DigitalSignatureUID = case.uid("signature")
        ds.DigitalSignaturesSequence = [signature]
        table = Dataset()
        table.LUTDescriptor, table.LUTExplanation = [2, 0, 16], case.text("table")
        table.add_new("LUTData", "OW", case.text("table data").encode())
        ds.VOILUTSequence = [table]
        ds.WindowCenterWidthExplanation = case.text("window")
        yield _done(case, ds)


KEPT = (
    "BodyPartExamined ViewPosition Laterality ImageLaterality PatientSex PatientAge PatientPosition LossyImageCompression "
    "Manufacturer PixelSpacing ImagerPixelSpacing SliceThickness SpacingBetweenSlices ImagePositionPatient "
    "ImageOrientationPatient KVP EchoTime RepetitionTime InversionTime FlipAngle MagneticFieldStrength StudyDate "
    "AcquisitionDate SeriesDate ContentDate SeriesNumber InstanceNumber AcquisitionNumber WindowCenter WindowWidth RescaleType "
    "ImageType PatientOrientation FrameOfReferenceUID EchoTrainLength LossyImageCompressionRatio "
    "SynchronizationFrameOfReferenceUID ScanningSequence ScanOptions"
)
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


def odd_values() -> Iterator[Case]:
    """Kept elements with values and VRs that they should not have."""
    kept = KEPT.split()
    spellings: dict[str, Callable[[Case, str], str]] = {
        "LO": lambda case, keyword: case.text(keyword),
        "LT": lambda case, keyword: f"CHEST {case.text(keyword)} {case.digits(keyword, 11)}",
        "UN": lambda case, keyword: case.text(keyword),
        "DS": lambda case, keyword: "\\".join([case.digits(keyword, 12)] * 3),
        "IS": lambda case, keyword: "\\".join([case.digits((keyword, place), 10) for place in range(6)]),
        "CS": lambda case, keyword: f"PA\\{case.text(keyword)}",
        "PN": lambda case, keyword: f"{case.text(keyword)}^A=B={case.text((keyword, 'again'))}",
        "SH": lambda case, keyword: f"1.{case.digits(keyword, 12)}",
        "DA": lambda case, keyword: case.birth(keyword, 8),
        "UT": lambda case, keyword: case.digits(keyword, 10).translate(ARABIC),
    }
    for vr, spell in spellings.items():
        for kind in ("CR", "MR"):
            case, ds = _new(f"odd {vr} {kind}", kind)
            if vr == "UT":
                ds.SpecificCharacterSet = "ISO_IR 192"
            for keyword in kept:
                raw(ds, keyword, vr, spell(case, keyword).encode())
            yield _done(case, ds)


def pixels() -> Iterator[Case]:
    """In the pixel element: behind the last pixel, in unused bits, in what wraps compressed frames."""
    for kind in KINDS:
        case, ds = _new(f"behind the last pixel {kind}", kind)
        ds.PixelData += case.text("behind").encode() + case.digits("behind", 12).encode()
        yield _done(case, ds)
        case, ds = _new(f"unused bits {kind}", kind)
        secret = token("ZQ", case.name, "bits").encode()
        words = np.frombuffer(ds.PixelData, "<u2").copy()
        halves = np.frombuffer(secret, np.uint8)
        words[: 2 * len(secret)] |= (np.stack([halves >> 4, halves & 15], axis=1).ravel().astype(np.uint16)) << 12
        ds.PixelData = words.tobytes()
        case.hidden.append(secret)
        yield _done(case, ds)
    for number in range(4):
        case, ds = _new(f"JPEG {number}")
        image = Image.fromarray((np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns) // 16).astype(np.uint8))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=95, comment=case.text("comment").encode())
        jpeg = stream.getvalue()
        app1 = b"Exif\0\0MM\0*" + case.text("exif").encode() + case.text("artist").encode()
        jpeg = (
            jpeg[:2]
            + b"\xff\xe1"
            + struct.pack(">H", len(app1) + 2)
            + app1
            + jpeg[2:]
            + (case.text("behind").encode() if number % 2 else b"")
        )
        _compressed(ds, jpeg, JPEGBaseline8Bit, bits=8)
        yield _done(case, ds)
    case, ds = _new("RLE", "CT")
    ds.StudyDescription = case.text("description")
    ds.compress(RLELossless, generate_instance_uid=False)
    yield _done(case, ds)


def _compressed(ds: Dataset, frame: bytes, syntax: UID, *, bits: int) -> None:
    ds.BitsAllocated = ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.file_meta.TransferSyntaxUID = syntax
    ds.LossyImageCompression, ds.LossyImageCompressionMethod, ds.LossyImageCompressionRatio = "01", "ISO_10918_1", 10
    ds.add_new("PixelData", "OB", encapsulate([frame]))
    ds["PixelData"].is_undefined_length = True


FAULTS = (
    ("SOPClassUID", "UI", "1.2.3.4"), ("Modality", "CS", ""), ("PhotometricInterpretation", "CS", ""), ("Rows", "LO", ""),
    ("PatientID", "LO", "UNKNOWN"), ("PatientID", "LO", " "), ("BitsStored", "LO", ""), ("NumberOfFrames", "LO", ""),
    ("PixelData", "OB", ""),
)  # fmt: skip


def unusable() -> Iterator[Case]:
    """Files from which no image comes, whose fault is told by a code: no text of theirs may be in it."""
    for number, (keyword, vr, value) in enumerate(FAULTS):
        case, ds = _new(f"unusable {number}")
        ds.PatientName, ds.PatientBirthDate = f"{case.text('name')}^A", case.birth("born", 8)
        said = value or case.text(keyword)
        raw(ds, keyword, vr, (f"{value}.{case.digits('class', 10)}" if vr == "UI" else said).encode())
        yield _done(case, ds)
    whole, ds = _new("whole")
    for place in ("PatientName", "PatientComments", "StudyDescription"):
        setattr(ds, place, whole.text(place))
    _done(whole, ds)
    for size in range(150, len(whole.content), 173):
        yield Case(f"cut at {size}", planted=[text for text in whole.planted if text in whole.content[:size]], content=whole.content[:size])
    note = Case("a note")
    note.content = f"Dear {note.text('name')}, born {note.birth('born')}, call {note.digits('telephone', 12)}".encode()
    yield note


def implicit() -> Iterator[Case]:
    """Another transfer syntax, where an element's VR is what the dictionary says."""
    for kind in KINDS:
        case, ds = _new(f"implicit {kind}", kind)
        for keyword in (
            "PatientName",
            "PatientComments",
            "InstitutionName",
            "ProtocolName",
            "BodyPartExamined",
            "OperatorsName",
            "StationName",
        ):
            setattr(ds, keyword, case.text(keyword))
        ds.add_new((0x0019, 0x1001), "UN", case.text("private").encode())
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        yield _done(case, ds)


GROUPS: tuple[Callable[[], Iterator[Case]], ...] = (
    sweep, nested, references, private, character_sets, around, graphics, odd_values, pixels, unusable, implicit,
)  # fmt: skip
