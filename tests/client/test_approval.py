"""A person's yes: for how many runs it holds, what it is asked about, and what the next one is compared with."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal

from fedrad_client.answer import answer
from fedrad_client.approval import approvals, approve, preview, withdraw_approval
from fedrad_client.changes import differences
from fedrad_client.grants import Approval, Grant
from fedrad_client.preview import MEANING, facts, lines
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import AUDIT, LEDGER, Home, open_site
from fedrad_common.chain import read
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol, render_protocol, replace_settings
from fedrad_common.records import Answer, Envelope, Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)
SITE = "fedrad-site"
ONE, TWO, THREE = "run-00000001", "run-00000002", "run-00000003"


@pytest.fixture
def home(make_site) -> Home:
    return make_site()


@pytest.fixture
def ask(home: Home, coordinator, protocol_bytes) -> Callable[..., str]:
    """Ask for a round; says `answered`, or the reason that stays at the site."""

    def ask(run: str, *, number: int = 1) -> str:
        hashed = parse_protocol(protocol_bytes).hash
        order = Order(run=run, epoch=1, round=number, kind="train", protocol=hashed, model=vector_hash(MODEL), length=MODEL.size)
        with open_site(home.path) as site:
            given = answer(site, asked(order, MODEL, coordinator, home.path), work=lambda job, model: np.ones(16, np.float32))
            if given.envelope is not None:
                return "answered"
            assert given == Answer(refusal="policy")
            return site.audit.entries[-1].body["reason"]

    return ask


def accept(home: Home, content: bytes, **options: object):
    with open_site(home.path) as site:
        return approve(site, content, declared_size=60, **options)


def approved(home: Home) -> list[dict]:
    return [entry.body for entry in read(home.path / AUDIT, "audit") if entry.type == "approve"]


def look(home: Home, content: bytes, **options: object):
    opening, account, _ = read_ledger(home.path / LEDGER)
    return preview(home, opening, account, content, **{"declared_size": 60, **options})


# ── for how many runs ──


def test_an_approval_holds_for_one_run_with_all_its_rounds(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes)
    assert [ask(ONE), ask(ONE, number=2)] == ["answered"] * 2
    _, before, _ = read_ledger(home.path / LEDGER)

    assert ask(TWO) == "no-run-left"
    assert read_ledger(home.path / LEDGER)[1].training == before.training
    assert ask(ONE, number=3) == "answered"


def test_approved_again_for_more_runs_in_all_it_holds_for_the_next_one(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes)
    ask(ONE)
    accept(home, protocol_bytes, runs=2)

    assert [ask(TWO), ask(THREE), ask(ONE, number=2)] == ["answered", "no-run-left", "answered"]


def test_the_same_approval_again_adds_nothing_and_fewer_takes_nothing_back(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes, runs=2)
    accept(home, protocol_bytes, runs=2)
    accept(home, protocol_bytes)

    assert [body["runs"] for body in approved(home)] == [2]
    assert [ask(ONE), ask(TWO)] == ["answered"] * 2


def test_a_run_that_was_named_comes_on_top(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes)
    accept(home, protocol_bytes, run=THREE)

    assert [ask(THREE), ask(ONE), ask(TWO)] == ["answered", "answered", "no-run-left"]
    assert [body.get("run") for body in approved(home)] == [None, THREE]


def test_where_the_policy_wants_names_no_other_run_is_answered(home: Home, protocol_bytes, ask) -> None:
    path = home.path / "site.toml"
    accept(home, protocol_bytes, runs=2)
    path.write_text(path.read_text().replace('approval = "protocol"', 'approval = "run"'))
    assert ask(ONE) == "run-not-named"
    with pytest.raises(MisuseError, match="--run ID"):
        accept(home, protocol_bytes, runs=3)
    accept(home, protocol_bytes, run=ONE)

    assert [ask(ONE), ask(TWO)] == ["answered", "run-not-named"]


def test_what_was_taken_back_goes_on_by_name_only(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes)
    ask(ONE)
    with open_site(home.path) as site:
        withdraw_approval(site, parse_protocol(protocol_bytes).hash)
    assert ask(ONE, number=2) == "not-approved"
    accept(home, protocol_bytes)

    assert [ask(ONE, number=2), ask(TWO)] == ["run-not-named", "answered"]
    accept(home, protocol_bytes, run=ONE)
    assert ask(ONE, number=2) == "answered"


def test_without_a_word_on_runs_an_approval_holds_for_none(home: Home, protocol_bytes, ask) -> None:
    seen = accept(home, protocol_bytes)
    (home.path / "approved" / seen.protocol.hash / "approval.json").unlink()

    assert ask(ONE) == "no-run-left"


def test_a_damaged_approval_is_no_approval(home: Home, protocol_bytes) -> None:
    seen = accept(home, protocol_bytes)
    (home.path / "approved" / seen.protocol.hash / "approval.json").write_text('{"runs": 99}')

    with open_site(home.path) as site, pytest.raises(FormatError, match=r"approval\.json"):
        site.grant(seen.protocol.hash)


@pytest.mark.parametrize("run", ["RUN", "short", "run 00000001", ""])
def test_a_name_that_no_run_can_have_is_refused(home: Home, protocol_bytes, run: str) -> None:
    with pytest.raises(MisuseError, match="--run"):
        accept(home, protocol_bytes, run=run)

    assert home.approvals == []


def test_runs_are_counted_in_the_order_in_which_they_began() -> None:
    grant = Grant(2, frozenset({"named"}), ("first", "named", "second", "third"))

    assert [grant.why_not(run, by_name=False) for run in ("first", "named", "second", "third", "fourth")] == [
        None, None, None, "no-run-left", "no-run-left",
    ]  # fmt: skip
    assert (grant.used, grant.left) == (3, 0)
    assert Approval(runs=1, since=0).plus(runs=3, named="run-00000009").plus(runs=2, named=None).runs == 3


# ── what it costs ──


def test_the_cost_of_each_run_and_of_all_is_shown(home: Home, protocol_bytes) -> None:
    one, three = look(home, protocol_bytes), look(home, protocol_bytes, runs=3)

    assert one.epsilon_after == one.epsilon_after_one == three.epsilon_after_one
    assert three.epsilon_after > three.epsilon_after_one > three.epsilon_before == 0.0
    assert facts(three)["approval"] == {"runs": 3, "named": [], "begun": [], "left": 3}
    assert any("after all 3 runs that may still begin" in line for line in lines(three))
    assert not any("after all" in line for line in lines(one))


def test_what_all_runs_would_cost_together_is_what_they_cost(home: Home, protocol_bytes, ask) -> None:
    seen = accept(home, protocol_bytes, runs=2)
    ask(ONE)
    ask(TWO)

    assert look(home, protocol_bytes, runs=2).epsilon_before == pytest.approx(seen.epsilon_after, abs=1e-3)


def test_more_runs_than_the_ceiling_holds_are_not_approved_and_fewer_are(home: Home, protocol_bytes) -> None:
    most = next(runs for runs in range(2, 50) if look(home, protocol_bytes, runs=runs).obstacles)
    with pytest.raises(MisuseError, match="does not fit below this site's ceiling"):
        accept(home, protocol_bytes, runs=most)

    assert home.approvals == []
    accept(home, protocol_bytes, runs=most - 1)


def test_runs_that_were_begun_are_not_counted_twice_against_the_ceiling(home: Home, protocol_bytes, ask) -> None:
    most = next(runs for runs in range(2, 50) if look(home, protocol_bytes, runs=runs).obstacles) - 1
    accept(home, protocol_bytes, runs=1)
    ask(ONE)

    accept(home, protocol_bytes, runs=most)
    with pytest.raises(MisuseError, match="ceiling"):
        accept(home, protocol_bytes, runs=most + 1)


# ── the declared size ──


def test_a_size_that_the_policy_names_is_taken_and_no_other(make_site, protocol_bytes) -> None:
    home = make_site(declared_size=50)
    with open_site(home.path) as site:
        with pytest.raises(MisuseError, match=r"60 is not this site's: policy\.declared_size is 50"):
            approve(site, protocol_bytes, declared_size=60)
        assert approve(site, protocol_bytes).plan.declared_size == 50


def test_without_one_in_the_policy_a_size_must_be_typed(home: Home, protocol_bytes) -> None:
    with open_site(home.path) as site, pytest.raises(MisuseError, match="--declared-size: none given"):
        approve(site, protocol_bytes)


def test_a_plan_that_the_policy_changed_since_is_said_to_be_that(home: Home, protocol_bytes) -> None:
    accept(home, protocol_bytes)
    path = home.path / "site.toml"
    path.write_text(path.read_text().replace("min_noise_multiplier = 0.5", "min_noise_multiplier = 9.0"))

    with pytest.raises(MisuseError, match=r"site\.toml or the ledger's ceiling has changed since"):
        accept(home, protocol_bytes, runs=2)
    with open_site(home.path) as site, pytest.raises(MisuseError, match="declared size 60, not 50"):
        approve(site, protocol_bytes, declared_size=50)


# ── what is shown ──


def test_every_field_of_the_envelope_is_explained_or_has_its_value(home: Home, protocol_bytes) -> None:
    seen = facts(look(home, protocol_bytes))["leaves"]["envelope"]

    assert set(MEANING) == set(Envelope.model_fields)
    assert set(seen) == set(Envelope.model_fields) - {"format"}
    assert (seen["declared_size"], seen["protocol"]) == ("60", parse_protocol(protocol_bytes).hash)


def test_names_shapes_dtypes_and_bytes_are_shown_both_ways(home: Home, protocol_bytes) -> None:
    half = render_protocol(replace_settings(parse_protocol(protocol_bytes), {"rounds.dtype": "float16"}))
    value, shown = facts(look(home, half)), "\n".join(lines(look(home, half)))

    assert value["leaves"]["update"] == {"name": "vector", "dtype": "float16", "shape": [16], "bytes": 32}
    assert value["leaves"]["histogram"]["dtype"] == "float32"
    assert value["traffic"] == {"model_in": 32, "update_out": 32, "largest_round": 352, "whole_run": 3 * 64 + 2 * 288}
    for text in ("16 float16 (32 bytes)", "1 × 2 × 32 float32, 256 bytes; noised", "352 bytes in the largest round, 768 in a run"):
        assert text in shown


def test_the_next_protocol_of_a_name_is_compared_with_the_last_approved_one(home: Home, protocol_bytes) -> None:
    first = parse_protocol(protocol_bytes)
    second = replace_settings(first, {"privacy.epsilon": 1.5})
    third = replace_settings(first, {"privacy.epsilon": 1.0, "model.options.width": 8, "evaluation.epsilon": 1.0})
    assert look(home, render_protocol(first)).changes is None
    accept(home, render_protocol(second))
    accept(home, render_protocol(first))

    found = look(home, render_protocol(third)).changes
    assert found is not None
    assert found.before == first.hash  # the last one that was approved, not the last by its hash
    assert found.lines == ("evaluation.epsilon: 2.0 -> 1.0", "added model.options.width: 8", "privacy.epsilon: 2.0 -> 1.0")
    assert list(differences(third, first))[1] == "removed model.options.width: 8"
    assert look(home, render_protocol(replace_settings(first, {"name": "another"}))).changes is None


def test_approvals_are_listed_with_what_is_left_of_them(home: Home, protocol_bytes, ask) -> None:
    accept(home, protocol_bytes, runs=2)
    accept(home, protocol_bytes, run=THREE)
    ask(ONE)
    (listed,) = approvals(home)

    assert (listed.name, listed.declared_size, listed.runs, listed.named, listed.begun, listed.left) == ("tiny", 60, 2, (THREE,), (ONE,), 2)
    assert listed.epsilon == pytest.approx(2.0, abs=0.1)


def test_the_audit_log_says_under_which_policy_it_was_approved(home: Home, protocol_bytes) -> None:
    accept(home, protocol_bytes)
    path = home.path / "site.toml"
    path.write_text(path.read_text().replace("max_rounds = 200", "max_rounds = 100"))
    accept(home, protocol_bytes, runs=2)
    first, second = approved(home)

    assert first["policy"] != second["policy"]


# ── the command ──


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def command(home: Home, protocol_bytes, tmp_path: Path) -> list[object]:
    (tmp_path / "tiny.toml").write_bytes(protocol_bytes)
    return [tmp_path / "tiny.toml", "--declared-size", 60, "--home", home.path]


def test_on_a_terminal_the_preview_is_shown_and_a_yes_is_asked_for(home: Home, terminal: Terminal, command, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard("y\n"))
    said = terminal.do(SITE, "approve", *command, "--runs", 2)

    assert "what would leave" in said.err
    assert "approve it for 2 runs in all?" in said.err
    assert said.out.startswith("approved tiny ")
    assert len(home.approvals) == 1


@pytest.mark.parametrize("typed", ["n\n", "\n"])
def test_anything_but_a_yes_approves_nothing(home: Home, terminal: Terminal, command, monkeypatch, typed: str) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(typed))
    said = terminal.type(SITE, "approve", *command)

    assert (said.code, said.error, said.out) == (1, "approve: you said no", "")
    assert home.approvals == []


def test_a_script_is_asked_nothing(home: Home, terminal: Terminal, command, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    terminal.do(SITE, "approve", *command)
    monkeypatch.setattr(sys, "stdin", Keyboard())
    terminal.do(SITE, "approve", *command, "--runs", 2, "--yes")

    assert approvals(home)[0].runs == 2


def test_what_cannot_be_approved_is_refused_before_anybody_is_asked(home: Home, terminal: Terminal, command, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard())
    said = terminal.type(SITE, "approve", *command, "--runs", 500)

    assert said.code == 2
    assert "ceiling" in said.error
    assert home.approvals == []


def test_preview_shows_the_same_and_changes_nothing(home: Home, terminal: Terminal, command) -> None:
    before = (home.path / AUDIT).read_bytes()
    said = json.loads(terminal.do(SITE, "preview", *command, "--runs", 2, "--run", ONE, "--json").out)

    assert said["approval"] == {"runs": 2, "named": [ONE], "begun": [], "left": 3}
    assert (home.path / AUDIT).read_bytes() == before
    assert home.approvals == []
