"""The support bundle helps, and holds nothing of a patient, no key, no UID, no pseudonym and no path outside; the firewall sheet prints."""

import io
import json
import re
import ssl
import zipfile
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.terminal import Terminal

from fedrad_client import audit, support
from fedrad_client.doctor import FAULTS, Subject, firewall
from fedrad_client.doctor.imports import ImportCheck, Imported
from fedrad_client.node import executor
from fedrad_client.node.connection import Route
from fedrad_client.node.key import node_key
from fedrad_client.node.troubles import TROUBLES
from fedrad_client.site import Home
from fedrad_common.address import Address
from fedrad_common.canonical import canonical_json
from fedrad_common.chain import Chain

# isort: split
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node

PARTS = ["contents.txt", "versions.json", "doctor.json", "status.json", "site.toml", "node.log", "audit-counts.json", "ledger.json"]
CANARY = "CANARY"
UID = "1.2.840.99999.1.2.77"
PSEUDONYM = "deadbeef" * 4
OUTSIDE = "/srv/pacs/export"


class NothingToImport(ImportCheck):
    def __init__(self) -> None:
        self.patience = 60.0

    def result(self) -> Imported:
        return Imported((), gpu=False)


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedrad_client.doctor.subject.ImportCheck", NothingToImport)


@pytest.fixture
def planted(make_site, protocol_bytes: bytes) -> Path:
    """A site with a canary in every place where something of a patient, a key or a path may lie."""
    home = make_site().path
    node_key(home)
    generation = home / "cohort" / "00001"
    record = {"patient": PSEUDONYM, "image": UID, "part": "training", "fields": {"PatientName": CANARY, "StudyDescription": CANARY}}
    (generation / "records.jsonl").write_bytes(canonical_json(record) + b"\n")
    (generation / "labels" / "labels.jsonl").write_bytes(canonical_json({"values": {CANARY: 1}}) + b"\n")
    (generation / "quarantine.jsonl").write_bytes(canonical_json({"entry": 1, "code": CANARY, "note": f"{OUTSIDE}/{CANARY}.dcm"}) + b"\n")
    (home / "cohort" / "withdrawn.jsonl").write_bytes(canonical_json({"patient": PSEUDONYM, "name": CANARY}) + b"\n")
    (home / "enrolment").mkdir(exist_ok=True)
    (home / "enrolment" / "request.json").write_text(json.dumps({"contact": CANARY}))
    (home / "outbox" / f"{CANARY}.answer").write_text(CANARY)
    (home / "approved" / CANARY).mkdir()
    (home / "approved" / CANARY / "plan.json").write_text(CANARY)
    (home / "lost").mkdir()
    (home / "lost" / CANARY).write_text(CANARY)
    (home / "node").mkdir(exist_ok=True)
    lines = ["10:00 INFO online", f"10:01 ERROR {OUTSIDE}/{PSEUDONYM}.dcm", f"10:02 image {UID} of {PSEUDONYM}", "10:03 INFO Müller"]
    (home / "node" / "node.log").write_text("\n".join(lines))
    text = (home / "site.toml").read_text().replace('cohort = "cohort"', f'cohort = "{OUTSIDE}/cohort"')
    (home / "site.toml").write_text(f"# ask {CANARY}, ward 3\n{text}")
    return home


def secrets(home: Path) -> list[str]:
    """Every line of every key, and its bytes in hexadecimal."""
    lines = [line for path in (home / "keys").iterdir() for line in path.read_text().splitlines() if len(line) > 20 and "---" not in line]
    return [*lines, Home(home).envelope_key.private.private_bytes_raw().hex()]


def opened(packed: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_no_canary_is_in_the_bundle(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(tmp_path, capsys)

    terminal.do("fedrad-site", "support-bundle", "--home", planted, "--out", tmp_path / "bundle.zip")
    parts = opened((tmp_path / "bundle.zip").read_bytes())
    text = "\n".join([*parts, *parts.values()])

    assert list(parts) == PARTS
    assert [hidden for hidden in (CANARY, UID, PSEUDONYM, OUTSIDE, str(planted), str(tmp_path), "Müller") if hidden in text] == []
    assert len(secrets(planted)) >= 6
    assert [secret for secret in secrets(planted) if secret in text] == []
    assert re.findall(r"[0-9a-f]{32}", text) == []


def test_without_its_rules_the_bundle_would_hold_them(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canaries lie where the bundle looks: a copied log and copied settings would carry them."""
    monkeypatch.setattr(support, "_STRAY", ())
    monkeypatch.setattr(support, "_inside", lambda value: value)

    text = "".join(opened(support.pack(support.contents(Subject(planted)))).values())

    assert [hidden for hidden in (UID, PSEUDONYM, OUTSIDE) if hidden not in text] == []


@pytest.mark.parametrize(
    "line",
    [
        "see:/srv/pacs/Doe Jane 1970.dcm",
        "file:///srv/pacs/Doe.dcm",
        "file:/srv/pacs/Doe.dcm",
        "in '/srv/pacs/Doe Jane.dcm'",
        "path=/srv/pacs/Doe",
        "(/srv/pacs/Doe)",
        "at ~/export/Doe Jane",
        "at ~fedrad/export/Doe",
        "at ../export/Doe Jane",
        "https://pacs.example/studies/Doe",
        r"\\pacs\export\Doe Jane",
        r"C:\export\Doe Jane",
        "/tmp/Doe Jane.dcm",
        "/tmp/a, /tmp/Doe",
        "/dev/shm/Doe",
        "-/srv/pacs/Doe",
    ],
)
def test_nothing_is_left_of_a_path_though_it_holds_blanks(line: str) -> None:
    assert "Doe" not in support.scrubbed(line)
    assert support.scrubbed(line).endswith("(path)")


@pytest.mark.parametrize(
    "line",
    ["keys/envelope.key can be read (mode 0644)", "at most 1 / (10 x declared size)", "GET /health", "/dev/shm holds 64 MB", "and/or"],
)
def test_our_own_words_are_kept(line: str) -> None:
    assert support.scrubbed(line) == line


def test_every_fault_can_be_told_in_the_bundle() -> None:
    """A sentence of doctor's that is cut by the rules would not help."""
    cut = [code for code, fault in FAULTS.items() if "(path)" in support.scrubbed(fault.sentence)]

    assert cut == []


def test_why_an_order_was_refused_stays_at_the_site(make_site) -> None:
    home = make_site().path
    with Chain.open(home / "audit.chain", audit.KIND) as chain:
        audit.Refusals().record(chain, code="policy", reason="two-models")
    counts = support.contents(Subject(home))["audit-counts.json"].decode()

    assert json.loads(counts)["by_code"] == {}
    assert json.loads(counts)["by_type"]["evidence-contradiction"] == 1
    assert "two-models" not in counts


def test_the_bundle_helps(make_site) -> None:
    home = make_site().path
    (home / "keys" / "envelope.key").chmod(0o644)
    parts = {name: content.decode() for name, content in support.contents(Subject(home)).items()}

    assert 'name = "north"' in parts["site.toml"]
    assert json.loads(parts["versions.json"])["packages"]["torch"]
    assert any(row["code"] == "key-readable" for row in json.loads(parts["doctor.json"])["findings"])
    assert json.loads(parts["status.json"])["site"] == "north"
    assert json.loads(parts["audit-counts.json"])["by_type"]["open"] == 1
    assert json.loads(parts["ledger.json"])["ceiling"]["epsilon"] == 8.0
    assert parts["node.log"] == "not available: FileNotFoundError\n"
    assert all(name in parts["contents.txt"] for name in PARTS[1:])


def test_a_site_whose_settings_and_logs_are_damaged_still_gets_a_bundle(make_site) -> None:
    home = make_site().path
    (home / "site.toml").write_text("[site")
    (home / "audit.chain").write_bytes(b"hello")

    parts = support.contents(Subject(home))

    assert list(parts) == PARTS
    assert parts["site.toml"] == b"not available: ConfigError\n"
    assert b"log-damaged" in parts["doctor.json"]


def test_show_prints_all_that_would_be_in_it_and_writes_nothing(
    site_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle.zip"
    shown = Terminal(tmp_path, capsys).do("fedrad-site", "support-bundle", "--show", "--home", site_home, "--out", out)

    assert not out.exists()
    assert [name for name in PARTS if f"--- {name}" not in shown.out] == []


def test_a_bundle_is_overwritten_only_by_force(site_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal, out = Terminal(tmp_path, capsys), tmp_path / "bundle.zip"
    out.write_text("mine")

    terminal.fail("fedrad-site", "support-bundle", "--home", site_home, "--out", out)
    assert out.read_text() == "mine"
    terminal.do("fedrad-site", "support-bundle", "--force", "--home", site_home, "--out", out)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("support-bundle",), "--out"),
        (("firewall-sheet", "--server", "fl.example.org:9092"), "--html"),
        (("ledger",), "--html"),
        (("privacy-statement",), "--html"),
        (("audit", "export"), "--out"),
        (("audit", "checkpoint"), "--out"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_a_file_in_no_folder_is_named_and_nothing_is_made(
    site_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str
) -> None:
    said = Terminal(tmp_path, capsys).fail("fedrad-site", *command, option, tmp_path / "missing" / "new", "--home", site_home)

    assert said.error == f"{option}: new: there is no such folder"


def test_the_firewall_sheet_names_one_host_one_port_and_what_to_expect(
    make_site, protocol_bytes: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedrad_client.approval import approve
    from fedrad_client.site import open_site

    home = make_site(server="fl.example.org:9092").path
    with open_site(home) as site:
        approve(site, protocol_bytes, declared_size=50)
    terminal, page = Terminal(tmp_path, capsys), tmp_path / "sheet.html"

    said = terminal.do("fedrad-site", "firewall-sheet", "--home", home, "--html", page)
    value = json.loads(terminal.do("fedrad-site", "firewall-sheet", "--home", home, "--json").out)

    assert "outbound TCP from this machine to fl.example.org, port 9092" in said.out
    assert "everything inbound" in said.out
    assert (value["host"], value["port"], value["inbound"]) == ("fl.example.org", 9092, [])
    assert value["traffic"][0]["protocol"] == "tiny"
    # 3 rounds, 2 of them evaluated: 5 models of 16 numbers in, 3 updates out, 2 histograms of 64 cells; and a hundredth on top.
    assert value["traffic"][0]["bytes"] == int(4 * (5 * 16 + 3 * 16 + 2 * 64) * 1.01)
    for part in ("fl.example.org:9092", "HTTPS_PROXY", "TLS inspection", "tiny"):
        assert part in said.out
        assert part in page.read_text()


def test_the_firewall_sheet_names_codes_that_there_are() -> None:
    assert set(firewall.CUT) <= TROUBLES.keys()
    assert ", ".join(firewall.CUT) in firewall.INSPECTION[-1]


def test_the_traffic_at_rest_is_the_nodes_own(make_site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, page = make_site(server="fl.example.org:9092").path, tmp_path / "sheet.html"
    said = Terminal(tmp_path, capsys).do("fedrad-site", "firewall-sheet", "--home", home, "--html", page).out
    a_minute = 60 / executor.BEAT + executor._pause(1e9) ** -1 * 60

    for text in (said, page.read_text()):
        assert f"{a_minute:.0f} requests a minute, of about 2 kB each: {a_minute * 1440 * 2000 / 1e6:.1f} MB a day" in text


def test_a_request_at_rest_is_no_larger_than_the_sheet_says() -> None:
    sizes = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(request.content) + sum(len(name) + len(value) + 4 for name, value in request.headers.raw))
        return httpx.Response(200, content=b"", headers={"content-type": "application/x-protobuf"})

    route, key = Route(Address("fl.example.org", 9092), ssl.create_default_context(), pinned=False), ec.generate_private_key(ec.SECP384R1())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(route, "http", lambda: httpx.Client(transport=httpx.MockTransport(answer)))
        with route.fleet(key, site="a-hospital-with-a-long-name") as fleet:
            fleet.PullMessages(PullMessagesRequest(node=Node(node_id=2**63)))

    assert 0.5 * firewall.REQUEST < sizes[0] < 0.8 * firewall.REQUEST, "the rest is for the answer, TLS and TCP"


def test_a_firewall_sheet_without_a_coordinator_is_misuse(site_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(tmp_path, capsys).fail("fedrad-site", "firewall-sheet", "--home", site_home)
