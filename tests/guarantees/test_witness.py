"""A restored or cloned ledger is noticed as long as one witness outside it is honest; a clone sends the same bytes or independent noise."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.recovery import LOST, recover
from fedrad_client.site import Home, open_site
from fedrad_client.witness import check_file, check_head
from fedrad_common.errors import ChainError, MisuseError
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Envelope, Order, Receipt, RoundManifest, Sent, Signed, sign
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)
LOGS = ("ledger.chain", "ledger.chain.mark", "audit.chain", "audit.chain.mark")


def work(job, model):
    return np.random.default_rng(list(job.secret)).normal(size=16).astype(np.float32)


def ask(home: Home, coordinator: SigningKey, protocol: bytes, *, number: int = 1, witness: Signed | None = None) -> Answer:
    parsed = parse_protocol(protocol)
    order = Order(run="run-00000001", epoch=1, round=number, kind="train", protocol=parsed.hash, model=vector_hash(MODEL), length=16)
    with open_site(home.path) as site:
        return answer(site, asked(order, MODEL, coordinator, home.path, answer=witness), work=work)


def spent(home: Home) -> float:
    with open_site(home.path) as site:
        return site.ledger.account.training


@pytest.fixture
def north(make_site, protocol_bytes) -> Home:
    home = make_site()
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    return home


def copy(home: Home, name: str) -> Home:
    shutil.copytree(home.path, home.path.parent / name)
    return Home(home.path.parent / name)


def restore(home: Home, backup: Path, *names: str) -> None:
    for name in names:
        shutil.copy(backup / name, home.path / name)


def test_a_ledger_restored_with_its_mark_is_noticed_by_the_audit_log(north: Home, coordinator, protocol_bytes) -> None:
    backup = copy(north, "backup").path
    ask(north, coordinator, protocol_bytes)
    restore(north, backup, *LOGS[:2])

    with pytest.raises(ChainError, match="lacks the payment of 1 answers"):
        ask(north, coordinator, protocol_bytes)


def test_a_whole_restored_site_is_noticed_at_the_next_order_and_nothing_leaves_any_more(north: Home, coordinator, protocol_bytes) -> None:
    backup = copy(north, "backup")
    held = ask(north, coordinator, protocol_bytes).envelope
    assert ask(backup, coordinator, protocol_bytes, number=2, witness=held) == Answer(refusal="internal")

    assert ask(backup, coordinator, protocol_bytes, number=2) == Answer(refusal="internal")  # for good, whatever comes next
    with open_site(backup.path) as site:
        assert site.ledger.account.contradicted
        assert site.audit.entries[-1].body["reason"] == "contradicted"
        assert site.ledger.run("run-00000001") is None  # nothing was reserved, nothing trained


def test_without_a_witness_a_whole_restored_site_would_answer(north: Home, coordinator, protocol_bytes) -> None:
    """The positive control: what the witness is for."""
    backup = copy(north, "backup")
    ask(north, coordinator, protocol_bytes)

    assert ask(backup, coordinator, protocol_bytes).envelope is not None


def test_a_clone_made_before_the_order_sends_independent_noise_and_both_are_charged(north: Home, coordinator, protocol_bytes) -> None:
    clone = copy(north, "clone")
    first, second = ask(north, coordinator, protocol_bytes), ask(clone, coordinator, protocol_bytes)

    assert first.vector is not None
    assert second.vector is not None
    assert not np.isin(first.vector, second.vector).any()
    assert min(spent(north), spent(clone)) > 0
    # The coordinator has accepted the first; the clone learns of it with its next order.
    assert ask(clone, coordinator, protocol_bytes, number=2, witness=first.envelope) == Answer(refusal="internal")
    assert ask(north, coordinator, protocol_bytes, number=2, witness=first.envelope).envelope is not None


def test_a_clone_made_after_the_seal_sends_the_same_bytes(north: Home, coordinator, protocol_bytes) -> None:
    first = ask(north, coordinator, protocol_bytes)
    clone = copy(north, "clone")
    second = ask(clone, coordinator, protocol_bytes, witness=first.envelope)

    assert second.envelope == first.envelope
    assert second.vector.tobytes() == first.vector.tobytes()
    assert spent(clone) == spent(north)


def test_a_clone_made_between_reservation_and_seal_sends_independent_noise_that_both_pay(north: Home, coordinator, protocol_bytes) -> None:
    def killed(job, model):
        raise KeyboardInterrupt

    parsed = parse_protocol(protocol_bytes)
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol=parsed.hash, model=vector_hash(MODEL), length=16)
    with open_site(north.path) as site, pytest.raises(KeyboardInterrupt):
        answer(site, asked(order, MODEL, coordinator, north.path), work=killed)
    reserved = spent(north)
    clone = copy(north, "clone")
    first, second = ask(north, coordinator, protocol_bytes), ask(clone, coordinator, protocol_bytes)

    assert not np.isin(first.vector, second.vector).any()
    assert min(spent(north), spent(clone)) > reserved


def test_an_envelope_that_the_site_never_signed_proves_nothing(north: Home, coordinator, protocol_bytes) -> None:
    """Else any coordinator could stop a site for all the others."""
    held = ask(north, coordinator, protocol_bytes).envelope
    forged = sign(held.peek(Envelope, what="envelope").model_copy(update={"ledger": "0" * 64}), SigningKey.generate())

    assert ask(north, coordinator, protocol_bytes, number=2, witness=forged).envelope is not None


def receipt(given: Answer, key: SigningKey, **changed: object) -> Signed:
    envelope = given.envelope.peek(Envelope, what="envelope")
    values = {name: getattr(envelope, name) for name in ("site", "run", "round", "kind", "payload", "sequence", "ledger")}
    return sign(Receipt(**{**values, "envelope": given.envelope.digest, **changed}), key)


def compare(home: Home, path: Path, record: Signed) -> str:
    path.write_text(record.model_dump_json())
    with open_site(home.path) as site:
        return check_file(site, path, lost=home.path / LOST)


def test_receipts_envelopes_manifests_and_heads_on_paper_are_witnesses(north: Home, coordinator, protocol_bytes, tmp_path) -> None:
    older = copy(north, "older")
    given = ask(north, coordinator, protocol_bytes)
    envelope = given.envelope.peek(Envelope, what="envelope")
    manifest = RoundManifest(
        run=envelope.run, epoch=1, round=1, protocol=envelope.protocol, launch="3" * 64, previous="0" * 64, model="1" * 64,
        state="2" * 64, released="1" * 64, sent=Sent(train="1" * 64, evaluate="1" * 64), updates={"north": envelope.payload},
        events="4" * 64,
    )  # fmt: skip
    records = (given.envelope, receipt(given, coordinator), sign(manifest, coordinator))
    for record in records:
        assert "is in the" in compare(north, tmp_path / "witness.json", record)
        with pytest.raises(ChainError, match="not know"):
            compare(older, tmp_path / "witness.json", record)
    with open_site(north.path) as site:
        assert "is in the ledger" in check_head(site.ledger, envelope.ledger.upper() + "\n", lost=north.path / LOST)
    with open_site(older.path) as site, pytest.raises(ChainError, match="never had the head"):
        check_head(site.ledger, envelope.ledger, lost=older.path / LOST)


def test_witnesses_of_a_ledger_that_a_person_replaced_raise_no_alarm(north: Home, coordinator, protocol_bytes, tmp_path) -> None:
    given = ask(north, coordinator, protocol_bytes)
    head = given.envelope.peek(Envelope, what="envelope").ledger
    (north.path / "ledger.chain.mark").unlink()
    recover(north, new_ceiling=8.0)

    for record in (given.envelope, receipt(given, coordinator)):
        assert "set aside" in compare(north, tmp_path / "witness.json", record)
    with open_site(north.path) as site:
        assert "set aside" in check_head(site.ledger, head, lost=north.path / LOST)
        with pytest.raises(ChainError, match="never had the head"):
            check_head(site.ledger, "ab" * 32, lost=north.path / LOST)


def test_a_witness_for_another_site_or_of_another_kind_is_misuse(north: Home, coordinator, protocol_bytes, tmp_path) -> None:
    given = ask(north, coordinator, protocol_bytes)
    order = Order(run="run-00000001", epoch=1, round=1, kind="train", protocol="0" * 64, model="1" * 64, length=1)

    with pytest.raises(MisuseError, match="another site's receipt"):
        compare(north, tmp_path / "witness.json", receipt(given, coordinator, site="south"))
    with pytest.raises(MisuseError, match="is no witness"):
        compare(north, tmp_path / "witness.json", sign(order, coordinator))
