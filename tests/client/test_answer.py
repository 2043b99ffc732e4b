"""A site's one order of operations, and what each of its steps protects."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.approvals import for_many_runs

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.site import Home, Site
from fedrad_common.chain import read
from fedrad_common.errors import DiskError, FedradError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Asked, Envelope, Order, Signed, sign
from fedrad_sim.one_site import asked

MODEL: Vector = np.arange(16, dtype=np.float32)


def work(job, model: Vector) -> Vector:
    """Noise that depends on the reservation, as real work's does."""
    size = model.size if job.kind == "train" else 64
    return np.random.default_rng(list(job.secret)).normal(size=size).astype(np.float32)


def never(job, model: Vector) -> Vector:
    raise AssertionError("work ran")


def explode(job, model: Vector) -> Vector:
    raise FedradError("training failed")


def killed(job, model: Vector) -> Vector:
    raise KeyboardInterrupt


class Hand:
    """A coordinator's hand: signs orders for one site."""

    def __init__(self, home: Home, key: SigningKey, protocol: bytes) -> None:
        self.site, self.key = Site(home), key
        approve(self.site, protocol, declared_size=60)
        self.protocol = parse_protocol(protocol)

    def order(self, **changed: object) -> Order:
        values = {"run": "run-00000001", "epoch": 1, "round": 1, "kind": "train", "protocol": self.protocol.hash}
        return Order(**{**values, "model": vector_hash(MODEL), "length": MODEL.size, **changed})

    def ask(self, *, by: Callable[..., Vector] = work, key: SigningKey | None = None, **changed: object) -> Answer:
        return answer(self.site, self.asked(self.order(**changed), signer=key), work=by)

    def asked(self, order: Order, model: Vector = MODEL, **options: SigningKey | None) -> Asked:
        return asked(order, model, self.key, self.site.home.path, **options)

    def reopen(self) -> "Hand":
        """As after kill -9: nothing of the process is left but its files."""
        home = self.site.home
        self.site.close()
        self.site = Site(home)
        return self

    @property
    def spent(self) -> float:
        return self.site.ledger.account.training

    @property
    def last(self) -> dict:
        return self.site.audit.entries[-1].body


@pytest.fixture
def north(make_site, coordinator, protocol_bytes):
    hand = Hand(make_site(), coordinator, protocol_bytes)
    yield hand
    hand.site.close()


def test_an_answer_is_signed_by_the_site_and_names_what_it_holds(north: Hand) -> None:
    given = north.ask()

    assert given.envelope is not None
    assert given.vector is not None
    envelope = given.envelope.open(Envelope, north.site.key.public, what="envelope")
    assert (envelope.site, envelope.round, envelope.sequence, envelope.declared_size) == ("north", 1, 1, 60)
    assert envelope.payload == vector_hash(given.vector)
    assert envelope.ledger == north.site.ledger.chain.head


def test_the_whole_run_is_reserved_at_its_first_round(north: Hand) -> None:
    north.ask()
    after_one = north.spent
    north.ask(round=2)

    assert after_one > 0
    assert north.spent == after_one


def test_the_same_question_gets_the_same_bytes_for_free(north: Hand) -> None:
    first = north.ask()
    spent = north.spent
    second = north.reopen().ask(epoch=2, by=never)

    assert second.vector is not None
    assert second.vector.tobytes() == first.vector.tobytes()
    assert second.envelope == first.envelope
    assert north.spent == spent
    assert north.site.audit.entries[-1].type == "resend"


def test_the_outbox_keeps_two_rounds_of_a_run_and_an_older_question_gets_no_second_answer(north: Hand) -> None:
    first, *others = [north.ask(round=number) for number in (1, 2, 3)]
    spent = north.spent

    assert len(list((north.site.home.path / "outbox").iterdir())) == len(others)
    assert first.vector is not None
    assert north.reopen().ask(round=1, by=never) == Answer(refusal="policy")
    assert north.spent == spent
    assert north.ask(round=3, by=never).envelope == others[-1].envelope


def test_a_crash_during_work_still_costs_budget_and_the_next_try_is_charged_anew(north: Hand) -> None:
    with pytest.raises(KeyboardInterrupt):
        north.ask(by=lambda job, model: (_ for _ in ()).throw(KeyboardInterrupt()))
    north.reopen()
    after_crash = north.spent
    north.ask()

    assert after_crash > 0
    assert north.spent == pytest.approx(after_crash * (1 + 1 / 3))  # one round of three, on top of the whole run


def test_a_second_reservation_has_other_noise(north: Hand) -> None:
    seen = []

    def noting(job, model: Vector) -> Vector:
        seen.append(job.secret)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            north.ask(by=noting)

    assert len(set(seen)) == 2


def test_another_model_for_an_answered_round_is_refused(north: Hand) -> None:
    north.ask()
    spent, other = north.spent, MODEL + 1

    given = answer(north.site, north.asked(north.order(model=vector_hash(other)), other), work=never)
    assert given == Answer(refusal="policy")
    assert north.last["code"] == "two-models"
    assert north.spent == spent


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": "0" * 64}, "not-approved"),
        ({"round": 4}, "no-such-round"),
        ({"kind": "evaluate", "round": 2}, "no-such-round"),
        ({"model": "0" * 64}, "other-model"),
        ({"length": 15}, "other-model"),
    ],
)
def test_what_nobody_approved_is_refused_before_anything_is_spent(north: Hand, changed: dict, reason: str) -> None:
    assert north.ask(by=never, **changed) == Answer(refusal="policy")
    assert north.last["reason"] == reason
    assert north.spent == 0


def test_a_foreign_signature_is_refused(north: Hand) -> None:
    assert north.ask(by=never, key=SigningKey.generate()) == Answer(refusal="policy")
    assert north.last["reason"] == "not-signed"


def test_an_edited_order_is_refused(north: Hand) -> None:
    signed = sign(north.order(), north.key)
    edited = Signed(body=signed.body.replace('"round":1', '"round":2'), signature=signed.signature)

    assert answer(north.site, replace(north.asked(north.order()), order=edited), work=never) == Answer(refusal="policy")


def test_an_older_epoch_is_refused_even_after_a_restart(north: Hand) -> None:
    north.ask(epoch=2)

    assert north.reopen().ask(epoch=1, round=2, by=never) == Answer(refusal="policy")
    assert north.last["reason"] == "stale-epoch"


def test_a_paused_site_says_so_and_spends_nothing(north: Hand) -> None:
    (north.site.home.path / "paused").write_bytes(b"")

    assert north.ask(by=never) == Answer(refusal="paused")
    assert north.spent == 0


def test_past_the_ceiling_the_answer_is_budget(north: Hand) -> None:
    for_many_runs(north.site, north.protocol.hash)
    north.ask()
    answers = [north.ask(run=f"run-{number:08}", by=work) for number in range(2, 40)]

    assert answers[-1] == Answer(refusal="budget")
    assert north.spent <= north.site.ledger.opening.budget


def test_failed_work_leaves_as_a_code_without_its_text(north: Hand) -> None:
    assert north.ask(by=explode) == Answer(refusal="internal")
    assert "training failed" not in (north.site.home.path / "audit.chain").read_text()


def test_a_result_that_is_not_finite_never_leaves(north: Hand) -> None:
    assert north.ask(by=lambda job, model: np.full(model.size, np.nan, np.float32)) == Answer(refusal="internal")


def test_a_damaged_outbox_sends_nothing(north: Hand) -> None:
    north.ask()
    (sealed,) = (north.site.home.path / "outbox").glob("*.answer")
    content = bytearray(sealed.read_bytes())
    content[-1] ^= 1
    sealed.write_bytes(content)

    assert north.ask(by=never) == Answer(refusal="version")


def test_the_audit_log_shows_every_byte_that_left(north: Hand) -> None:
    given = north.ask()
    released = [entry.body for entry in read(north.site.home.path / "audit.chain", "audit") if entry.type == "release"]

    assert [(body["payload"], body["bytes"]) for body in released] == [(vector_hash(given.vector), given.vector.nbytes)]


def test_evaluation_is_charged_on_the_validation_line_only(north: Hand) -> None:
    given = north.ask(kind="evaluate")

    account = north.site.ledger.account
    assert given.vector is not None
    assert account.validation > 0
    envelope = given.envelope.peek(Envelope, what="envelope")
    assert envelope.privacy.noise_multiplier > 0
    assert not envelope.privacy.marked


def test_a_full_disk_is_answered_with_disk_and_nothing_is_released(north: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    import fedrad_client.outbox

    def full(path: Path, *_: object, **__: object) -> None:
        raise DiskError(f"{path.name}: no space left on the disk")

    monkeypatch.setattr(fedrad_client.outbox, "write_atomic", full)

    assert north.ask() == Answer(refusal="disk")
    assert not [entry for entry in north.site.audit.entries if entry.type == "release"]


def test_nothing_that_leaves_depends_on_the_true_count(make_site, coordinator, protocol_bytes, write_cohort) -> None:
    """Two sites that differ by one patient and declare the same size send the same fields (privacy.md, rule 2)."""
    envelopes = []
    for name, n_patients in (("north", 60), ("south", 61)):
        home = make_site(name)
        write_cohort(home.cohort, n_patients=n_patients)
        hand = Hand(home, coordinator, protocol_bytes)
        envelope = hand.ask().envelope.peek(Envelope, what="envelope")
        # The manifest is the coordinator's; the heads hide behind bytes that nobody can guess.
        envelopes.append(envelope.model_dump(exclude={"site", "payload", "ledger", "audit", "manifest"}))
        hand.site.close()

    assert envelopes[0] == envelopes[1]


def test_a_run_is_pinned_to_the_generation_of_its_first_order(north: Hand, write_cohort) -> None:
    seen = []

    def note(job, model: Vector) -> Vector:
        seen.append(job.generation)
        return work(job, model)

    for_many_runs(north.site, north.protocol.hash, runs=2)
    north.ask(by=note)
    write_cohort(north.site.home.cohort, n_patients=70)
    north.ask(by=note, round=2)
    north.ask(by=note, run="run-00000002")

    assert seen == [1, 1, 2]


@pytest.fixture
def approve_another(north: Hand, protocol_bytes: bytes):
    """Approve a second protocol at the same site, and return its hash."""

    def approved(*replaced: tuple[bytes, bytes]) -> str:
        content = protocol_bytes
        for old, new in replaced:
            content = content.replace(old, new)
        approve(north.site, content, declared_size=60)
        return parse_protocol(content).hash

    return approved


def test_a_run_id_pays_for_the_protocol_it_was_begun_with_and_for_no_other(north: Hand, approve_another) -> None:
    """The id is the coordinator's to choose: under the id of a cheap run, a dear one would train unpaid."""
    dear = approve_another((b"epsilon = 2.0\nexpected", b"epsilon = 3.0\nexpected"), (b"rounds = 3", b"rounds = 9"))
    with pytest.raises(KeyboardInterrupt):  # reserved, and nothing released that its own log could compare the rest with
        north.ask(by=killed)
    before = north.spent

    assert north.ask(protocol=dear, round=4, by=never) == Answer(refusal="policy")
    assert north.last["reason"] == "other-run"
    assert north.spent == before


def test_the_ledger_itself_refuses_an_answer_that_its_run_did_not_pay_for(north: Hand, protocol_bytes: bytes) -> None:
    from fedrad_common.errors import BudgetError

    north.ask()
    found = north.site.approved(north.protocol.hash)
    assert found is not None
    with pytest.raises(BudgetError, match="nothing was reserved"):
        north.site.ledger.reserve_answer(
            north.order(round=2), protocol=found[0], plan=found[1].model_copy(update={"noise_multiplier": 0.6}), commitment="0" * 64
        )


@pytest.mark.parametrize("model", [np.zeros(15, np.float32), np.full(16, np.nan, np.float32)], ids=["length", "nan"])
def test_an_order_that_could_never_be_answered_costs_nothing(north: Hand, model: Vector) -> None:
    order = north.order(model=vector_hash(model), length=model.size)

    assert answer(north.site, north.asked(order, model), work=never) == Answer(refusal="policy")
    assert north.last["reason"] == "malformed-model"
    assert north.spent == 0


def test_bytes_sealed_by_a_process_that_died_are_named_in_the_audit_log_before_they_leave(
    north: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fedrad_client.answer as room

    with monkeypatch.context() as patch:
        patch.setattr(room.audit, "record", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            north.ask()
    given = north.reopen().ask(by=never)
    released = [entry.body for entry in north.site.audit.entries if entry.type == "release"]

    assert [body["payload"] for body in released] == [vector_hash(given.vector)]


def test_a_policy_that_was_tightened_after_the_approval_is_obeyed(north: Hand) -> None:
    north.ask()
    path = north.site.home.path / "site.toml"
    path.write_text(path.read_text().replace("max_epsilon_per_run = 8.0", "max_epsilon_per_run = 0.1"))

    assert north.reopen().ask(round=2, by=never) == Answer(refusal="policy")
    assert north.last["reason"] == "tightened"


def test_an_approval_that_was_taken_back_is_obeyed_at_once(north: Hand) -> None:
    from fedrad_client.approval import withdraw_approval

    north.ask()
    withdraw_approval(north.site, north.protocol.hash[:8])

    assert north.ask(round=2, by=never) == Answer(refusal="policy")
    assert north.last["reason"] == "not-approved"
    assert north.spent > 0


def test_envelopes_carry_no_parameter_that_the_coordinator_sent(north: Hand) -> None:
    """q, sigma and delta come from the plan; an order has no field for them at all."""
    assert not {"noise_multiplier", "sampling_rate", "epsilon", "delta", "clip_norm", "seed"} & set(Order.model_fields)
    assert replace(north.ask()).refusal is None
