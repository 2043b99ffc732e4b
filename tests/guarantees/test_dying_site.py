"""A site that dies mid-round costs the run its update and nothing else; it comes back with stored bytes or newly charged noise."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import Clock, Killed, unsynced

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import Home, Site
from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Asked, Evidence, Order, Signed
from fedrad_server.replay import replay
from fedrad_server.rounds import Outcome, play
from fedrad_server.runs import Run, read_run

__all__ = ["unsynced"]  # a fixture that every test here uses
NAMES = ("ankara", "bergen", "cadiz")


def noise(job, model: Vector) -> Vector:
    """As random as the reservation is."""
    return np.random.default_rng(list(job.secret)).normal(size=model.size).astype(np.float32)


def never(job, model: Vector) -> Vector:
    raise AssertionError("work ran")


@dataclass
class Hospitals:
    """The `Sites` of a run: real ones, in this process. `death` may raise Killed before or after a site's answer was made."""

    sites: dict[str, Site]
    clock: Clock
    death: Callable[[str, Order, str], None]
    queue: list[tuple[str, Answer]] = field(default_factory=list)
    missed: list[Asked] = field(default_factory=list)

    def ask(self, sites: Collection[str], order: Signed, model: Vector, evidence: Mapping[str, Evidence]) -> None:
        opened = order.peek(Order, what="order")
        for name in sorted(set(sites) & self.sites.keys()):
            try:
                self.queue.append((name, self.answered(name, opened, Asked(order, model, evidence[name]))))
            except Killed:
                self.sites.pop(name).close()  # as the kernel does: locks are freed, nothing is written
                self.missed.append(Asked(order, model, evidence[name]))

    def answered(self, name: str, opened: Order, asked: Asked) -> Answer:
        def work(job, model: Vector) -> Vector:
            self.death(name, opened, "working")
            return noise(job, model)

        given = answer(self.sites[name], asked, work=work)
        self.death(name, opened, "sending")
        return given

    def absent(self) -> Mapping[str, float]:
        return {}

    def poll(self, timeout: float) -> list[tuple[str, Answer]]:
        if not self.queue:
            self.clock.now += timeout
            return []
        return [self.queue.pop(0)]


@dataclass
class Played:
    hospitals: Hospitals
    homes: dict[str, Home]
    run: Path
    outcome: Outcome


@pytest.fixture
def die(tmp_path: Path, make_site, coordinator, protocol_bytes: bytes) -> Callable[[str], Played]:
    """Play a run of three real sites; bergen is killed in round 2, at the moment named."""
    content = protocol_bytes.replace(b"quorum = 1", b"quorum = 2").split(b"[evaluation]")[0]

    def run_it(moment: str) -> Played:
        homes = {name: make_site(name) for name in NAMES}
        sites = {name: Site(home) for name, home in homes.items()}
        for site in sites.values():
            approve(site, content, declared_size=60)

        def death(name: str, order: Order, now: str) -> None:
            if (name, order.round, now) == ("bergen", 2, moment):
                raise Killed

        clock = Clock()
        hospitals = Hospitals(sites, clock, death)
        roster = {name: site.key.public.hex for name, site in sites.items()}
        with Run.create(tmp_path / "run", content, roster=roster, key=coordinator, initial=np.zeros(16, np.float32)) as run:
            outcome = play(run, hospitals, clock=clock)
        for site in hospitals.sites.values():
            site.close()
        return Played(hospitals, homes, tmp_path / "run", outcome)

    return run_it


@pytest.mark.parametrize("moment", ["working", "sending"])
def test_the_run_is_finished_by_the_others_and_the_model_is_theirs(die: Callable[[str], Played], moment: str) -> None:
    played = die(moment)

    records = read_run(played.run)
    assert played.outcome is Outcome.FINISHED
    assert [sorted(manifest.updates) for manifest in records.manifests[1:]] == [[*NAMES], ["ankara", "cadiz"], ["ankara", "cadiz"]]
    mean = np.mean([records.update(envelope) for envelope in records.envelopes(2, "train").values()], axis=0)
    np.testing.assert_allclose(records.model(2) - records.model(1), mean, rtol=1e-5, atol=1e-6)
    assert replay(played.run).equal


def test_killed_while_working_it_answers_with_noise_that_is_charged_anew(die: Callable[[str], Played]) -> None:
    played = die("working")
    home = played.homes["bergen"]
    before = read_ledger(home.path / "ledger.chain")[1]
    site = Site(home)
    given = answer(site, played.hospitals.missed[0], work=noise)
    again = answer(site, played.hospitals.missed[0], work=never)
    site.close()

    after = read_ledger(home.path / "ledger.chain")[1]
    assert given.vector is not None
    assert after.training == pytest.approx(before.training * 4 / 3)  # one round of three, on top of the whole run
    assert (after.answers, len(after.repeated)) == (before.answers + 1, 1)
    assert again.vector is not None
    assert again.vector.tobytes() == given.vector.tobytes()


def test_killed_while_sending_it_answers_with_the_stored_bytes_for_free(die: Callable[[str], Played]) -> None:
    played = die("sending")
    home = played.homes["bergen"]
    before = read_ledger(home.path / "ledger.chain")[1]
    stored = sorted(path.read_bytes() for path in (home.path / "outbox").iterdir())
    site = Site(home)
    given = answer(site, played.hospitals.missed[0], work=never)
    site.close()

    assert given.vector is not None
    assert any(content.endswith(given.vector.tobytes()) for content in stored)
    assert read_ledger(home.path / "ledger.chain")[1] == before
