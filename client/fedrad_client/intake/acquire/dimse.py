"""Fetching from an archive by DIMSE: C-FIND for series, then C-GET, or C-MOVE to this site's own receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined] # made when it is imported
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from fedrad_client.intake.acquire.associations import IMAGES, SYNTAXES, entity
from fedrad_client.intake.acquire.found import Series
from fedrad_client.intake.acquire.query import SERIES_KEYS, STUDY_KEYS, Dimse
from fedrad_common.errors import FedradError

MOST = 128  # presentation contexts of an association (PS3.8 9.3.2.2)
PENDING, SUCCESS, OUR_FAULT = (0xFF00, 0xFF01), 0x0000, 0xA700
_HINT = "see that host, port and AE titles are right, and that the archive knows this site's title"


@dataclass(frozen=True)
class DimseArchive:
    """One peer. `receiving`: with "move", whoever counts what the receiver got."""

    peer: Dimse
    count: Callable[[], int] | None = None

    def find(self, keys: dict[str, str]) -> Iterator[Series]:
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            studies = self._ask(
                association, "STUDY", {name: keys.get(name, "") for name in ("StudyInstanceUID", *_given(keys, STUDY_KEYS))}
            )
            for study in studies:
                wanted = {
                    name: keys.get(name, "") for name in ("SeriesInstanceUID", "NumberOfSeriesRelatedInstances", *_given(keys, SERIES_KEYS))
                }
                for series in self._ask(association, "SERIES", {**wanted, "StudyInstanceUID": str(study.get("StudyInstanceUID", ""))}):
                    yield Series(str(study.StudyInstanceUID), str(series.get("SeriesInstanceUID", "")), _count(series))

    def _ask(self, association: Any, level: str, keys: dict[str, str]) -> list[Dataset]:
        query = Dataset()
        query.QueryRetrieveLevel = level
        for name, value in keys.items():
            setattr(query, name, value)
        found = []
        for status, answer in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            code = _status(status, "C-FIND")
            if code in PENDING and answer is not None:
                found.append(answer)
        return found

    def fetch(self, series: Series, put: Callable[[bytes], object]) -> int:
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID = "SERIES", series.study, series.series
        return self._move(query) if self.peer.retrieve == "move" else self._get(query, put)

    def _get(self, query: Dataset, put: Callable[[bytes], object]) -> int:
        came, faults = 0, list[FedradError]()

        def store(event: Any) -> int:
            nonlocal came
            try:
                put(event.encoded_dataset())
            except FedradError as error:
                faults.append(error)
                return OUR_FAULT
            came += 1
            return SUCCESS

        kinds = self._kinds(query)
        contexts = [build_context(StudyRootQueryRetrieveInformationModelGet), *_offered(kinds)][:MOST]
        roles = [build_role(kind, scp_role=True) for kind in kinds]
        with self._associated(contexts, roles=roles, handlers=[(evt.EVT_C_STORE, store)]) as association:
            for status, _ in association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet):
                if not faults:
                    _status(status, "C-GET")
        if faults:
            raise faults[0]
        return came

    def _kinds(self, series: Dataset) -> list[str]:
        """SOP classes of a series' images; of an archive that does not say, all that a site may hold."""
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            keys = {"StudyInstanceUID": series.StudyInstanceUID, "SeriesInstanceUID": series.SeriesInstanceUID, "SOPClassUID": ""}
            found = {str(image.get("SOPClassUID", "")) for image in self._ask(association, "IMAGE", keys)} - {""}
        return sorted(found)[: MOST // len(SYNTAXES)] or [str(image) for image in IMAGES]

    def _move(self, query: Dataset) -> int:
        assert self.count is not None
        before = self.count()
        with self._associated([build_context(StudyRootQueryRetrieveInformationModelMove)]) as association:
            for status, _ in association.send_c_move(query, self.peer.own_title, StudyRootQueryRetrieveInformationModelMove):
                _status(status, "C-MOVE")
        return self.count() - before

    @contextmanager
    def _associated(self, contexts: list[Any], **options: Any) -> Iterator[Any]:
        own = entity(self.peer.own_title)
        own.requested_contexts = contexts
        association = own.associate(
            self.peer.host, self.peer.port, ae_title=self.peer.title, ext_neg=options.get("roles"), evt_handlers=options.get("handlers", [])
        )
        if not association.is_established:
            what = "refuses this site" if association.is_rejected else "cannot be reached"
            raise FedradError(f"pull: the archive {what}", hint=_HINT)
        try:
            yield association
        finally:
            association.release()


def _offered(kinds: list[str]) -> list[Any]:
    """Each syntax by itself, where there is room: an archive accepts one of a context, and does not unpack what is stored otherwise."""
    if len(kinds) * len(SYNTAXES) < MOST:
        return [build_context(kind, syntax) for kind in kinds for syntax in SYNTAXES]
    return [build_context(kind, SYNTAXES) for kind in kinds]


def _given(keys: dict[str, str], known: frozenset[str]) -> list[str]:
    return sorted(known & keys.keys())


def _count(series: Dataset) -> int:
    try:
        return int(series.get("NumberOfSeriesRelatedInstances") or 0)
    except (TypeError, ValueError):
        return 0


def _status(status: Dataset, what: str) -> int:
    """Raises FedradError: nothing came, or a failure (PS3.4 C.4); warnings pass, and the count of images tells."""
    if "Status" not in status:
        raise FedradError(f"pull: {what}: the archive ended the association", hint="try again; what came is kept")
    code = int(status.Status)
    if code not in (*PENDING, SUCCESS) and code >> 12 in (0xA, 0xC):
        raise FedradError(
            f"pull: {what}: the archive refused with status {code:#06x}", hint="see its log; with move: does it know this site?"
        )
    return code
