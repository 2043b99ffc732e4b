"""The loop of rounds: who is asked, when a round is over, and what happens when too few answer."""

import math
from pathlib import Path

import numpy as np
import pytest
from fakes.coordinator import N_PARAMETERS, Grid, Site, World, honest, numbers, protocol, refusing, silent, unsynced

from fedrad_common.packing import Vector
from fedrad_common.records import Answer, Envelope, Order, Receipt
from fedrad_server.history import read_run
from fedrad_server.replay import replay
from fedrad_server.rounds import Outcome
from fedrad_server.runs import Run

__all__ = ["unsynced"]  # a fixture that every test here uses


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "runs" / "echo")


def codes(world: World, type: str = "rejected") -> list[tuple[int, str, str]]:  # noqa: A002
    events = read_run(world.directory).events
    return [(entry.body["round"], entry.body["site"], entry.body["code"]) for entry in events if entry.type == type]


def test_a_run_folds_every_sites_update_by_its_declared_size(world: World) -> None:
    grid = world.finish(protocol(rounds=2))

    sites = list(world.sites.values())
    model = numbers("initial", size=N_PARAMETERS).astype(np.float64)
    for number in (1, 2):
        differences = [numbers(site.name, number, size=N_PARAMETERS) for site in sites]
        model = (model + np.average(differences, axis=0, weights=[site.size for site in sites])).astype(np.float32)
    assert grid.outcome is Outcome.FINISHED
    np.testing.assert_allclose(np.fromfile(world.directory / "result" / "model.f32", "<f4"), model, rtol=1e-6)
    assert replay(world.directory).equal
    assert world.clock.now == 0.0  # nobody was waited for


def test_every_order_names_run_round_protocol_and_the_model_before_it(world: World) -> None:
    orders: list[Order] = []

    def watch(site: Site, order: Order, model: Vector) -> list[Answer]:
        orders.append(order)
        return honest(site, order, model)

    world.finish(protocol(rounds=2), ankara=watch)

    records = read_run(world.directory)
    assert [(order.round, order.kind, order.epoch, order.length) for order in orders] == [(1, "train", 1, 12), (2, "train", 1, 12)]
    assert [order.model for order in orders] == [records.manifests[0].model, records.manifests[1].model]
    assert {order.run for order in orders} == {records.launch.run}
    assert {order.protocol for order in orders} == {records.protocol.hash}


def test_a_silent_site_is_waited_for_until_the_deadline_and_no_longer(world: World) -> None:
    grid = world.finish(protocol(rounds=2), cadiz=silent)

    manifest = read_run(world.directory).manifests[1]
    assert grid.outcome is Outcome.FINISHED
    assert world.clock.now == 2 * 60.0
    assert sorted(manifest.updates) == ["ankara", "bergen"]
    assert manifest.missing == {"cadiz": "late"}


def test_a_refusal_ends_the_wait_and_is_recorded_with_its_code(world: World) -> None:
    world.finish(protocol(rounds=1), cadiz=refusing("budget"))

    assert world.clock.now == 0.0
    assert codes(world, "refused") == [(1, "cadiz", "budget")]
    assert read_run(world.directory).manifests[1].missing == {"cadiz": "budget"}


def test_below_quorum_only_the_missing_are_asked_again_and_then_the_run_pauses(world: World) -> None:
    grid = world.finish(protocol(quorum=2, retries=2), bergen=silent, cadiz=refusing("policy"))

    assert grid.outcome is Outcome.PAUSED
    assert grid.asked == [("train", 1, ("ankara", "bergen", "cadiz"))] + 2 * [("train", 1, ("bergen", "cadiz"))]
    records = read_run(world.directory)
    assert records.round == 0
    assert records.paused == "round 1: 1 of 2 needed updates after 3 attempts: bergen late, cadiz policy"


def test_a_paused_run_goes_on_where_it_stopped(world: World) -> None:
    world.finish(protocol(rounds=2), bergen=silent, cadiz=silent)
    with world.open() as run:
        grid = world.play(run)

    assert grid.outcome is Outcome.FINISHED
    assert grid.asked[0] == ("train", 1, ("bergen", "cadiz"))
    records = read_run(world.directory)
    assert (records.paused, records.epoch, sorted(records.manifests[1].updates)) == ("", 2, ["ankara", "bergen", "cadiz"])


def test_when_nobody_can_answer_the_run_pauses_at_once_and_when_all_are_busy_it_waits(world: World) -> None:
    everybody = {name: refusing("policy") for name in world.names}
    with world.create(protocol(retries=1)) as run:
        world.play(run, **everybody)
        assert world.clock.now == 0.0
        world.play(run, **{name: refusing("busy") for name in world.names})
        assert world.clock.now == 2 * 60.0


def test_a_retry_takes_in_the_answer_that_missed_the_first_deadline(world: World) -> None:
    """It was made for the first attempt; the order is the same, so are its bytes."""
    attempts = []

    def slow(site: Site, order: Order, model: Vector) -> list[Answer]:
        attempts.append(site.answer(order, model))
        return attempts[1:]

    grid = world.finish(protocol(rounds=1, quorum=3), cadiz=slow)

    assert grid.outcome is Outcome.FINISHED
    assert attempts[0] is attempts[1]
    assert read_run(world.directory).manifests[1].missing == {}


def test_what_came_before_the_deadline_is_in_time_though_judging_another_answer_took_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Run.accept

    def slow(run: Run, answer: Answer, envelope: Envelope) -> Receipt:
        world.clock.now += 61.0
        return accept(run, answer, envelope)

    monkeypatch.setattr(Run, "accept", slow)
    world.finish(protocol(rounds=1, retries=0))

    assert read_run(world.directory).manifests[1].missing == {}


def test_a_dead_site_is_seen_within_15_seconds_and_a_quorum_goes_on_without_it(world: World) -> None:
    world.away = {"cadiz": (0.0, math.inf)}
    grid = world.finish(protocol(rounds=1, quorum=2))

    assert grid.outcome is Outcome.FINISHED
    assert 9.0 < world.clock.now <= 15.0  # and not the deadline of 60
    assert read_run(world.directory).manifests[1].missing == {"cadiz": "gone"}
    event = next(entry for entry in read_run(world.directory).events if entry.type == "gone")
    assert event.body == {"round": 1, "kind": "train", "site": "cadiz", "seconds": 10}
    assert (1, "cadiz", "gone for 10 s") in grid.seen


def test_who_is_known_to_be_gone_holds_up_no_later_round(world: World) -> None:
    world.away = {"cadiz": (0.0, math.inf)}
    world.finish(protocol(rounds=5, quorum=2))
    assert world.clock.now <= 15.0


def test_a_quorum_still_waits_for_a_site_that_is_there_and_works(world: World) -> None:
    world.away = {"cadiz": (0.0, math.inf)}
    world.finish(protocol(rounds=1, quorum=1), bergen=silent)

    assert world.clock.now == 60.0
    assert read_run(world.directory).manifests[1].missing == {"bergen": "late", "cadiz": "gone"}


def test_below_quorum_a_site_that_comes_back_in_time_is_asked_again_and_counted(world: World) -> None:
    world.away = {"cadiz": (0.0, 30.0)}
    grid = world.finish(protocol(rounds=1, quorum=3))

    assert grid.outcome is Outcome.FINISHED
    assert world.clock.now == 30.0
    assert grid.asked == [("train", 1, ("ankara", "bergen", "cadiz")), ("train", 1, ("cadiz",))]
    manifest = read_run(world.directory).manifests[1]
    assert (sorted(manifest.updates), manifest.missing) == (["ankara", "bergen", "cadiz"], {})


def test_below_quorum_the_gone_are_waited_for_until_the_last_deadline_and_the_pause_names_them(world: World) -> None:
    world.away = {"bergen": (0.0, math.inf), "cadiz": (0.0, math.inf)}
    grid = world.finish(protocol(rounds=1, quorum=2, retries=1))

    assert grid.outcome is Outcome.PAUSED
    assert world.clock.now == 2 * 60.0
    assert read_run(world.directory).paused == "round 1: 1 of 2 needed updates after 2 attempts: bergen gone, cadiz gone"


def test_the_gone_hold_up_no_evaluation(world: World) -> None:
    world.away = {"cadiz": (-20.0, math.inf)}
    world.finish(protocol(rounds=1, evaluated=(1,)))

    event = next(entry for entry in read_run(world.directory).events if entry.type == "evaluated")
    assert (event.body["missing"], world.clock.now) == ({"cadiz": "gone"}, 0.0)


def test_updates_that_make_no_model_pause_the_run_with_the_reason(world: World) -> None:
    grid = world.finish(protocol(rounds=1, aggregation="learning_rate = 1e39"))

    assert grid.outcome is Outcome.PAUSED
    assert read_run(world.directory).paused == "round 1: the folded model is not finite"
    assert read_run(world.directory).round == 0


class Lagging(Grid):
    """The third site's answers come one round too late."""

    def ask(self, sites, order, model, evidence):
        super().ask([name for name in sites if name != "cadiz"], order, model, evidence)
        self.late = getattr(self, "late", [])
        self.queue = self.late + self.queue
        self.late = [("cadiz", self.world.sites["cadiz"].answer(order.peek(Order, what="order"), model))]


def test_an_answer_to_a_closed_round_is_refused_as_late(world: World) -> None:
    from fedrad_server.rounds import play

    with world.create(protocol(rounds=2)) as run:
        play(run, Lagging(world, {}), clock=world.clock)

    assert codes(world) == [(2, "cadiz", "late")]
    assert read_run(world.directory).manifests[2].missing == {"cadiz": "late"}


def test_a_late_answer_does_not_stand_for_the_one_that_is_waited_for(world: World) -> None:
    def old_first(site: Site, order: Order, model: Vector) -> list[Answer]:
        return [*site.outbox.values(), site.answer(order, model)]

    world.finish(protocol(rounds=2), cadiz=old_first)

    assert codes(world) == [(2, "cadiz", "late")]
    assert read_run(world.directory).manifests[2].missing == {}


def test_an_answer_that_comes_twice_counts_once(world: World) -> None:
    world.finish(protocol(rounds=1), ankara=lambda *order: honest(*order) * 3)

    records = read_run(world.directory)
    assert [receipt.site for receipt in records.receipts(1)] == ["ankara", "bergen", "cadiz"]
    assert codes(world) == []


def test_a_rejected_site_may_still_send_a_right_answer_while_the_round_is_open(world: World) -> None:
    def first_wrong(site: Site, order: Order, model: Vector) -> list[Answer]:
        return [site.seal(order, model * np.float32("nan")), site.answer(order, model)]

    world.finish(protocol(rounds=1), ankara=first_wrong)

    assert codes(world) == [(1, "ankara", "non-finite")]
    assert sorted(read_run(world.directory).manifests[1].updates) == ["ankara", "bergen", "cadiz"]


def test_a_strangers_name_is_written_nowhere(world: World) -> None:
    grid = Grid(world, {})
    grid.queue = [("<mallory>", Answer(refusal="busy"))]
    from fedrad_server.rounds import play

    with world.create(protocol(rounds=1)) as run:
        play(run, grid, clock=world.clock)

    assert codes(world) == [(1, "", "unknown-site")]
    assert not any(b"mallory" in path.read_bytes() for path in world.directory.rglob("*") if path.is_file())


def test_evaluation_asks_about_the_released_model_after_the_rounds_that_the_protocol_names(world: World) -> None:
    asked: list[Order] = []

    def watch(site: Site, order: Order, model: Vector) -> list[Answer]:
        asked.append(order)
        return honest(site, order, model)

    world.finish(protocol(rounds=3, evaluated=(1, 3), aggregation="ema = 0.9"), ankara=watch)

    records = read_run(world.directory)
    evaluations = [(order.round, order.model) for order in asked if order.kind == "evaluate"]
    assert evaluations == [(1, records.manifests[1].released), (3, records.manifests[3].released)]
    assert records.manifests[1].released != records.manifests[1].model
    assert {site: h.shape for site, h in records.histograms(3).items()} == dict.fromkeys(world.names, (1, 2, 32))
    assert records.histograms(2) == {}


def test_a_missing_evaluation_delays_until_the_deadline_and_pauses_nothing(world: World) -> None:
    def trains_only(site: Site, order: Order, model: Vector) -> list[Answer]:
        return honest(site, order, model) if order.kind == "train" else []

    grid = world.finish(protocol(rounds=2, evaluated=(1,)), **dict.fromkeys(world.names, trains_only))

    assert grid.outcome is Outcome.FINISHED
    assert world.clock.now == 60.0
    event = next(entry for entry in read_run(world.directory).events if entry.type == "evaluated")
    assert event.body == {"round": 1, "sites": [], "missing": dict.fromkeys(world.names, "late")}


def test_progress_tells_what_happens_to_whom(world: World) -> None:
    grid = world.finish(protocol(rounds=1), cadiz=refusing("hours"))
    assert grid.seen == [
        (1, "ankara", "asked"), (1, "bergen", "asked"), (1, "cadiz", "asked"),
        (1, "ankara", "accepted"), (1, "bergen", "accepted"), (1, "cadiz", "hours"), (1, "", "closed"), (1, "", "finished"),
    ]  # fmt: skip


def test_a_finished_run_asks_nobody_anything(world: World) -> None:
    world.finish(protocol(rounds=1))
    with world.open() as run:
        grid = world.play(run)
    assert (grid.outcome, grid.asked) == (Outcome.FINISHED, [])
