"""Fetching from an archive by DICOMweb: QIDO-RS for series and images, then WADO-RS, image by image."""

from __future__ import annotations

import email.parser
import email.policy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests
from dicomweb_client import DICOMwebClient

from fedrad_client.intake.acquire.found import Series
from fedrad_client.intake.acquire.query import SERIES_KEYS, STUDY_KEYS
from fedrad_client.intake.reading.content import MAX_FILE_BYTES
from fedrad_common.errors import FedradError

PAGE = 100  # answers of one question
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two pieces of an answer
_PIECE = 1 << 20
_STUDY, _SERIES, _IMAGE, _COUNT = "0020000D", "0020000E", "00080018", "00201209"
_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


class _Session(requests.Session):
    """With a limit of time on every request; follows no redirection, for that would hand the credentials on."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        answer = super().request(*args, **{"timeout": TIMEOUT, **options, "allow_redirects": False})
        if answer.status_code // 100 == 3:
            raise requests.HTTPError(response=answer)
        return answer


@dataclass(frozen=True)
class WebArchive:
    """One server."""

    url: str
    session: requests.Session

    @classmethod
    def at(cls, url: str, *, credentials: str = "", authority: str = "") -> WebArchive:
        """Args: credentials: NAME:PASSWORD or Bearer TOKEN. authority: path of a file of certificates."""
        session = _Session()
        session.trust_env = False  # no .netrc; a proxy inside a hospital is not asked for its own archive
        if credentials.lower().startswith("bearer "):
            session.headers["Authorization"] = credentials
        elif credentials:
            name, _, password = credentials.partition(":")
            session.auth = (name, password)
        if authority:
            session.verify = authority
        return cls(url.rstrip("/"), session)

    @property
    def client(self) -> DICOMwebClient:
        made = DICOMwebClient(url=self.url, session=self.session)
        made.set_http_retry_params(retry=False)  # who pulls types the command again, and knows why
        return made

    def find(self, keys: dict[str, str]) -> Iterator[Series]:
        ours = {name: value for name, value in keys.items() if name in STUDY_KEYS}
        for study in self._pages(lambda **page: self.client.search_for_studies(search_filters=ours, **page)):
            uid = _value(study, _STUDY)
            of_series = {name: value for name, value in keys.items() if name in SERIES_KEYS}
            asked = self._pages(lambda **page: self.client.search_for_series(uid, search_filters=of_series, **page))  # noqa: B023 - used at once
            for series in asked:
                yield Series(uid, _value(series, _SERIES), int(_value(series, _COUNT) or 0))

    def fetch(self, series: Series, put: Callable[[bytes], object]) -> int:
        came = 0
        for image in self._pages(lambda **page: self.client.search_for_instances(series.study, series.series, **page)):
            put(self._image(f"studies/{series.study}/series/{series.series}/instances/{_value(image, _IMAGE)}"))
            came += 1
        return came

    def _pages(self, ask: Callable[..., list[dict[str, Any]]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            with surfacing():
                page = ask(limit=PAGE, offset=len(found))
            found += page
            if len(page) < PAGE:
                return found

    def _image(self, place: str) -> bytes:
        """The bytes of one file, as the server keeps it; dicomweb-client would parse it here, without bounds."""
        with surfacing(), self.session.get(f"{self.url}/{place}", headers={"Accept": _ACCEPT}, stream=True) as answer:
            answer.raise_for_status()
            content = bytearray()
            for piece in answer.iter_content(_PIECE):
                content += piece
                if len(content) > MAX_FILE_BYTES + _PIECE:
                    raise FedradError("pull: the server sends more than any image has", hint="is the url a DICOMweb server's?")
            return only_part(bytes(content), answer.headers.get("Content-Type", ""))


class surfacing:  # noqa: N801 - reads as a word
    """requests' errors as ours, without the url, which names what was asked for."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        match error:
            case requests.HTTPError() if error.response is not None:
                code = error.response.status_code
                hint = "see the credentials" if code in (401, 403) else "see the server's log, and whether the url ends before /studies"
                raise FedradError(f"pull: the server answers with status {code}", hint=hint) from None
            case requests.exceptions.JSONDecodeError():
                raise FedradError("pull: the server's answer is no DICOM JSON", hint="is the url a DICOMweb server's?") from None
            case requests.exceptions.SSLError():
                raise FedradError(
                    "pull: the server's certificate is not believed", hint="name its authority's file in dicomweb.authority"
                ) from None
            case requests.RequestException():
                raise FedradError(f"pull: the server cannot be reached ({type(error).__name__})", hint="see dicomweb.url") from None
            case ValueError() | TypeError():  # what dicomweb-client says of another form
                raise FedradError("pull: the server's answer is no DICOM JSON", hint="is the url a DICOMweb server's?") from None


def only_part(content: bytes, kind: str) -> bytes:
    """The one part of a multipart answer (RFC 2387). Raises FedradError: another form."""
    if not kind.lower().startswith("multipart/"):
        return content
    header = email.parser.Parser(policy=email.policy.HTTP).parsestr(f"Content-Type: {kind}\n\n", headersonly=True)
    boundary = b"--" + (header.get_boundary() or "").encode()
    begin = content.find(b"\r\n\r\n", content.find(boundary))
    end = content.rfind(b"\r\n" + boundary)
    if len(boundary) < 3 or begin < 0 or end <= begin:
        raise FedradError("pull: the server's answer is not in the form of DICOMweb", hint="is the url a DICOMweb server's?")
    return content[begin + 4 : end]


def _value(found: dict[str, Any], tag: str) -> str:
    values = found.get(tag, {}).get("Value") or [""]
    return str(values[0])
