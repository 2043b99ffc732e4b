"""Doctor names every fault that really is there, with its remedy, and says nothing of a healthy site."""

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.ailing import FAULT_OF, NAMES, Sound, World
from fakes.ailments_inside import key_for_everybody
from fakes.ailments_outside import closed_port
from fakes.door import Authority, Door, certify, make_authority
from fakes.terminal import Terminal

from fedrad_client.doctor import CHECKS, FAULTS, disk, imports, locks, machine
from fedrad_client.doctor.imports import ImportCheck, Imported
from fedrad_client.node.key import node_key
from fedrad_client.node.troubles import TROUBLES
from fedrad_client.sandbox import Confinement


class Silent:
    """A child that has ended, and said this."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def communicate(self, timeout: float | None = None) -> tuple[bytes, None]:
        return self.said, None


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority()


@pytest.fixture(scope="module")
def certificate(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certify(authority, tmp_path_factory.mktemp("certificate") / "server.pem", *NAMES)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"folder": tmp_path_factory.mktemp("made")}


@pytest.fixture
def home(_made: dict[str, Path], request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one site that was made once."""
    if "home" not in _made:
        from fedrad_client.approval import approve
        from fedrad_client.site import open_site

        home = request.getfixturevalue("make_site")()
        node_key(home.path)
        with open_site(home.path) as site:
            approve(site, request.getfixturevalue("protocol_bytes"), declared_size=50)
        _made["home"] = Path(shutil.copytree(home.path, _made["folder"] / "site"))
    return Path(shutil.copytree(_made["home"], tmp_path / "site-under-test"))


@pytest.fixture
def world(home: Path, authority: Authority, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (home / "keys" / "authority.pem").write_bytes(authority.pem)
    for name in ("HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "_LEAST_MEMORY", 1)  # of the machine on which the tests run, nothing is known
    monkeypatch.setattr(machine, "_WANTED_MEMORY", 1)
    monkeypatch.setattr(machine, "_WANTED_SHARED", 1)
    monkeypatch.setattr(disk, "_WANTED", 1)
    monkeypatch.setattr("fedrad_client.sandbox.probe", lambda: Confinement(network=True, files=True, layers=("all",)))
    with contextlib.ExitStack() as stack, Door(certificate) as door:
        yield World(home, door, authority, tmp_path, monkeypatch, stack)


def test_a_healthy_site_has_no_fault(world: World) -> None:
    findings = world.findings()

    assert [(f.check, f.code, f.sentence) for f in findings if f.verdict != "ok"] == []
    assert [f.check for f in findings] == [check.name for check in CHECKS]
    assert {first.split()[1] for first in world.door.requests} == {"/health", "/v1/fleet/activate-node"}


@pytest.mark.parametrize(("code", "inject"), FAULT_OF, ids=[f"{code}-{inject.__name__}" for code, inject in FAULT_OF])
def test_an_injected_fault_is_named_with_its_remedy(world: World, code: str, inject: Callable[[World], None]) -> None:
    inject(world)

    named = [finding for finding in world.findings() if finding.code == code]

    assert named, f"{code} is not named"
    assert all(finding.verdict in ("warn", "fail") and finding.sentence and finding.remedy for finding in named)


def test_the_chapter_that_a_remedy_names_is_there() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    named = {chapter for fault in FAULTS.values() for chapter in re.findall(r"docs/deployment\.md, '([^']+)'", fault.remedy)}

    assert named
    assert [chapter for chapter in named if f"### {chapter}\n" not in page] == []


def test_every_fault_that_doctor_knows_is_injected() -> None:
    injected = {code for code, _ in FAULT_OF}

    assert injected <= FAULTS.keys() | TROUBLES.keys()
    assert FAULTS.keys() - injected == set()
    assert len(injected) > 50


def test_a_fault_of_the_network_is_found_once_and_what_follows_it_is_skipped(world: World) -> None:
    closed_port(world)

    verdicts = {finding.check: finding.verdict for finding in world.findings()}

    assert (verdicts["name"], verdicts["route"]) == ("ok", "fail")
    assert {verdicts[name] for name in ("certificate", "answer", "clock", "release", "admission")} == {"skipped"}


def test_a_tunnel_through_the_proxy_is_in_order(world: World) -> None:
    world.door.fails = "proxy 200"
    world.patch.setenv("HTTPS_PROXY", f"http://{world.server}")
    world.server = "coordinator.test:9092"

    assert [finding.code for finding in world.findings() if finding.verdict == "fail"] == []
    assert world.door.requests[0] == "CONNECT coordinator.test:9092 HTTP/1.1"


def test_a_running_node_that_is_online_is_in_order(world: World) -> None:
    from fedrad_client.node.contact import CONTACT, Contact

    world.hold("node/lock")
    Contact(world.home / CONTACT).fine()

    assert [finding.code for finding in world.findings() if finding.verdict != "ok"] == []


def test_a_node_that_waits_for_its_disk_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """State D is a node in fdatasync: nobody is told to kill it."""
    monkeypatch.setattr(locks, "_state", lambda pid: "D")
    world.hold("node/lock")

    assert "stale-lock" not in [finding.code for finding in world.findings()]


def test_a_lock_on_another_disk_is_not_taken_for_the_sites_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inode numbers begin anew on each disk."""
    path, other = tmp_path / "lock", tmp_path / "locks"
    path.touch()
    held = "1: FLOCK  ADVISORY  WRITE 4711 {}:{} 0 EOF\n"
    monkeypatch.setattr(locks, "_LOCKS", other)

    other.write_text(held.format("fe:7f", path.stat().st_ino))
    assert locks.holder(path) is None
    other.write_text(held.format(*locks._file(path).rsplit(":", 1)))
    assert locks.holder(path) == 4711


def test_looking_changes_nothing_in_the_site(world: World) -> None:
    def seen() -> dict[str, tuple[bytes, float]]:
        return {str(path): (path.read_bytes(), path.stat().st_mtime) for path in world.home.rglob("*") if path.is_file()}

    before = seen()
    world.findings()

    assert seen() == before


def test_no_finding_quotes_the_other_side(world: World) -> None:
    canary = "CANARY-7F3A"
    world.door.version = f"1.0 {canary}\x1b[31m"
    world.certify(by=make_authority(canary))

    assert not any(canary in finding.sentence + finding.remedy for finding in world.findings())


@pytest.mark.parametrize("said", [b"{", b'{"good":true}', b""], ids=["cut", "other", "none"])
def test_what_no_child_could_say_counts_as_failed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Success is what torch, opacus and flwr said themselves; never what is left when nobody says anything."""
    monkeypatch.setattr(imports.processes, "start", lambda *_, **__: Silent(said))

    assert ImportCheck().result() == Imported(imports.MODULES)


def test_a_child_that_cannot_be_started_has_imported_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "out of memory")

    monkeypatch.setattr(imports.processes, "start", refuse)
    world.imports = ImportCheck()
    verdicts = {finding.check: finding.verdict for finding in world.findings()}

    assert (verdicts["packages"], verdicts["gpu"]) == ("fail", "skipped")


def test_nobodys_export_is_named_though_it_lies_in_the_home(world: World) -> None:
    if os.getuid() != 0:
        pytest.skip("another account's file needs root")
    (world.home / "export").mkdir()
    (world.home / "export" / "DOE^JANE").touch()
    os.chown(world.home / "export" / "DOE^JANE", 65534, 65534)

    assert "foreign-files" not in [finding.code for finding in world.findings()]


def test_the_command_says_it_to_people_and_programs_and_ends_with_1(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedrad_client.doctor.subject.ImportCheck", Sound)
    world.rename('server = ""', f'server = "{world.server}"')
    terminal = Terminal(world.folder, capsys)

    healthy = terminal.do("fedrad-site", "doctor", "--home", world.home)
    key_for_everybody(world)
    ill = terminal.type("fedrad-site", "doctor", "--home", world.home)
    told = terminal.type("fedrad-site", "doctor", "--json", "--home", world.home)

    assert f"{len(CHECKS)} in order, 0 warnings, 0 failed" in healthy.out
    assert ill.code == 1
    assert "FAIL  keys           keys/envelope.key can be read by other accounts (mode 0644)" in ill.out
    assert "remedy: chmod 600" in ill.out
    assert told.code == 1
    assert '"code":"key-readable"' in told.out
    assert told.out.count("\n") == 1


def test_a_folder_that_is_not_there_is_misuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(tmp_path, capsys).fail("fedrad-site", "doctor", "--home", tmp_path / "nowhere")


def test_torch_is_imported_only_in_the_child(world: World) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom fedrad_client.doctor import Subject, examine\n"
        "found = list(examine(Subject(Path(sys.argv[1]), sys.argv[2])))\n"
        "print([f.code for f in found if f.verdict == 'fail'], [name for name in ('torch', 'opacus', 'pydicom') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(world.home), world.server], capture_output=True, text=True, timeout=120)

    assert ended.stdout.strip() == "[] []", ended.stderr


def test_the_version_bounds_are_those_of_the_installed_package() -> None:
    assert importlib.metadata.requires("fedrad")
    assert list(machine._versions()) == []
