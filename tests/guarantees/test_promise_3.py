"""Promise 3: epsilon is never under-counted, not by a crash at any write, a full disk, a second run, a resend or a new cohort."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from fakes.approvals import for_many_runs

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.site import Home, Site, open_site
from fedrad_common.accounting import GaussianEvent, rdp
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)


def work(job, model):
    return np.random.default_rng(list(job.secret)).normal(size=16).astype(np.float32)


class Killed(BaseException):
    """Like kill -9: nothing of the process goes on."""


def ask(home: Home, coordinator, protocol, *, number: int = 1, run: str = "run-00000001") -> bytes | None:
    """One order to a site that has just been started; what came out of the socket."""
    order = Order(run=run, epoch=1, round=number, kind="train", protocol=protocol.hash, model=vector_hash(MODEL), length=MODEL.size)
    with open_site(home.path) as site:
        given = answer(site, asked(order, MODEL, coordinator, home.path), work=work)
    return None if given.vector is None else given.vector.tobytes()


def spent(home: Home) -> float:
    with open_site(home.path) as site:
        return site.ledger.account.training


def cost_of_a_round(home: Home, protocol) -> float:
    _, plan = home.approved(protocol.hash)
    with open_site(home.path) as site:
        return rdp(GaussianEvent(plan.noise_multiplier, plan.sampling_rate, protocol.privacy.steps_per_round), site.ledger.opening.order)


@pytest.fixture
def north(make_site, protocol_bytes) -> Home:
    home = make_site()
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    return home


@pytest.mark.parametrize("nth", range(1, 13))
def test_a_kill_at_any_write_never_leaves_an_unpaid_update(
    north: Home, coordinator, protocol_bytes: bytes, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """An outside observer counts distinct updates of one round; the ledger has paid for at least as many."""
    protocol, left = parse_protocol(protocol_bytes), set()
    with monkeypatch.context() as patch:
        count = 0
        syncs = {name: getattr(os, name) for name in ("fsync", "fdatasync")}

        def dying(descriptor: int, *, real) -> None:
            nonlocal count
            count += 1
            if count == nth:
                raise Killed
            real(descriptor)

        for name, real in syncs.items():
            patch.setattr(os, name, lambda descriptor, real=real: dying(descriptor, real=real))
        with contextlib.suppress(Killed):
            left.add(ask(north, coordinator, protocol))
    left.add(ask(north, coordinator, protocol))
    left.add(ask(north, coordinator, protocol))

    assert len(left - {None}) == 1  # after the first release, only those bytes ever answer
    assert spent(north) >= len(left - {None}) * cost_of_a_round(north, protocol)


def test_a_kill_during_work_is_paid_though_nothing_left(north: Home, coordinator, protocol_bytes: bytes) -> None:
    protocol = parse_protocol(protocol_bytes)
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol=protocol.hash, model=vector_hash(MODEL), length=16)

    def killed(job, model):
        raise Killed

    site = Site(north)
    with pytest.raises(Killed):
        answer(site, asked(order, MODEL, coordinator, north.path), work=killed)
    site.close()
    before = spent(north)
    ask(north, coordinator, protocol)

    assert before >= 3 * cost_of_a_round(north, protocol)  # the whole run
    assert spent(north) == pytest.approx(before + cost_of_a_round(north, protocol))


def test_a_second_run_adds_to_the_same_account_until_the_ceiling(north: Home, coordinator, protocol_bytes: bytes) -> None:
    protocol = parse_protocol(protocol_bytes)
    with open_site(north.path) as site:
        for_many_runs(site, protocol.hash)
    seen = [ask(north, coordinator, protocol, run=f"run-{number:08}") for number in range(30)]
    with open_site(north.path) as site:
        budget, account = site.ledger.opening.budget, site.ledger.account

    assert seen[0] is not None
    assert seen[-1] is None
    assert account.training <= budget


def test_a_new_cohort_gives_nothing_back(north: Home, coordinator, protocol_bytes: bytes, write_cohort) -> None:
    protocol = parse_protocol(protocol_bytes)
    ask(north, coordinator, protocol)
    before = spent(north)
    write_cohort(north.cohort, n_patients=90)
    ask(north, coordinator, protocol, number=2)

    assert spent(north) == before


def test_an_older_ledger_is_noticed_and_nothing_leaves(north: Home, coordinator, protocol_bytes: bytes) -> None:
    from fedrad_common.errors import ChainError

    protocol = parse_protocol(protocol_bytes)
    path: Path = north.path / "ledger.chain"
    older = path.read_bytes()
    ask(north, coordinator, protocol)
    path.write_bytes(older)

    with pytest.raises(ChainError, match="acknowledged"):
        ask(north, coordinator, protocol)
