"""Promise 7: one site can't spoil a run: a bad update is refused with a code, and the model is what the others made."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import Site, World, numbers, protocol, silent, unsynced

from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Order
from fedrad_server.history import read_run
from fedrad_server.replay import replay
from fedrad_server.rounds import Outcome

__all__ = ["unsynced"]  # a fixture that every test here uses


def spoiled(site: Site, order: Order, /, **changes: object) -> Answer:
    return site.seal(order, numbers(site.name, order.round, size=order.length), **changes)


def with_cell(value: float) -> Callable[[Site, Order], Answer]:
    def spoil(site: Site, order: Order) -> Answer:
        vector = numbers(site.name, order.round, size=order.length)
        vector[5] = value
        return site.seal(order, vector)

    return spoil


def wrong_key(site: Site, order: Order) -> Answer:
    return spoiled(Site(site.name, site.size, key=SigningKey.generate(), sequence=site.sequence), order)


def other_bytes(site: Site, order: Order) -> Answer:
    answer = spoiled(site, order)
    assert answer.vector is not None
    return Answer(answer.envelope, answer.vector + np.float32(1))


def of_length(n: int) -> Callable[[Site, Order], Answer]:
    return lambda site, order: site.seal(order, numbers(site.name, size=n))


def with_field(**changes: object) -> Callable[[Site, Order], Answer]:
    return lambda site, order: spoiled(site, order, **changes)


DEEDS: dict[str, tuple[str, Callable[[Site, Order], Answer]]] = {
    "one NaN": ("non-finite", with_cell(float("nan"))),
    "one infinity": ("non-finite", with_cell(float("inf"))),
    "a huge number": ("norm", with_cell(1e30)),
    "too long": ("length", of_length(5000)),
    "too short": ("length", of_length(3)),
    "double precision": ("dtype", lambda site, order: site.seal(order, numbers(site.name, size=order.length).astype(np.float64))),
    "signed by another key": ("signature", wrong_key),
    "other bytes than those signed": ("payload", other_bytes),
    "for another run": ("run", with_field(run="stolen-00000000")),
    "for another protocol": ("protocol", with_field(protocol="b" * 64)),
    "to another model": ("model", with_field(model="b" * 64)),
    "from the future": ("epoch", with_field(epoch=9)),
    "in another site's name": ("site", with_field(site="ankara")),
    "half an answer": ("malformed", lambda site, order: Answer(vector=np.zeros(order.length, np.float32))),
    "a weight that no hospital has": ("declared-size", with_field(declared_size=10**18)),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_bad_update_is_refused_with_a_code_and_the_model_is_what_the_others_made(tmp_path: Path, deed: str) -> None:
    code, spoil = DEEDS[deed]
    content = protocol(rounds=2, quorum=2, retries=0)
    without = World(tmp_path / "without")
    without.finish(content, cadiz=silent)
    world = World(tmp_path / "with")

    grid = world.finish(content, cadiz=lambda site, order, model: [spoil(site, order)])

    records = read_run(world.directory)
    assert grid.outcome is Outcome.FINISHED
    assert records.manifests[1].missing == records.manifests[2].missing == {"cadiz": code}
    assert [(e.body["round"], e.body["site"], e.body["code"]) for e in records.events if e.type == "rejected"] == [
        (1, "cadiz", code),
        (2, "cadiz", code),
    ]
    assert records.released(2).tobytes() == read_run(without.directory).released(2).tobytes()
    assert replay(world.directory).equal
    assert not list(world.directory.glob("rounds/*/updates/cadiz*"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda first, order: {"sequence": 1}, "sequence"),
        (lambda first, order: {"declared_size": 600}, "declared-size"),
    ],
    ids=["an old number", "a weight that grows"],
)
def test_what_fitted_in_the_first_round_is_held_against_the_second(
    tmp_path: Path, change: Callable[[object, Order], dict[str, object]], code: str
) -> None:
    def lie_later(site: Site, order: Order, model: Vector) -> list[Answer]:
        return [spoiled(site, order, **(change(None, order) if order.round == 2 else {}))]

    world = World(tmp_path / "echo")
    world.finish(protocol(rounds=2, retries=0), cadiz=lie_later)

    manifests = read_run(world.directory).manifests
    assert "cadiz" in manifests[1].updates
    assert manifests[2].missing == {"cadiz": code}


def test_last_rounds_update_sent_again_is_late_and_not_folded_twice(tmp_path: Path) -> None:
    def replayed(site: Site, order: Order, model: Vector) -> list[Answer]:
        return [site.answer(order, model)] if order.round == 1 else list(site.outbox.values())

    world = World(tmp_path / "echo")
    world.finish(protocol(rounds=2, retries=0), cadiz=replayed)

    manifests = read_run(world.directory).manifests
    assert (sorted(manifests[2].updates), manifests[2].missing) == (["ankara", "bergen"], {"cadiz": "late"})


def test_an_accepted_envelope_with_other_bytes_is_named_and_not_taken_for_a_resend(tmp_path: Path) -> None:
    def changed_after(site: Site, order: Order, model: Vector) -> list[Answer]:
        honest = site.answer(order, model)
        assert honest.vector is not None
        return [honest, honest, Answer(honest.envelope, honest.vector + np.float32(1))]

    world = World(tmp_path / "echo")
    world.finish(protocol(rounds=1, quorum=3, retries=0), ankara=changed_after)

    records = read_run(world.directory)
    assert [(e.body["site"], e.body["code"]) for e in records.events if e.type == "rejected"] == [("ankara", "repeated")]
    assert replay(world.directory).equal


def test_the_same_lies_are_found_by_a_coordinator_that_was_restarted(tmp_path: Path) -> None:
    """What a site said before the restart is on the disk, not only in memory."""
    world = World(tmp_path / "echo")
    content = protocol(rounds=2, quorum=3, retries=0)
    with world.create(content) as run:
        world.play(run, bergen=lambda site, order, model: [spoiled(site, order)] if order.round == 1 else [])
    with world.open() as run:
        world.play(run, bergen=lambda site, order, model: [spoiled(site, order, declared_size=600)])
    with world.open() as run:
        world.play(run, bergen=lambda site, order, model: [spoiled(site, order, sequence=1)])

    events = read_run(world.directory).events
    assert [entry.body["code"] for entry in events if entry.type == "rejected"] == ["declared-size", "sequence"]
