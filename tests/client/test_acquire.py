"""What a PACS sends or lets fetch lies in the inbox once, whole or not at all; nobody calls who is not listed, no log names a patient."""

import io
import json
import logging
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import ComputedRadiographyImageStorage, StudyRootQueryRetrieveInformationModelFind, Verification
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as GetModel

from fedrad_client.config import Receive
from fedrad_client.intake.acquire import inbox as inboxes
from fedrad_client.intake.acquire import receiver as receivers
from fedrad_client.intake.acquire.arrivals import Arrivals
from fedrad_client.intake.acquire.dimse import DimseArchive
from fedrad_client.intake.acquire.found import Series, pull
from fedrad_client.intake.acquire.inbox import Inbox
from fedrad_client.intake.acquire.query import Dimse, read_pull, secret_beside
from fedrad_client.intake.acquire.receiver import Receiver
from fedrad_client.intake.acquire.web import WebArchive, only_part
from fedrad_common.errors import ConfigError, DiskError, FedradError, MisuseError

CALLER, OURS = "PACS", "FEDRAD"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.of(tmp_path)


def stored(inbox: Inbox) -> list[Path]:
    return sorted(inbox.folder.glob("*.dcm"))


# ── the inbox ──


def test_the_same_bytes_lie_there_once_and_only_for_this_account(inbox: Inbox):
    assert [inbox.put(b"one"), inbox.put(b"two"), inbox.put(b"one")] == [True, True, False]
    assert (inbox.received, inbox.known, len(stored(inbox))) == (3, 1, 2)
    assert {stat.S_IMODE(path.stat().st_mode) for path in stored(inbox)} == {0o600}
    assert stat.S_IMODE(inbox.folder.stat().st_mode) == 0o700


def test_what_cannot_be_written_leaves_nothing(inbox: Inbox, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inboxes.os, "fdatasync", full)
    with pytest.raises(DiskError):
        inbox.put(b"one")

    assert list(inbox.folder.iterdir()) == []


def test_a_disk_that_is_nearly_full_takes_nothing_more(inbox: Inbox, monkeypatch):
    monkeypatch.setattr(inboxes, "LEAST_FREE", 1 << 60)
    with pytest.raises(DiskError, match="free"):
        inbox.put(b"one")


def test_what_a_killed_process_left_is_swept_out(inbox: Inbox, tmp_path: Path):
    (inbox.folder / ".0123.tmp").write_bytes(b"half")
    Inbox.of(tmp_path)

    assert list(inbox.folder.iterdir()) == []


# ── the receiver ──


@pytest.fixture
def receiver(inbox: Inbox) -> Iterator[tuple[Receiver, tuple[str, int]]]:
    made = Receiver(inbox, Receive(port=0, callers=(CALLER,)))
    yield made, made.start()
    made.stop()


def associated(where: tuple[str, int], *, caller: str = CALLER, called: str = OURS) -> object:
    peer = AE(ae_title=caller)
    peer.requested_contexts = [build_context(ComputedRadiographyImageStorage), build_context(Verification)]
    return peer.associate(*where, ae_title=called)


def test_what_is_sent_is_kept_as_it_came_and_a_second_time_is_the_same(receiver, inbox: Inbox, dataset):
    link, ds = associated(receiver[1]), dataset(patient="Canary")
    statuses = [link.send_c_store(ds).Status for _ in range(2)]
    echo = link.send_c_echo().Status
    link.release()

    (path,) = stored(inbox)
    assert (statuses, echo) == ([0, 0], 0)
    assert dcmread(path).PatientID == "Canary"
    np.testing.assert_array_equal(dcmread(path).pixel_array, ds.pixel_array)
    assert receiver[0].line == "2 files received, 1 of them again, 0 refused"


@pytest.mark.parametrize(("caller", "called"), [("STRANGER", OURS), (CALLER, "OTHER"), ("pacs", OURS)])
def test_whoever_calls_by_another_name_is_refused(receiver, inbox: Inbox, caller: str, called: str):
    link = associated(receiver[1], caller=caller, called=called)

    assert link.is_rejected
    assert stored(inbox) == []


def test_without_a_list_of_callers_nobody_is_listened_to(inbox: Inbox):
    with pytest.raises(MisuseError, match="nobody may call"):
        Receiver(inbox, Receive(port=0)).start()


def test_a_port_that_is_taken_is_said(receiver, inbox: Inbox):
    with pytest.raises(FedradError, match=r"cannot listen at 127\.0\.0\.1"):
        Receiver(inbox, Receive(port=receiver[1][1], callers=(CALLER,))).start()


def test_a_full_disk_is_told_to_the_sender(receiver, inbox: Inbox, dataset, monkeypatch):
    monkeypatch.setattr(inboxes, "LEAST_FREE", 1 << 60)
    link = associated(receiver[1])
    status = link.send_c_store(dataset()).Status
    link.release()

    assert status == 0xA700
    assert receiver[0].refused == 1


def test_a_message_without_end_is_cut_off_before_it_fills_the_memory(receiver, inbox: Inbox, dataset, monkeypatch):
    monkeypatch.setattr(receivers, "MAX_FILE_BYTES", 1 << 16)
    link = associated(receiver[1])
    link.send_c_store(dataset(pixels=np.zeros((1024, 1024), np.uint16) + np.arange(1024, dtype=np.uint16)))
    link.join(10)

    assert link.is_aborted
    assert stored(inbox) == []


def test_a_file_that_no_ingest_would_read_is_not_kept(inbox: Inbox, monkeypatch):
    monkeypatch.setattr(inboxes, "MAX_FILE_BYTES", 3)
    with pytest.raises(FedradError, match="larger than any"):
        inbox.put(b"four")

    assert list(inbox.folder.iterdir()) == []


def test_no_log_holds_a_word_of_what_was_sent(receiver, dataset, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        link = associated(receiver[1])
        link.send_c_store(dataset(patient="Canary", PatientName="CANARY^NAME"))
        link.release()

    assert "anary" not in caplog.text.lower()
    assert "CANARY" not in "".join(capfd.readouterr())


# ── fetching ──


class Archive:
    """A peer with three series of two images; it refuses the second series while `broken` is set."""

    def __init__(self, images: list[Dataset]) -> None:
        self.images, self.broken, self.asked = images, False, 0
        own = AE(ae_title="ARCHIVE")
        own.require_called_aet = True
        for model in (StudyRootQueryRetrieveInformationModelFind, GetModel):
            own.add_supported_context(model)
        own.add_supported_context(ComputedRadiographyImageStorage, scu_role=True, scp_role=True)
        self.server = own.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, self.find), (evt.EVT_C_GET, self.get)])
        self.peer = Dimse(host="127.0.0.1", port=self.server.socket.getsockname()[1], title="ARCHIVE", own_title=OURS)

    def find(self, event):
        wanted, level = event.identifier, event.identifier.QueryRetrieveLevel
        name = "StudyInstanceUID" if level == "STUDY" else "SeriesInstanceUID"
        for uid in sorted({image[name].value for image in self.images}):
            fitting = [image for image in self.images if image[name].value == uid]
            if any(wanted.get(key) not in (None, "", fitting[0][key].value) for key in ("PatientID", "StudyInstanceUID")):
                continue
            found = Dataset()
            found.QueryRetrieveLevel, found.StudyInstanceUID, found.SeriesInstanceUID = level, fitting[0].StudyInstanceUID, uid
            found.NumberOfSeriesRelatedInstances = str(len(fitting))
            yield 0xFF00, found

    def get(self, event):
        uid = event.identifier.SeriesInstanceUID
        self.asked += 1
        if self.broken and uid.endswith(".2"):
            yield 0
            yield 0xA701, None
            return
        found = [image for image in self.images if image.SeriesInstanceUID == uid]
        yield len(found)
        for image in found:
            yield 0xFF00, image


@pytest.fixture
def archive(dataset) -> Iterator[Archive]:
    images = []
    for number in range(6):
        ds = dataset(
            patient=f"Canary-{number // 2}",
            image=f"1.2.9.{number}",
            StudyInstanceUID=f"1.2.7.{number // 2}",
            SeriesInstanceUID=f"1.2.8.{number // 2}",
        )
        images.append(ds)
    made = Archive(images)
    yield made
    made.server.shutdown()


def test_an_archive_is_asked_and_what_fits_is_fetched_once(archive: Archive, inbox: Inbox, keys):
    source = DimseArchive(archive.peer)
    first = pull(source, ({},), Arrivals.of(inbox.folder, keys), inbox.put)
    again = pull(source, ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert (first.series, first.fetched, first.images, first.failed) == (3, 3, 6, 0)
    assert (again.series, again.known, again.images) == (3, 3, 0)
    assert archive.asked == 3
    assert len(stored(inbox)) == 6


def test_a_dry_run_fetches_nothing(archive: Archive, inbox: Inbox, keys):
    done = pull(DimseArchive(archive.peer), ({},), Arrivals.of(inbox.folder, keys), inbox.put, dry_run=True)

    assert (done.series, done.images, archive.asked) == (3, 0, 0)


def test_a_series_that_broke_off_is_fetched_by_the_next_pull(archive: Archive, inbox: Inbox, keys):
    archive.broken = True
    first = pull(DimseArchive(archive.peer), ({},), Arrivals.of(inbox.folder, keys), inbox.put)
    archive.broken = False
    again = pull(DimseArchive(archive.peer), ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert (first.fetched, first.failed) == (2, 1)
    assert (again.known, again.fetched, again.failed) == (2, 1, 0)
    assert len(stored(inbox)) == 6


def test_what_was_fetched_is_remembered_without_a_name(archive: Archive, inbox: Inbox, keys):
    pull(DimseArchive(archive.peer), ({},), Arrivals.of(inbox.folder, keys), inbox.put)
    (path,) = inbox.folder.glob(".arrivals*")

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "1.2." not in path.read_text()
    assert len(path.read_text().split()) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves the socket of a failed try open
@pytest.mark.parametrize(("change", "error"), [({"port": 1}, "cannot be reached"), ({"title": "OTHER"}, "refuses this site")])
def test_an_archive_that_is_away_or_refuses_is_said(archive: Archive, inbox: Inbox, keys, change, error):
    source = DimseArchive(archive.peer.model_copy(update=change))
    with pytest.raises(FedradError, match=error):
        pull(source, ({},), Arrivals.of(inbox.folder, keys), inbox.put)


def test_a_full_disk_ends_the_pull_with_what_came_kept(archive: Archive, inbox: Inbox, keys, monkeypatch):
    monkeypatch.setattr(inboxes, "LEAST_FREE", 1 << 60)
    with pytest.raises(DiskError):
        pull(DimseArchive(archive.peer), ({},), Arrivals.of(inbox.folder, keys), inbox.put)


# ── the query file ──

QUERY = """
format = "fedrad-pull-1"
[dimse]
host = "pacs"
port = 104
title = "PACS"
own_title = "FEDRAD"
[[query]]
Modality = "CR"
"""


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('Modality = "CR"', "", "an empty"),
        ('Modality = "CR"', 'PatientName = "Canary"', "'PatientName' is no key"),
        ('Modality = "CR"', "PatientID = 815", "the value of PatientID is no text in quotes"),
        ('title = "PACS"', 'title = "A TITLE THAT IS TOO LONG"', "dimse.title"),
        ("port = 104", "port = 0", "dimse.port"),
        ("[dimse]", '[dicomweb]\nurl = "https://x"\n[dimse]', "exactly one"),
    ],
)
def test_a_malformed_query_is_one_precise_line_that_names_no_patient(tmp_path: Path, old: str, new: str, error: str):
    (tmp_path / "q.toml").write_text(QUERY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=error) as caught:
        read_pull(tmp_path / "q.toml")

    assert "Canary" not in str(caught.value)
    assert "815" not in str(caught.value)


def test_credentials_that_others_can_read_are_refused(tmp_path: Path):
    (tmp_path / "secret").write_text("name:password\n")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(MisuseError, match="others may read it"):
        secret_beside(tmp_path / "q.toml", "secret")
    (tmp_path / "secret").chmod(0o600)

    assert secret_beside(tmp_path / "q.toml", "secret") == "name:password"


# ── DICOMweb ──


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, tuple[int, str, bytes]], list[dict[str, str]]]]:
    """A server that answers by the path alone, and notes the headers of each request."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    answers: dict[str, tuple[int, str, bytes]] = {}
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            status, kind, content = answers.get(self.path.split("?")[0], (404, "text/plain", b""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web", answers, seen
    server.shutdown()
    server.server_close()
    thread.join()


def as_json(**values: str) -> bytes:
    tags = {"study": "0020000D", "series": "0020000E", "image": "00080018", "count": "00201209"}
    return json.dumps([{tags[name]: {"vr": "UI", "Value": [value]} for name, value in values.items()}]).encode()


def serve(answers, content: bytes) -> None:
    kind, base = "application/dicom+json", "/dicom-web/studies"
    answers[base] = (200, kind, as_json(study="1.2.7"))
    answers[f"{base}/1.2.7/series"] = (200, kind, as_json(study="1.2.7", series="1.2.8", count="1"))
    answers[f"{base}/1.2.7/series/1.2.8/instances"] = (200, kind, as_json(image="1.2.9"))
    body = b"--xyz\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--xyz--\r\n"
    answers[f"{base}/1.2.7/series/1.2.8/instances/1.2.9"] = (200, 'multipart/related; type="application/dicom"; boundary=xyz', body)


def test_a_server_is_asked_with_its_credentials_and_the_bytes_are_kept(web, inbox: Inbox, keys):
    url, answers, seen = web
    serve(answers, b"\r\n--xy a file\r\n")
    done = pull(WebArchive.at(url, credentials="name:password"), ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert (done.fetched, done.images) == (1, 1)
    assert stored(inbox)[0].read_bytes() == b"\r\n--xy a file\r\n"
    assert all(headers["Authorization"].startswith("Basic ") for headers in seen)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, "text/plain", b"Canary"), "status 401"),
        ((500, "text/plain", b"Canary"), "status 500"),
        ((200, "text/html", b"<html>Canary"), "no DICOM JSON"),
        ((302, "text/plain", b""), "status 302"),
    ],
)
def test_a_server_that_says_anything_else_is_a_code_without_its_words(web, inbox: Inbox, keys, answer, error):
    url, answers, _ = web
    answers["/dicom-web/studies"] = answer
    with pytest.raises(FedradError, match=error) as caught:
        pull(WebArchive.at(url), ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert "Canary" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


def test_a_server_that_is_away_is_said_without_its_address(inbox: Inbox, keys):
    with pytest.raises(FedradError, match="cannot be reached") as caught:
        pull(WebArchive.at("http://127.0.0.1:1/Canary"), ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert "Canary" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"--xyz", b"--xyz\r\n\r\nno end", b"none"])
def test_an_answer_of_another_form_is_refused(content: bytes):
    with pytest.raises(FedradError, match="not in the form"):
        only_part(content, "multipart/related; boundary=xyz")


def test_a_series_counts_by_what_the_archive_has(inbox: Inbox, keys):
    class Short:
        def find(self, keys):
            yield Series("1", "2", 3)

        def fetch(self, series, put):
            put(io.BytesIO(b"only one").getvalue())
            return 1

    done = pull(Short(), ({},), Arrivals.of(inbox.folder, keys), inbox.put)

    assert (done.fetched, done.failed, done.images) == (0, 1, 1)


# ── as a person types it ──


def test_a_person_pulls_and_is_told_what_came(make_site, archive: Archive, tmp_path: Path, capsys):
    home, terminal = make_site(), Terminal(tmp_path, capsys)
    query = QUERY.replace('host = "pacs"', 'host = "127.0.0.1"').replace("port = 104", f"port = {archive.peer.port}")
    (tmp_path / "q.toml").write_text(query.replace('"PACS"', '"ARCHIVE"').replace('Modality = "CR"', 'PatientID = "Canary-1"'))

    assert "1 series fit" in terminal.do("fedrad-site", "pull", tmp_path / "q.toml", "--dry-run", "--home", home.path).out
    done = json.loads(terminal.do("fedrad-site", "pull", tmp_path / "q.toml", "--home", home.path, "--json").out)
    said = terminal.do("fedrad-site", "pull", tmp_path / "q.toml", "--home", home.path)

    assert done["failed"] == 0
    assert (done["series"], done["images"]) == (1, 2)
    assert "Canary" not in said.out + said.err
    assert "fetched" in said.out
