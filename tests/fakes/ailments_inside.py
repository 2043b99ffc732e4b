"""Faults of a site's disks and of its folder, each made for real: full, read-only, lost, damaged, another's, held, out of date."""

import errno
import os
import shutil
import signal
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes.ailing import FAULT_OF, World, injects
from fakes.terminal import fill, small_disk
from fedrad_client import audit
from fedrad_client.doctor import disk
from fedrad_client.privacy.ledger import KIND
from fedrad_common.chain import Chain
from fedrad_common.identity import SigningKey

ROOT = os.getuid() == 0


# Disks
@injects("disk-full")
def full_disk(world: World) -> None:
    fill(world.mount())


@injects("disk-full")
def too_little_room(world: World) -> None:
    world.patch.setattr(disk, "_LEAST", 1 << 60)


@injects("disk-low")
def little_room(world: World) -> None:
    world.patch.setattr(disk, "_WANTED", 1 << 60)


@injects("read-only")
def read_only_home(world: World) -> None:
    place = world.mount()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)


@injects("not-writable", "unreadable")
def of_another_account(world: World) -> None:
    if not ROOT:
        world.home.chmod(0o555)
        (world.home / "approved").chmod(0)
        world.stack.callback(world.home.chmod, 0o755)
        world.stack.callback((world.home / "approved").chmod, 0o755)
        return
    open_ = Path(world.stack.enter_context(tempfile.TemporaryDirectory()))
    open_.chmod(0o755)
    world.home = Path(shutil.copytree(world.home, open_ / "home"))
    world.home.chmod(0o755)
    os.seteuid(65534)
    world.stack.callback(os.seteuid, 0)


@injects("disk-fails")
def failing_disk(world: World) -> None:
    world.patch.setattr(disk, "_written", lambda folder: errno.EIO)


@injects("no-temporary")
def no_temporary_folder(world: World) -> None:
    world.patch.setenv("TMPDIR", str(world.folder / "nowhere"))


@injects("cache-read-only")
def read_only_cache(world: World) -> None:
    place = world.stack.enter_context(small_disk(world.folder / "cache", 1024))
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    world.patch.setenv("XDG_CACHE_HOME", str(place))


# The site's folder
@injects("settings-missing")
def no_settings(world: World) -> None:
    (world.home / "site.toml").unlink()


@injects("settings-wrong")
def a_mistyped_key(world: World) -> None:
    world.rename("threads", "treads")


@injects("settings-looser")
def a_higher_ceiling(world: World) -> None:
    world.rename("epsilon = 8.0 ", "epsilon = 9.0 ")


@injects("settings-looser")
def a_deleted_delta(world: World) -> None:
    path = world.home / "site.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("delta")))


def loses(code: str, name: str, content: bytes | None = None) -> None:
    def inject(world: World) -> None:
        (world.home / name).unlink() if content is None else (world.home / name).write_bytes(content)

    inject.__name__ = name
    FAULT_OF.append((code, inject))


for key in ("envelope.key", "pseudonym.key", "node.key", "coordinator.pub", "authority.pem"):
    loses("key-missing", f"keys/{key}")
    loses("key-damaged", f"keys/{key}", b"not what it was")
loses("log-missing", "ledger.chain")
loses("log-missing", "audit.chain.mark")
loses("log-damaged", "audit.chain", b"hello")


@injects("key-readable")
def key_for_everybody(world: World) -> None:
    (world.home / "keys" / "envelope.key").chmod(0o644)


@injects("foreign-files")
def somebody_ran_it_as_root(world: World) -> None:
    if not ROOT:
        pytest.skip("another account's file needs root")
    (world.home / "ledger.chain.lock").touch()
    os.chown(world.home / "ledger.chain.lock", 65534, 65534)


def belongs_to_another(name: str) -> None:
    def inject(world: World) -> None:
        if not ROOT:
            pytest.skip("another account's file needs root")
        path = world.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.chown(path, 65534, 65534)

    inject.__name__ = name
    FAULT_OF.append(("foreign-files", inject))


for name in ("approved/abc/plan.json", "outbox/answer", "enrolment/request.json", "audit.pending/1.json", "cohort/00001/pixels/00000.npy"):
    belongs_to_another(name)


@injects("log-damaged")
def a_shortened_ledger(world: World) -> None:
    path = world.home / "ledger.chain"
    path.write_bytes(path.read_bytes()[:-40])


@injects("ledger-foreign")
def another_sites_key(world: World) -> None:
    SigningKey.generate().save(world.home / "keys" / "envelope.key")


@injects("ledger-old")
def an_older_ledger(world: World) -> None:
    facts = {"run": "a" * 16, "round": 1, "kind": "train", "epoch": 1, "bytes": 1}
    hashes = dict.fromkeys(("question", "envelope", "payload", "ledger"), "b" * 64)
    with Chain.open(world.home / "audit.chain", audit.KIND) as log:
        log.append("release", {**facts, **hashes})


@injects("ledger-contradicted")
def a_clone(world: World) -> None:
    with Chain.open(world.home / "ledger.chain", KIND) as log:
        log.append("contradicted", {"run": "a" * 16, "round": 1, "sequence": 1, "head": "b" * 64})


@injects("clock-back")
def the_clock_was_ahead(world: World) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with Chain.open(world.home / "audit.chain", audit.KIND, clock=lambda: tomorrow) as log:
        log.append("pause", {"salt": "0" * 32})


@injects("running")
def a_node_that_reaches_nobody(world: World) -> None:
    world.hold("node/lock")


@injects("stale-lock")
def a_node_that_stands_still(world: World) -> None:
    os.kill(world.hold("node/lock").pid, signal.SIGSTOP)


@injects("locked")
def another_command(world: World) -> None:
    world.hold("ledger.chain.lock")


@injects("paused")
def paused(world: World) -> None:
    (world.home / "paused").touch()


@injects("left")
def taken_out(world: World) -> None:
    from fedrad_client.site import LEFT

    (world.home / LEFT).touch()


@injects("no-cohort")
def nothing_ingested(world: World) -> None:
    shutil.rmtree(world.home / "cohort")


@injects("cohort-damaged")
def a_changed_cohort(world: World) -> None:
    path = world.home / "cohort" / "00001" / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"0", b"1"))


@injects("cohort-damaged")
def a_cohort_without_pixels(world: World) -> None:
    shutil.rmtree(world.home / "cohort" / "00001" / "pixels")


@injects("withdrawals-lost")
def no_list_of_withdrawals(world: World) -> None:
    with Chain.open(world.home / "audit.chain", audit.KIND) as log:
        log.append("withdraw", {"patients": 1, "listed": 1, "salt": "0" * 32})


@injects("no-approval")
def nothing_approved(world: World) -> None:
    shutil.rmtree(world.home / "approved")


@injects("approval-damaged")
def a_changed_protocol(world: World) -> None:
    (path,) = (world.home / "approved").glob("*/protocol.toml")
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tony"))
