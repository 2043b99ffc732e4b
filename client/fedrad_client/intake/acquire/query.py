"""The file that says what is fetched, and from where: `fedrad-site pull QUERY.toml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fedrad_client.config import Title
from fedrad_common.config import Section, load_toml
from fedrad_common.errors import MisuseError

Port = Annotated[int, Field(ge=1, le=65535)]
# Keys of a study and of a series that most archives can be asked by (PS3.4 C.6.2.1, PS3.18 10.6).
STUDY_KEYS = frozenset(
    ("PatientID", "StudyDate", "StudyTime", "AccessionNumber", "StudyInstanceUID", "ModalitiesInStudy", "StudyDescription")
)
SERIES_KEYS = frozenset(("Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "BodyPartExamined"))


class Dimse(Section):
    """A peer that speaks DIMSE."""

    host: str
    port: Port
    title: Title  # of the peer
    own_title: Title  # by which it knows this site
    retrieve: Literal["get", "move"] = "get"  # move: the peer sends to `own_title`, where it must know this machine and receive.port


class DicomWeb(Section):
    """A server that speaks DICOMweb."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]  # up to where /studies follows
    credentials: str = ""  # file beside this one, mode 0600: NAME:PASSWORD, or Bearer TOKEN; empty: none are asked for
    authority: str = ""  # file beside this one with the certificates to believe; empty: this machine's own list


class Pull(Section):
    format: Literal["fedrad-pull-1"]
    dimse: Dimse | None = None
    dicomweb: DicomWeb | None = None
    query: tuple[dict[str, Any], ...] = Field(min_length=1)  # of text; what fits any of them is fetched

    @model_validator(mode="after")
    def _one_source_and_known_keys(self) -> Self:
        if (self.dimse is None) == (self.dicomweb is None):
            raise ValueError("exactly one of [dimse] and [dicomweb] is needed")
        for keys in self.query:
            if not keys:
                raise ValueError("an empty [[query]] would fetch the whole archive")
            if unknown := sorted(keys.keys() - STUDY_KEYS - SERIES_KEYS):
                raise ValueError(f"{unknown[0]!r} is no key that can be asked by; known: {', '.join(sorted(STUDY_KEYS | SERIES_KEYS))}")
            if wrong := sorted(name for name, value in keys.items() if not isinstance(value, str)):
                raise ValueError(f"the value of {wrong[0]} is no text in quotes")  # and not quoted here: it may name a patient
        return self


def read_pull(path: Path) -> Pull:
    """Raises ConfigError: malformed; its values are not quoted."""
    return load_toml(path, Pull)


def secret_beside(path: Path, name: str) -> str:
    """The text of a file that only its owner can read. Raises MisuseError."""
    beside = path.parent / name
    try:
        mode = beside.stat().st_mode
        text = beside.read_text().strip()
    except (OSError, UnicodeDecodeError):
        raise MisuseError(f"{name}: cannot be read", hint="it stands beside the query file") from None
    if mode & 0o077:
        raise MisuseError(f"{name}: others may read it (mode {mode & 0o777:03o})", hint=f"chmod 600 {name}")
    return text
