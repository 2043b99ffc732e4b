"""Identifiers planted in a phantom's DICOM, each a string found nowhere else, so that one grep tells whether any got out."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from fedrad_sim.dicom_write import Elements

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2), the same for the same parts."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big') | 1 << 119}"


def token(prefix: str, *parts: object) -> str:
    """Fourteen letters and digits that no text holds by chance, valid in each text VR, SH, AE and CS too."""
    number = int.from_bytes(hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()[:8], "big")
    return prefix + "".join(_ALPHABET[(number >> 5 * place) & 31] for place in range(12))


@dataclass
class Planted:
    """Makes one file's canaries and remembers them."""

    file: str  # what no other file is called
    canaries: list[str] = field(default_factory=list)

    def __call__(self, place: str) -> str:
        self.canaries.append(token("ZQ", self.file, place))
        return self.canaries[-1]

    def keep(self, strings: Iterable[str]) -> None:
        self.canaries.extend(strings)


def plant(planted: Planted) -> Elements:
    """Elements full of identifiers: headers, sequences three deep, private blocks with UN, trailing padding."""
    new = planted
    return {
        "PatientName": f"Müller-{new('name')}^Änne^{new('middle name')}",
        "PatientAddress": f"{new('address')} Street 7",
        "PatientTelephoneNumbers": new("telephone"),
        "PatientComments": f"sister of {new('patient comments')}, see also {new('relative')}",
        "AdditionalPatientHistory": f"seen by Dr {new('history')}",
        "OtherPatientIDs": [new("other id"), new("older id")],
        "OtherPatientNames": f"{new('maiden name')}^Anna",
        "InstitutionName": f"{new('institution')} Hospital",
        "InstitutionAddress": f"{new('institution address')} Road",
        "InstitutionalDepartmentName": new("department"),
        "StationName": new("station"),
        "ReferringPhysicianName": f"{new('referring')}^Jo^^Dr",
        "PerformingPhysicianName": [f"{new('performing')}^A", f"{new('second performing')}^B"],
        "OperatorsName": f"{new('operator')}^C",
        "AccessionNumber": new("accession"),
        "StudyID": new("study id"),
        "StudyDescription": f"CHEST of {new('study description')}",
        "SeriesDescription": f"PA {new('series description')}",
        "ProtocolName": f"chest {new('protocol')}",
        "ImageComments": f"repeat for {new('image comments')}",
        "RequestedProcedureDescription": new("requested"),
        **_nested(new),
        **_private(new),
        "DataSetTrailingPadding": new("trailing padding").encode() + bytes(18),
    }


def _nested(new: Planted) -> Elements:
    concept: Elements = {"CodeValue": "C1", "CodingSchemeDesignator": "99ZQ", "CodeMeaning": f"known as {new('concept')}"}
    context: Elements = {"TextValue": f"call {new('context')} at home", "PersonName": f"{new('context name')}^D"}
    action: Elements = {
        "CodeValue": "P1",
        "CodingSchemeDesignator": "99ZQ",
        "CodeMeaning": f"{new('action')} view",
        "ProtocolContextSequence": [context, {"TextValue": new("second context"), (0x0041, 0x0010, "LO"): "ZQ CREATOR", **_unknown(new)}],
    }
    request: Elements = {
        "ScheduledProcedureStepDescription": new("scheduled step"),
        "ScheduledProtocolCodeSequence": [action, concept],
    }
    other: Elements = {"PatientID": new("nested id")}
    return {"OtherPatientIDsSequence": [other], "RequestAttributesSequence": [request]}


def _unknown(new: Planted) -> Elements:
    return {(0x0041, 0x1001, "UN"): new("nested unknown").encode()}


def _private(new: Planted) -> Elements:
    item: Elements = {(0x0009, 0x0010, "LO"): "ZQ ACQUISITION", (0x0009, 0x1001, "LO"): new("private item")}
    return {
        (0x0009, 0x0010, "LO"): "ZQ ACQUISITION",
        (0x0009, 0x1001, "LO"): new("private text"),
        (0x0009, 0x1002, "UN"): b"\x00\x01" + new("private unknown").encode(),
        (0x0009, 0x1003, "SQ"): [item],
        (0x0029, 0x0010, "LO"): f"ZQ {new('private creator')}",
        (0x0029, 0x1010, "OB"): b"CSA\x00" + new("private blob").encode() + bytes(8),
    }


def plant_meta(planted: Planted) -> tuple[Elements, bytes]:
    """File meta elements and the 128 bytes of the preamble."""
    meta: Elements = {
        "SourceApplicationEntityTitle": planted("source application"),
        "PrivateInformationCreatorUID": uid(planted.file, "creator"),
        "PrivateInformation": planted("meta private").encode(),
    }
    return meta, planted("preamble").encode().ljust(128, b"\x00")
