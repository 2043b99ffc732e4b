"""A lost ledger is replaced only by a person, under a new identity, and its whole ceiling counts as spent."""

import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal

from fedrad_client import audit
from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.audit import KIND
from fedrad_client.recovery import accept_clock, recover
from fedrad_client.site import AUDIT, Home, open_site
from fedrad_common.chain import Chain, utc_now
from fedrad_common.errors import BusyError, ChainError, ClockError, MisuseError
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)


def work(job, model):
    return np.random.default_rng(list(job.secret)).normal(size=16).astype(np.float32)


def ask(home: Home, coordinator, protocol: bytes, *, run: str = "run-00000002") -> Answer:
    hashed = parse_protocol(protocol).hash
    order = Order(run=run, epoch=1, round=1, kind="train", protocol=hashed, model=vector_hash(MODEL), length=16)
    with open_site(home.path) as site:
        return answer(site, asked(order, MODEL, coordinator, home.path), work=work)


def approved(home: Home, protocol: bytes) -> Home:
    with open_site(home.path) as site:
        approve(site, protocol, declared_size=60, runs=2)
    return home


@pytest.fixture
def north(make_site, coordinator, protocol_bytes) -> Home:
    home = approved(make_site(), protocol_bytes)
    assert ask(home, coordinator, protocol_bytes, run="run-00000001").envelope is not None
    return home


def damage(home: Home) -> None:
    path = home.path / "ledger.chain"
    path.write_bytes(path.read_bytes()[:-40])


def test_a_damaged_ledger_stops_the_site_until_somebody_assumes_it_spent(north: Home, coordinator, protocol_bytes) -> None:
    before = north.envelope_key.public
    damage(north)
    with pytest.raises(ChainError):
        ask(north, coordinator, protocol_bytes)
    done = recover(north, new_ceiling=None)

    assert done.earlier_epsilon == 8.0
    assert north.envelope_key.public != before
    assert north.envelope_key.public.hex == done.identity
    assert north.approvals == []  # a person decides anew
    assert ask(north, coordinator, protocol_bytes) == Answer(refusal="policy")


def test_without_a_new_ceiling_nothing_more_can_be_approved_or_spent(north: Home, coordinator, protocol_bytes) -> None:
    damage(north)
    recover(north, new_ceiling=None)

    with pytest.raises(MisuseError, match="does not fit below"):
        approved(north, protocol_bytes)


def test_a_new_ceiling_comes_on_top_of_what_is_assumed_spent(north: Home, coordinator, protocol_bytes) -> None:
    damage(north)
    done = recover(north, new_ceiling=8.0)
    approved(north, protocol_bytes)

    assert ask(north, coordinator, protocol_bytes).envelope is not None
    with open_site(north.path) as site:
        assert (site.ledger.opening.epsilon, site.ledger.opening.earlier_epsilon) == (8.0, 8.0)
        assert done.delta == pytest.approx(2e-3)


def test_a_round_that_was_answered_before_the_loss_is_not_answered_again(north: Home, coordinator, protocol_bytes) -> None:
    damage(north)
    recover(north, new_ceiling=8.0)
    approved(north, protocol_bytes)

    assert ask(north, coordinator, protocol_bytes, run="run-00000001") == Answer(refusal="policy")


def test_a_new_ceiling_below_the_one_in_the_settings_is_refused_before_anything_moves(north: Home) -> None:
    damage(north)
    before = {path: path.read_bytes() for path in north.path.rglob("*") if path.is_file()}

    with pytest.raises(MisuseError, match=r"--new-ceiling: 2 is below .* epsilon = 8"):
        recover(north, new_ceiling=2.0)
    assert {path: path.read_bytes() for path in north.path.rglob("*") if path.is_file()} == before


def test_a_second_loss_adds_up(north: Home) -> None:
    damage(north)
    recover(north, new_ceiling=8.0)
    damage(north)

    assert recover(north, new_ceiling=8.0).earlier_epsilon == 16.0


def test_a_ledger_of_which_nothing_is_left_costs_the_ceiling_in_the_settings(north: Home) -> None:
    for name in ("ledger.chain", "ledger.chain.mark"):
        (north.path / name).unlink()

    assert recover(north, new_ceiling=None).earlier_epsilon == 8.0


def rewritten(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) >= 1
    path.write_bytes(content.replace(old, new, 1))


def test_a_ceiling_in_a_damaged_first_line_is_not_believed(north: Home) -> None:
    rewritten(north.path / "ledger.chain", b'"epsilon":8.0', b'"epsilon":0.1')

    assert recover(north, new_ceiling=None).earlier_epsilon == 8.0  # as the audit log says


def test_a_ceiling_that_was_tightened_after_it_was_spent_counts_as_it_was(north: Home) -> None:
    rewritten(north.path / "site.toml", b"epsilon = 8.0", b"epsilon = 0.5")
    for name in ("ledger.chain", "ledger.chain.mark"):
        (north.path / name).unlink()

    assert recover(north, new_ceiling=0.5).earlier_epsilon == 8.0


def test_with_both_logs_gone_the_settings_are_all_that_is_left(north: Home) -> None:
    for name in ("ledger.chain", "ledger.chain.mark", "audit.chain.mark"):
        (north.path / name).unlink()
    recover(north, new_ceiling=8.0)

    with open_site(north.path) as site:
        assert site.ledger.opening.earlier_epsilon == 8.0
        assert site.ledger.opening.earlier_unbounded == ("unknown",)


def test_the_validation_patients_line_is_lost_with_its_ceiling(north: Home, tmp_path: Path, capfd) -> None:
    damage(north)
    recover(north, new_ceiling=8.0)
    terminal = Terminal(tmp_path, capfd)

    with open_site(north.path) as site:
        assert site.ledger.opening.earlier_validation_epsilon == 10.0
    assert "and 10 of the validation patients' line" in terminal.do("fedrad-site", "ledger", "--home", north.path).out
    statement = " ".join(terminal.do("fedrad-site", "privacy-statement", "--home", north.path).out.split())
    assert "validation patients of lost ledgers ε 10 is assumed spent" in statement


def test_what_is_set_aside_is_kept_and_never_sent_again(north: Home) -> None:
    sealed = [path.read_bytes() for path in (north.path / "outbox").iterdir()]
    damage(north)
    kept = north.path / recover(north, new_ceiling=None).kept

    assert [path.read_bytes() for path in (kept / "outbox").iterdir()] == sealed
    assert {"ledger.chain", "ledger.chain.mark", "envelope.key", "approved"} <= {path.name for path in kept.iterdir()}
    assert list((north.path / "outbox").iterdir()) == []


def test_patients_keep_their_part_and_their_pseudonym(north: Home) -> None:
    secret, cohort = north.pseudonym_secret, sorted(path.name for path in north.cohort.rglob("*"))
    with open_site(north.path) as site:
        fraction = site.ledger.opening.validation_fraction
    damage(north)
    recover(north, new_ceiling=8.0)

    assert north.pseudonym_secret == secret
    assert sorted(path.name for path in north.cohort.rglob("*")) == cohort
    with open_site(north.path) as site:
        assert site.ledger.opening.validation_fraction == fraction


@pytest.mark.parametrize("moved", range(4))
def test_a_recovery_that_was_interrupted_leaves_a_site_that_refuses_and_is_run_again(
    north: Home, coordinator, protocol_bytes, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    damage(north)
    real, count = Path.rename, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > moved + 1:  # the first is the prepared folder's
            raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            recover(north, new_ceiling=8.0)
    with pytest.raises(ChainError):
        ask(north, coordinator, protocol_bytes)

    assert recover(north, new_ceiling=8.0).earlier_epsilon >= 8.0
    approved(north, protocol_bytes)
    assert ask(north, coordinator, protocol_bytes).envelope is not None


def test_a_recovery_that_died_at_once_does_not_silence_the_audit_log(
    north: Home, coordinator, protocol_bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older ledger that is put back after it is noticed as before."""
    older = north.path.parent / "older"
    shutil.copytree(north.path, older)
    assert ask(north, coordinator, protocol_bytes).envelope is not None

    def dying(home: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedrad_client.recovery._set_aside", dying)
        with pytest.raises(KeyboardInterrupt):
            recover(north, new_ceiling=None)
    for name in ("ledger.chain", "ledger.chain.mark"):
        shutil.copy(older / name, north.path / name)

    with pytest.raises(ChainError, match="lacks the payment of 1 answers"):
        ask(north, coordinator, protocol_bytes, run="run-00000003")


def test_a_ledger_that_a_witness_contradicted_was_spent_by_a_clone_too(north: Home) -> None:
    with open_site(north.path) as site:
        site.ledger.contradict(run="run-00000001", round=1, sequence=9, head="0" * 64)

    assert recover(north, new_ceiling=None).earlier_epsilon == 16.0


def test_a_lost_ledger_under_a_clock_that_went_back_has_a_way_out(north: Home, coordinator, protocol_bytes) -> None:
    damage(north)
    with Chain.open(north.path / AUDIT, KIND, clock=lambda: utc_now() + timedelta(days=30)) as log:
        audit.record(log, "pause")
    with pytest.raises(ClockError, match="the clock says"):
        recover(north, new_ceiling=8.0)

    assert accept_clock(north) == (AUDIT,)
    recover(north, new_ceiling=8.0)
    approved(north, protocol_bytes)
    assert ask(north, coordinator, protocol_bytes).envelope is not None


def test_a_running_site_is_not_recovered(north: Home) -> None:
    with open_site(north.path), pytest.raises(BusyError):
        recover(north, new_ceiling=None)


def test_a_damaged_audit_log_is_set_aside_with_the_ledger(north: Home, coordinator, protocol_bytes) -> None:
    damage(north)
    (north.path / "audit.chain.mark").unlink()
    recover(north, new_ceiling=8.0)
    approved(north, protocol_bytes)

    assert ask(north, coordinator, protocol_bytes).envelope is not None
    assert len(list((north.path / "lost").glob("*/audit.chain"))) == 1


def test_the_command_says_what_it_costs_and_needs_a_choice(north: Home, tmp_path: Path, capfd) -> None:
    terminal = Terminal(tmp_path, capfd)
    assert "nothing chosen" in terminal.fail("fedrad-site", "ledger", "recover", "--home", north.path).error
    damage(north)
    said = terminal.do("fedrad-site", "ledger", "recover", "--assume-spent", "--home", north.path)

    assert "epsilon 8 of the lost ledger is assumed spent; nothing more may be spent" in said.out
    shown = terminal.do("fedrad-site", "ledger", "--home", north.path).out
    assert "allows nothing more" in shown
    assert "reserved    ██████████████████████████████ 100% of the filter; epsilon 8.000" in shown
    assert "on top of this one" not in shown  # the new ledger's own ceiling, all of it spent, stands for the lost one
    said = terminal.do("fedrad-site", "ledger", "recover", "--assume-spent", "--new-ceiling", "8", "--home", north.path)
    assert "epsilon 8 of the lost ledger is assumed spent; epsilon 8 may be spent on top" in said.out
    shown = terminal.do("fedrad-site", "ledger", "--home", north.path).out
    assert "epsilon 8 of a lost ledger is assumed spent, on top of this one" in shown


def test_a_copy_of_the_site_that_was_not_recovered_is_another_identity(north: Home, coordinator, protocol_bytes) -> None:
    """Its envelopes are signed by a key that the coordinator no longer knows, once the new one is admitted."""
    copied = north.path.parent / "copy"
    shutil.copytree(north.path, copied)
    damage(north)
    recover(north, new_ceiling=8.0)

    shutil.copy(copied / "ledger.chain", north.path / "ledger.chain")
    shutil.copy(copied / "ledger.chain.mark", north.path / "ledger.chain.mark")
    with pytest.raises(ChainError, match="another site identity"):
        ask(north, coordinator, protocol_bytes)
