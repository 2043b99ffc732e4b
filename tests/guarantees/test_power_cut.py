"""A power cut loses no acknowledged entry, and a disk that takes no more lets nothing leave. 100: `simulations/benchmarks/power_cut.py`."""

import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fedrad_common.chain import Chain
from fedrad_common.errors import ChainError

COMMAND = Path(__file__).resolve().parents[2] / "simulations" / "benchmarks" / "power_cut.py"
SECTOR = 512
LOG, MARK = "ledger.chain", "ledger.chain.mark"
Change = tuple[str, int, bytes | None]  # file, position, content; None cuts the file off there


@dataclass
class Disk:
    """What a disk may hold after a power cut: everything that was synced, and any of the sectors that were not."""

    folder: Path
    synced: dict[str, bytes] = field(default_factory=dict)
    written: list[Change] = field(default_factory=list)  # not synced yet
    acknowledged: int = 0  # entries
    states: list["Disk"] = field(default_factory=list)  # as it was after each change

    def record(self, patch: pytest.MonkeyPatch, *, syncing: bool) -> None:
        pwrite, ftruncate = os.pwrite, os.ftruncate

        def write(descriptor: int, content: bytes, position: int) -> int:
            self.written.append((name(descriptor), position, content))
            self.remember()
            return pwrite(descriptor, content, position)

        def truncate(descriptor: int, size: int) -> None:
            self.written.append((name(descriptor), size, None))
            self.remember()
            ftruncate(descriptor, size)

        def sync(descriptor: int) -> None:
            if syncing:
                done = [change for change in self.written if change[0] == name(descriptor)]
                self.written = [change for change in self.written if change not in done]
                self.synced = applied(self.synced, done)
            self.remember()

        for what, value in (("pwrite", write), ("ftruncate", truncate), ("fdatasync", sync)):
            patch.setattr(os, what, value)

    def remember(self) -> None:
        self.states.append(Disk(self.folder, dict(self.synced), list(self.written), self.acknowledged))

    def left(self, draw: random.Random) -> dict[str, bytes]:
        parts = [part for change in self.written for part in sectors(*change)]
        return applied(self.synced, [part for part in parts if draw.random() < 0.5])


def name(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def sectors(file: str, position: int, content: bytes | None) -> list[Change]:
    """One change, as the changes that a disk makes whole or not at all."""
    if content is None:
        return [(file, position, None)]
    begins = [0, *range(SECTOR - position % SECTOR, len(content), SECTOR)]
    return [(file, position + at, content[at : at + SECTOR - (position + at) % SECTOR]) for at in begins]


def applied(files: dict[str, bytes], changes: list[Change]) -> dict[str, bytes]:
    """A sector that was written beyond the end leaves zeros before it."""
    after = dict(files)
    for file, position, content in changes:
        before = after[file].ljust(position, b"\0")
        after[file] = before[:position] + (b"" if content is None else content + before[position + len(content) :])
    return after


def put(folder: Path, files: dict[str, bytes]) -> None:
    for file, content in files.items():
        (folder / file).write_bytes(content)


def append(disk: Disk, monkeypatch: pytest.MonkeyPatch, *, syncing: bool = True) -> list[str]:
    """Open the log and append two entries of some sectors each. Returns the hashes of all entries."""
    with monkeypatch.context() as patch:
        disk.record(patch, syncing=syncing)
        with Chain.open(disk.folder / LOG, "ledger") as chain:
            for number in range(2):
                chain.append("spend", {"number": number, "text": "x" * 1300})
                disk.acknowledged = len(chain.entries)
                disk.remember()
            return [entry.hash for entry in chain.entries]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    Chain.create(tmp_path / LOG, "ledger", {}).close()
    return Disk(tmp_path, {file: (tmp_path / file).read_bytes() for file in (LOG, MARK)}, acknowledged=1)


def survived(disk: Disk, hashes: list[str]) -> bool:
    try:
        with Chain.open(disk.folder / LOG, "ledger") as chain:
            return [entry.hash for entry in chain.entries][: disk.acknowledged] == hashes[: disk.acknowledged]
    except ChainError:
        return False


def test_any_unsynced_sectors_may_be_lost(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    hashes = append(disk, monkeypatch)
    for state in disk.states * 6:
        put(disk.folder, state.left(draw))
        assert survived(state, hashes)


@pytest.mark.parametrize("first", ["power cut", "kill -9"])
def test_the_power_may_go_while_what_an_earlier_death_left_is_settled(disk: Disk, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """After a kill the kernel still knows what was written; nobody knows how much of it is on the disk."""
    draw = random.Random(0)
    append(disk, monkeypatch)
    for state in disk.states:
        files = state.left(draw)
        if first == "kill -9":
            second = Disk(disk.folder, state.synced, state.written, state.acknowledged)
            put(disk.folder, applied(state.synced, state.written))
        else:
            second = Disk(disk.folder, files, acknowledged=state.acknowledged)
            put(disk.folder, files)
        hashes = append(second, monkeypatch)
        for again in second.states * 2:
            put(disk.folder, again.left(draw))
            assert survived(again, hashes)


def test_a_log_that_is_not_synced_loses_what_it_acknowledged(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control of the tests above."""
    draw = random.Random(0)
    hashes = append(disk, monkeypatch, syncing=False)
    lost = 0
    for state in disk.states * 6:
        put(disk.folder, state.left(draw))
        lost += not survived(state, hashes)

    assert lost > len(disk.states)


def test_a_real_file_system_whose_power_is_cut_that_fills_up_or_turns_read_only(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        pytest.skip("a power cut needs the right to mount an ext4 image")
    said = subprocess.run(
        # In a mount namespace of its own: nothing stays mounted, however the command ends.
        ["unshare", "--mount", sys.executable, str(COMMAND), "--cuts", "4", "--control-cuts", "2", "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert said.returncode == 0, said.stdout + said.stderr
    lost = {
        who: (int(lost), int(of))
        for who, lost, of in re.findall(r"^(.*): (\d+) of (\d+) acknowledged entries lost", said.stdout, re.MULTILINE)
    }
    assert lost["fedrad, shutdown"][0] == lost["fedrad, copy"][0] == 0
    assert lost["fedrad, shutdown"][1] + lost["fedrad, copy"][1] > 10
    assert lost["control: no sync, shutdown"][0] > 0  # the positive control: the rig does lose what was not synced
    assert re.search(r"^tmpfs of 64 kB: answered [1-9]\d*, disk [1-9]\d*(, policy \d+)?; ledger below: False$", said.stdout, re.MULTILINE)
    assert "read-only in the middle: disk 1, not opened 3; ledger below: False" in said.stdout
