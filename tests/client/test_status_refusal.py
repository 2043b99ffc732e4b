"""A hospital sees why its site said no; the coordinator sees a code."""

import logging
import os

import pytest
from fakes.patients import Asking, network_protocol

from fedrad_client import audit
from fedrad_client.answer import answer
from fedrad_client.cli import app
from fedrad_client.policy import REASONS, REMEDIES
from fedrad_client.site import open_site
from fedrad_client.status import facts, lines
from fedrad_client.work import run_inline
from fedrad_common.chain import Chain
from fedrad_common.cli import run_cli
from fedrad_sim.one_site import asked


def test_the_reason_of_the_last_refusal_is_shown_with_what_to_do(make_site, coordinator, protocol_bytes, caplog) -> None:
    ask = Asking.approved(make_site(), coordinator, network_protocol(protocol_bytes))
    assert facts(ask.home)["last_refusal"] == "never"
    (ask.home.path / "paused").write_bytes(b"")
    with caplog.at_level(logging.INFO), open_site(ask.home.path) as site:
        answer(site, asked(ask.order(run="run-00000001"), ask.model, ask.key, ask.home.path), work=run_inline)

    said = facts(ask.home)["last_refusal"]
    assert said.endswith("run-00000001 round 1: this site is paused; fedrad-site resume")
    assert any("this site is paused" in line for line in lines(facts(ask.home)))
    assert "refused: this site is paused" in caplog.text


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_each_reason_can_be_shown(make_site, reason: str) -> None:
    home = make_site()
    with Chain.open(home.path / "audit.chain", audit.KIND) as chain:
        audit.Refusals().record(chain, code=REASONS[reason][0], reason=reason)

    assert REASONS[reason][1] in facts(home)["last_refusal"]


def test_every_remedy_is_of_a_reason_that_there_is() -> None:
    assert set(REMEDIES) <= set(REASONS)


@pytest.mark.parametrize("words", [["pause"], ["ingest", "somewhere", "--protocol", "p.toml"], ["withdraw"], ["ledger"]], ids=" ".join)
def test_another_account_even_root_works_on_no_site_of_somebody_else(make_site, monkeypatch, capsys, words) -> None:
    home, owner = make_site().path, os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SystemExit) as end:
        run_cli(app, "fedrad-site", [*words, "--home", str(home)])

    assert end.value.code == 2
    assert f"hint: run this as that account: sudo -u '#{owner}'" in capsys.readouterr().err
    assert not (home / "paused").exists()


@pytest.mark.parametrize("words", [["status"], ["doctor"]], ids=" ".join)
def test_looking_is_for_everybody_who_may_read(make_site, monkeypatch, capsys, words) -> None:
    home, owner = make_site().path, os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SystemExit):
        run_cli(app, "fedrad-site", [*words, "--home", str(home)])

    assert "another account" not in capsys.readouterr().err
