"""A full disk, at whatever byte it strikes: exit code 1 with a hint, nothing half-written, and the same command again finishes."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import World, protocol
from fakes.orders import content_of
from fakes.terminal import Said, Terminal, changes, fill, on_disk, small_disk

from fedrad_client.answer import answer
from fedrad_client.app import open_and_handle
from fedrad_client.approval import approve
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import open_site
from fedrad_common import messages
from fedrad_common.errors import FedradError, SyncError
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Order
from fedrad_server.replay import replay
from fedrad_server.rounds import Outcome
from fedrad_server.runs import read_run
from fedrad_sim.one_site import asked
from fedrad_sim.phantom import HOSPITALS, scaled, write_hospital

# isort: split
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

PAGE = 4096  # what a tmpfs gives out at a time
PROTOCOL = """
format = "fedrad-protocol-1"
name = "small"
task = { kind = "classification", labels = ["lesion"] }
input = { profile = "xr", height = 40, width = 40 }
model = { name = "resnet", options = { channels = 8, stages = 1 } }
privacy = { unit = "patient", epsilon = 4.0, expected_batch = 4.0, steps_per_round = 1, rounds = 2 }
training = { learning_rate = 0.1 }
rounds = { quorum = 1, deadline_seconds = 60.0 }
"""


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


def with_ever_more_room(disk: Path, attempt: Callable[[], Said]) -> int:
    """Try with no page free, one, two, … until it works; each failure must be a clean one. Returns how often it failed."""
    for failures in range(200):
        ballast = fill(disk, leave=failures * PAGE)
        before = on_disk(disk)
        said = attempt()
        after = on_disk(disk)
        ballast.unlink()
        if said.code == 0:
            return failures
        assert said.code == 1, said.err
        assert "no space left on the disk" in said.error
        assert "free space" in said.hint
        assert changes(before, after) == []
    raise AssertionError("it never worked")


def test_a_site_is_made_whole_or_not_at_all(terminal: Terminal) -> None:
    with small_disk(terminal.folder / "disk", 256) as disk:
        command = ("init", "--local", "--name", "north", "--home", disk / "site")
        assert with_ever_more_room(disk, lambda: terminal.type("fedrad-site", *command)) > 5
        terminal.do("fedrad-site", "audit", "verify", "--home", disk / "site")


def test_ingest_and_approval_are_whole_or_not_at_all(terminal: Terminal) -> None:
    write_hospital(scaled(HOSPITALS[0], 0.05), terminal.folder / "raw", seed=1)
    (terminal.folder / "protocol.toml").write_text(PROTOCOL)
    protocol, raw = terminal.folder / "protocol.toml", terminal.folder / "raw"
    with small_disk(terminal.folder / "disk", 512) as disk:
        home = ("--home", disk / "site")
        ingest = ("ingest", raw / "dicom", "--labels", raw / "labels.csv", "--protocol", protocol, *home)
        terminal.do("fedrad-site", "init", "--local", "--name", "north", "--delta", "1e-3", *home)
        assert with_ever_more_room(disk, lambda: terminal.type("fedrad-site", *ingest)) > 5
        first = on_disk(disk / "site/cohort/00001")
        next((raw / "dicom").rglob("*.dcm")).unlink()
        assert with_ever_more_room(disk, lambda: terminal.type("fedrad-site", *ingest)) > 5
        assert (disk / "site/cohort/current").read_text() == "00002\n"
        assert on_disk(disk / "site/cohort/00001") == first
        assert with_ever_more_room(disk, lambda: terminal.type("fedrad-site", "approve", protocol, "--declared-size", 40, *home)) > 0
        assert len(json.loads(terminal.do("fedrad-site", "status", *home, "--json").out)["approved"]) == 1


def test_what_the_audit_log_had_no_room_for_is_entered_by_the_next_ingest(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hospital(scaled(HOSPITALS[0], 0.02), terminal.folder / "raw", seed=1)
    (terminal.folder / "protocol.toml").write_text(PROTOCOL)
    home, raw = ("--home", terminal.folder / "site"), terminal.folder / "raw"
    ingest = ("ingest", raw / "dicom", "--labels", raw / "labels.csv", "--protocol", terminal.folder / "protocol.toml", *home)
    terminal.do("fedrad-site", "init", "--local", "--name", "north", *home)

    def full(*_: object, **__: object) -> None:
        raise FedradError("audit.chain: no space left on the disk", hint="free space")

    with monkeypatch.context() as patch:
        patch.setattr("fedrad_client.audit.record", full)
        assert terminal.type("fedrad-site", *ingest).code == 1
    for _ in range(2):
        terminal.do("fedrad-site", *ingest)

    assert json.loads(terminal.do("fedrad-site", "audit", "verify", *home, "--json").out)["audit"]["entries"] == 2


def test_an_answer_without_room_is_the_code_disk_and_nothing_is_refunded(tmp_path: Path, make_site, coordinator, protocol_bytes) -> None:
    model = np.arange(3000, dtype=np.float32)

    def work(job, model):
        return np.random.default_rng(list(job.secret)).normal(size=model.size).astype(np.float32)

    protocol_bytes = protocol_bytes.replace(b"length = 16", b"length = %d" % model.size)
    with small_disk(tmp_path / "north", 512) as disk:
        home = make_site()
        with open_site(home.path) as site:
            approve(site, protocol_bytes, declared_size=60)
        hashed = parse_protocol(protocol_bytes).hash
        order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol=hashed, model=vector_hash(model), length=model.size)
        refusals, before = [], 0.0
        for room in range(40):
            ballast = fill(disk, leave=room * PAGE)
            with open_site(home.path) as site:
                given = answer(site, asked(order, model, coordinator, home.path), work=work)
            ballast.unlink()
            spent = read_ledger(home.path / "ledger.chain")[1].training
            assert spent >= before, "nothing is refunded"
            before = spent
            if given.envelope is not None:
                break
            refusals.append(given.refusal)
            assert list((home.path / "outbox").iterdir()) == []

        assert len(refusals) > 2
        assert set(refusals) == {"disk"}
        assert spent > 0
        assert [path.suffix for path in (home.path / "outbox").iterdir()] == [".answer"]


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_write_that_the_disk_does_not_confirm_ends_the_process_and_nothing_leaves(
    make_site, coordinator, protocol_bytes, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The kernel tells of a failed sync once: a second one would say yes, and an answer would leave that no disk has paid for."""
    home, model = make_site(), np.zeros(16, np.float32)
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    hashed = parse_protocol(protocol_bytes).hash
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol=hashed, model=vector_hash(model), length=16)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(content_of(asked(order, model, coordinator, home.path)), dst_node_id=1, message_type="train")
    count, real = 0, os.fdatasync

    def fdatasync(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fdatasync)
        if nth < 7:  # run, answer, release: a line and a mark each
            with pytest.raises(SyncError, match="did not confirm a write"):
                open_and_handle(message, lambda: open_site(home.path), work=lambda job, model: np.ones(16, np.float32))
        else:
            assert (
                messages.read_answer(open_and_handle(message, lambda: open_site(home.path), work=lambda job, model: model).content).refusal
                is None
            )
    assert count == min(nth, 6)
    with open_site(home.path) as site:
        releases = [entry for entry in site.audit.entries if entry.type == "release"]
    assert len(releases) == (nth >= 5)  # the intent may be on the disk; then the stored bytes are sent when the coordinator asks again


def test_a_run_is_launched_whole_or_not_at_all(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        world = World(disk / "runs" / "first")
        (disk / "runs").mkdir()
        for room in range(60):
            ballast = fill(disk, leave=room * PAGE)
            try:
                world.create(protocol()).close()
            except FedradError as error:
                assert "no space left" in str(error)  # noqa: PT017
                left = [path.name for path in world.directory.glob("*")]
                assert not left or (world.directory / "launch.json").exists()
                if left:  # whole already: the epoch's first event had no room
                    ballast.unlink()
                    world.open().close()
                    break
            else:
                ballast.unlink()
                break
            ballast.unlink()
        assert room > 5
        assert read_run(world.directory).round == 0


def test_a_coordinator_without_room_goes_on_later_as_if_nothing_had_been(tmp_path: Path) -> None:
    content, quiet = protocol(rounds=2), World(tmp_path / "quiet")
    quiet.finish(content)
    failures = 0
    with small_disk(tmp_path / "disk", 1024) as disk:
        world = World(disk / "run")
        world.sites, world.key = quiet.sites, quiet.key  # their sealed answers are other runs': each is asked anew
        world.create(content).close()
        for room in range(80):
            ballast = fill(disk, leave=room * PAGE)
            try:
                with world.open() as run:
                    outcome = world.play(run).outcome
            except FedradError as error:
                assert "no space left" in str(error)  # noqa: PT017
                failures += 1
            else:
                ballast.unlink()
                break
            ballast.unlink()

        assert failures > 3
        assert outcome is Outcome.FINISHED
        assert replay(world.directory).equal
        assert read_run(world.directory).released(2).tobytes() == read_run(quiet.directory).released(2).tobytes()


def test_import_and_phantom_are_whole_or_not_at_all(terminal: Terminal) -> None:
    np.savez(terminal.folder / "some.npz", x=np.zeros((6, 40, 40), np.uint8), y=np.arange(6) % 2)
    with small_disk(terminal.folder / "disk", 256) as disk:
        command = ("import", terminal.folder / "some.npz", "--image", "x", "--label", "y", "--out", disk / "hospitals")
        assert with_ever_more_room(disk, lambda: terminal.type("fedrad-sim", *command)) > 3
    with small_disk(terminal.folder / "disk", 64) as disk:
        said = terminal.type("fedrad-sim", "phantom", disk / "phantom", "--scale", 0.01)
        assert (said.code, "no space left" in said.error) == (1, True)
        assert not list(disk.rglob(".*"))
