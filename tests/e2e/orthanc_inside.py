"""What `test_orthanc.py` runs in a network namespace of its own: a real PACS and this site, on a loopback that nobody else has."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from fedrad_client.intake.acquire.inbox import INBOX
from fedrad_client.site import Home
from fedrad_sim.dicom_write import SOP_CLASS, pixel_elements, write_dicom

WEB, DICOM, OURS = 8042, 4242, 11112  # nobody else is in this namespace
NAME, PASSWORD = "reader", "a password"
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
task = { kind = "classification", labels = ["lesion"] }
input = { profile = "xr", height = 32, width = 32 }
model = { name = "resnet", options = { channels = 8, stages = 1 } }
privacy = { unit = "patient", epsilon = 4.0, expected_batch = 4.0, steps_per_round = 1, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 1, deadline_seconds = 60.0 }
"""
PULL = """
format = "fedrad-pull-1"
[dimse]
host = "127.0.0.1"
port = 4242
title = "ORTHANC"
own_title = "FEDRAD"
retrieve = "{how}"
[[query]]
{keys}
"""
PULL_WEB = """
format = "fedrad-pull-1"
[dicomweb]
url = "http://127.0.0.1:8042/dicom-web"
[[query]]
{keys}
"""


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("orthanc")
    settings = {
        "StorageDirectory": str(folder / "store"), "IndexDirectory": str(folder / "store"), "HttpPort": WEB, "DicomPort": DICOM,
        "AuthenticationEnabled": False, "RemoteAccessAllowed": False, "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True, "DicomModalities": {"fedrad": ["FEDRAD", "127.0.0.1", OURS]},
        "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"], "OverwriteInstances": True, "LoadPrivateDictionary": False,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = (folder / "log").open("wb")
    program = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{WEB}/system", timeout=1).close()
                break
            except OSError:
                assert program.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)  # until a program of somebody else's listens
        yield
    finally:
        program.terminate()
        program.wait(20)
        log.close()


@pytest.fixture(scope="module")
def archive(orthanc: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of four invented patients, in Orthanc by C-STORE from DCMTK; some compressed."""
    folder = tmp_path_factory.mktemp("sent")
    rng = np.random.default_rng(1)
    for number in range(8):
        pixels = (1000 + 300 * np.sin(np.mgrid[0:64, 0:64].sum(0) / 9) + rng.normal(0, 5, (64, 64))).astype(np.uint16)
        elements: dict[str, object] = {
            "SOPClassUID": SOP_CLASS["CR"], "SOPInstanceUID": f"1.2.9.{number}", "StudyInstanceUID": f"1.2.7.{number // 2}",
            "SeriesInstanceUID": f"1.2.8.{number // 2}", "PatientID": f"CANARY-{number // 2}", "Modality": "CR", **pixel_elements(pixels),
        }  # fmt: skip
        path = folder / f"{number}.dcm"
        write_dicom(path, elements)
        if number % 4 == 3:
            ds = dcmread(path)
            ds.compress(JPEG2000Lossless, generate_instance_uid=False)
            ds.save_as(path, enforce_file_format=True)
    for options in (["-xs"], ["-xv"], []):
        subprocess.run(
            ["storescu", *options, "-aec", "ORTHANC", "127.0.0.1", str(DICOM), *map(str, folder.glob("*.dcm"))],
            check=False,
            capture_output=True,
        )
    return folder


@pytest.fixture
def home(make_site) -> Home:
    made = make_site()
    path = made.path / "site.toml"
    shutil.rmtree(made.cohort)
    path.write_text(path.read_text().replace("callers = []", 'callers = ["ORTHANC", "STORESCU"]'))
    return Home(made.path)


def inbox(home: Home) -> list[Path]:
    return sorted((home.path / INBOX).glob("*.dcm"))


def run(program: str, caller: str, *files: str) -> int:
    command = [program, "-aet", caller, "-aec", "FEDRAD", "127.0.0.1", str(OURS), *files]
    return subprocess.run(command, check=False, capture_output=True).returncode


def pulled(home: Home, tmp_path: Path, capsys, text: str) -> dict:
    (tmp_path / "q.toml").write_text(text)
    said = Terminal(tmp_path, capsys).do("fedrad-site", "pull", tmp_path / "q.toml", "--home", home.path, "--json")
    assert "CANARY" not in said.out + said.err
    return json.loads(said.out)


@pytest.mark.parametrize("how", ["get", "move"])
def test_series_come_by_dimse_and_a_second_time_nothing_does(archive: Path, home: Home, tmp_path: Path, capsys, how: str):
    text = PULL.format(how=how, keys='Modality = "CR"')
    first = pulled(home, tmp_path, capsys, text)

    assert (first["series"], first["fetched"], first["images"], first["failed"]) == (4, 4, 8, 0)
    assert len(inbox(home)) == 8
    assert pulled(home, tmp_path, capsys, text)["images"] == 0


def test_a_query_chooses(archive: Path, home: Home, tmp_path: Path, capsys):
    assert pulled(home, tmp_path, capsys, PULL.format(how="get", keys='PatientID = "CANARY-2"'))["images"] == 2
    assert pulled(home, tmp_path, capsys, PULL.format(how="get", keys='Modality = "MR"'))["series"] == 0


def test_series_come_by_dicomweb(archive: Path, home: Home, tmp_path: Path, capsys):
    text = PULL_WEB.format(keys='PatientID = "CANARY-1"')
    first = pulled(home, tmp_path, capsys, text)

    assert (first["series"], first["images"], first["failed"]) == (1, 2, 0)
    assert pulled(home, tmp_path, capsys, text)["images"] == 0


def test_what_dcmtk_sends_to_the_receiver_becomes_a_cohort(archive: Path, home: Home, tmp_path: Path, capsys):
    """All the way: a sender that nobody of ours wrote, the inbox, de-identified and normalised images."""
    command = [str(Path(sys.executable).with_name("fedrad-site")), "receive", "--home", str(home.path)]
    files = sorted(map(str, archive.glob("*.dcm")))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert "receiving as FEDRAD at 127.0.0.1:11112" in program.stdout.readline()
        assert run("storescu", "STORESCU", *files[:3]) == 0
        assert run("storescu", "STRANGER", files[3]) != 0
        assert run("echoscu", "STORESCU") == 0
        program.terminate()
        said = program.stdout.read()
    assert program.returncode == 0
    assert "3 files received" in said
    assert "CANARY" not in said

    pulled(home, tmp_path, capsys, PULL.format(how="get", keys='Modality = "CR"'))
    (tmp_path / "labels.csv").write_text("PatientID,lesion\n" + "".join(f"CANARY-{number},{number % 2}\n" for number in range(4)))
    (tmp_path / "protocol.toml").write_text(PROTOCOL)
    arguments = ("ingest", "--labels", tmp_path / "labels.csv", "--protocol", tmp_path / "protocol.toml", "--home", home.path, "--json")
    done = json.loads(Terminal(tmp_path, capsys).do("fedrad-site", *arguments).out)

    assert (done["images"], done["patients"]) == (8, 4)
