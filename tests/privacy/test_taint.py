"""What was trained on patients without privacy taints all that is computed from it (privacy.md, rule 12)."""

import numpy as np
import pytest

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.privacy.ledger import covers
from fedrad_client.privacy.overview import facts, lines
from fedrad_client.recovery import recover
from fedrad_client.site import Home, open_site
from fedrad_common.errors import ConfigError, MisuseError
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import TrainingProtocol, parse_protocol, render_protocol, replace_settings
from fedrad_common.records import Answer, Envelope, Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)
WEIGHTS = vector_hash(MODEL)


def work(job, model):
    size = model.size if job.kind == "train" else 64
    return np.random.default_rng(list(job.secret)).normal(size=size).astype(np.float32)


def variant(protocol: bytes, **settings: object) -> TrainingProtocol:
    return replace_settings(parse_protocol(protocol), {key.replace("__", "."): value for key, value in settings.items()})


def plain(protocol: bytes) -> TrainingProtocol:
    return variant(protocol, name="plain", privacy__unit="none", privacy__epsilon=None)


def started_from(protocol: bytes, first: TrainingProtocol, *, unit: str, model: str = WEIGHTS) -> TrainingProtocol:
    lineage = {"kind": "run", "model": model, "protocol": first.hash, "unit": unit}
    return variant(protocol, name="second", model__initial=lineage)


def ask(home: Home, coordinator, protocol: TrainingProtocol, *, kind: str = "train", run: str = "run-00000001") -> Answer:
    order = Order(run=run, epoch=1, round=1, kind=kind, protocol=protocol.hash, model=WEIGHTS, length=16)
    with open_site(home.path) as site:
        return answer(site, asked(order, MODEL, coordinator, home.path), work=work)


def accept(home: Home, protocol: TrainingProtocol) -> None:
    with open_site(home.path) as site:
        approve(site, render_protocol(protocol), declared_size=60)


@pytest.fixture
def open_minded(make_site) -> Home:
    """A site whose policy lets runs without privacy train."""
    return make_site(unbounded=True)


def test_no_private_run_starts_from_weights_that_were_trained_without_privacy(open_minded: Home, protocol_bytes) -> None:
    tainted = started_from(protocol_bytes, plain(protocol_bytes), unit="none")

    with pytest.raises(MisuseError, match=r"model\.initial: weights that were trained without privacy"):
        accept(open_minded, tainted)


def test_a_lie_about_the_lineage_is_found_in_the_sites_own_ledger(open_minded: Home, coordinator, protocol_bytes) -> None:
    first = plain(protocol_bytes)
    lie = started_from(protocol_bytes, first, unit="patient")
    accept(open_minded, lie)  # nothing is known against it yet
    accept(open_minded, first)
    assert ask(open_minded, coordinator, first).envelope is not None

    assert ask(open_minded, coordinator, lie, run="run-00000002") == Answer(refusal="policy")
    with open_site(open_minded.path) as site:
        assert site.audit.entries[-1].body["reason"] == "tightened"


def test_weights_of_a_private_run_may_be_gone_on_from(make_site, coordinator, protocol_bytes) -> None:
    home, second = make_site(), started_from(protocol_bytes, parse_protocol(protocol_bytes), unit="patient")
    accept(home, second)

    assert ask(home, coordinator, second).envelope is not None


def test_the_first_rounds_model_must_be_the_one_whose_lineage_was_approved(make_site, coordinator, protocol_bytes) -> None:
    home, second = make_site(), started_from(protocol_bytes, parse_protocol(protocol_bytes), unit="patient", model="0" * 64)
    accept(home, second)

    assert ask(home, coordinator, second) == Answer(refusal="policy")
    with open_site(home.path) as site:
        assert site.audit.entries[-1].body["reason"] == "other-initial"


def test_public_weights_must_be_those_that_were_approved_too(make_site, coordinator, protocol_bytes) -> None:
    """Who is sent others refuses the round; the person at the site reads where they are said to come from."""
    lineage = {"kind": "public", "source": "a set that anybody may fetch", "weights": "1" * 64}
    right, wrong = (variant(protocol_bytes, name="public", model__initial={**lineage, "model": model}) for model in (WEIGHTS, "0" * 64))
    home = make_site()
    accept(home, right)
    accept(home, wrong)

    assert ask(home, coordinator, right).envelope is not None
    assert ask(home, coordinator, wrong, run="run-00000002") == Answer(refusal="policy")
    with open_site(home.path) as site:
        assert site.audit.entries[-1].body["reason"] == "other-initial"


@pytest.mark.parametrize(
    "lineage", [{"kind": "run"}, {"kind": "random", "model": WEIGHTS}, {"kind": "run", "model": WEIGHTS, "unit": "none"}]
)
def test_a_lineage_that_is_half_told_is_no_protocol(protocol_bytes, lineage) -> None:
    with pytest.raises(ConfigError, match=r"(model|protocol) is (required|forbidden) with kind"):
        variant(protocol_bytes, model__initial=lineage)


def test_metrics_of_a_model_trained_without_privacy_are_marked_and_the_ledger_says_no_bound(open_minded: Home, coordinator, protocol_bytes):
    first = plain(protocol_bytes)
    accept(open_minded, first)
    ask(open_minded, coordinator, first)
    given = ask(open_minded, coordinator, first, kind="evaluate").envelope.peek(Envelope, what="envelope")

    assert given.privacy.marked
    assert given.privacy.noise_multiplier > 0  # noise does not heal it
    with open_site(open_minded.path) as site:
        entries = site.ledger.chain.entries
        shown = facts(site.ledger.opening, entries)
        assert [(row["concerns"], row["why"]) for row in shown["marked"]] == [
            ("training", "trained without privacy"),
            ("validation", "metrics of a model trained without privacy"),
        ]
        assert (shown["bound"], shown["in_advance"]) == (False, None)
        assert any("NO BOUND" in line for line in lines(site.ledger.opening, entries))


def test_a_private_run_after_one_without_privacy_still_prints_no_bound_for_ever(open_minded: Home, coordinator, protocol_bytes) -> None:
    first, second = plain(protocol_bytes), parse_protocol(protocol_bytes)
    for number, protocol in enumerate((first, second), start=1):
        accept(open_minded, protocol)
        ask(open_minded, coordinator, protocol, run=f"run-0000000{number}")

    with open_site(open_minded.path) as site:
        shown = facts(site.ledger.opening, site.ledger.chain.entries)
    assert not shown["bound"]
    assert shown["reserved"] > 0


def test_losing_the_ledger_neither_heals_the_taint_nor_brings_a_bound_back(open_minded: Home, coordinator, protocol_bytes) -> None:
    first = plain(protocol_bytes)
    accept(open_minded, first)
    ask(open_minded, coordinator, first)
    (open_minded.path / "ledger.chain.mark").unlink()
    recover(open_minded, new_ceiling=10.0)

    with open_site(open_minded.path) as site:
        shown = facts(site.ledger.opening, site.ledger.chain.entries)
        assert (shown["bound"], shown["in_advance"]) == (False, None)
        assert [row["run"] for row in shown["marked"]] == ["a lost ledger"]
        assert any("NO BOUND" in line for line in lines(site.ledger.opening, site.ledger.chain.entries))
    with pytest.raises(MisuseError, match=r"model\.initial"):
        accept(open_minded, started_from(protocol_bytes, first, unit="patient"))


def test_where_nobody_knows_what_was_trained_no_run_goes_on_from_anothers_weights(open_minded: Home, protocol_bytes) -> None:
    for name in ("ledger.chain.mark", "audit.chain.mark"):
        (open_minded.path / name).unlink()
    recover(open_minded, new_ceiling=10.0)

    with pytest.raises(MisuseError, match=r"model\.initial"):
        accept(open_minded, started_from(protocol_bytes, parse_protocol(protocol_bytes), unit="patient"))
    accept(open_minded, parse_protocol(protocol_bytes))  # from random weights it may train
    with open_site(open_minded.path) as site:
        assert not facts(site.ledger.opening, site.ledger.chain.entries)["bound"]


def test_a_protocol_approved_again_with_another_size_does_not_go_on_with_a_run(make_site, coordinator, protocol_bytes) -> None:
    """Another size is another plan: with it, exact histograms might leave that the run's entry does not mark."""
    home, protocol = make_site(), parse_protocol(protocol_bytes)
    accept(home, protocol)
    ask(home, coordinator, protocol)
    with open_site(home.path) as site:
        _, plan = site.approved(protocol.hash)
        begun = site.ledger.run("run-00000001")
        assert covers(begun, protocol, plan)
        for changed in ({"declared_size": 59}, {"evaluation": "exact"}):
            assert not covers(begun, protocol, plan.model_copy(update=changed))
