"""What `fedrad-site ledger` and `privacy-statement` show: the account's own figures, upper bounds, and "no bound" where one is due."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from fakes.terminal import Terminal

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.privacy.account import epsilon_at
from fedrad_client.privacy.ledger import what_crosses
from fedrad_client.privacy.statement import spoken
from fedrad_client.site import Home, Site, open_site
from fedrad_common.accounting import GaussianEvent, epsilon_prv, rounded_up
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)


@pytest.fixture
def terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, capfd)


@pytest.fixture
def north(make_site, protocol_bytes) -> Home:
    home = make_site()
    with open_site(home.path) as site:
        approve(site, protocol_bytes, declared_size=60)
    return home


def ask(site: Site, coordinator, content: bytes, *, run: str, number: int = 1, epoch: int = 1) -> None:
    hashed = parse_protocol(content).hash
    order = Order(run=run, epoch=epoch, round=number, kind="train", protocol=hashed, model=vector_hash(MODEL), length=16)
    given = answer(site, asked(order, MODEL, coordinator, site.home.path), work=lambda job, model: np.ones(16, np.float32))
    assert given.vector is not None, given.refusal


def shown(terminal: Terminal, home: Home) -> dict:
    return json.loads(terminal.do("fedrad-site", "ledger", "--json", "--home", home.path).out)


def test_a_new_ledger_has_spent_nothing(north: Home, terminal: Terminal) -> None:
    value = shown(terminal, north)

    assert (value["reserved"], value["share"], value["left"], value["in_advance"]) == (0.0, 0.0, 1.0, 0.0)
    assert (value["bound"], value["runs"], value["marked"], value["answers"]) == (True, [], [], 0)


def test_every_number_is_computed_from_the_events_and_rounded_up(north: Home, terminal: Terminal, coordinator, protocol_bytes) -> None:
    with open_site(north.path) as site:
        approve(site, protocol_bytes, declared_size=60, runs=2)
        ask(site, coordinator, protocol_bytes, run="run-00000001")
        ask(site, coordinator, protocol_bytes, run="run-00000002")
        account, opening = site.ledger.account, site.ledger.opening
        plan = site.approved(parse_protocol(protocol_bytes).hash)[1]
    value = shown(terminal, north)
    exact = epsilon_at(account.training, order=opening.order, delta=opening.filter_delta)
    both = [GaussianEvent(plan.noise_multiplier, plan.sampling_rate, 12)]

    assert exact <= value["reserved"] < exact + 0.0011
    assert [run["epsilon"] for run in value["runs"]] == [plan.epsilon, plan.epsilon]
    assert value["in_advance"] == epsilon_prv(both, opening.filter_delta) > plan.epsilon
    assert value["in_advance"] < value["reserved"] < opening.epsilon
    assert value["share"] == account.training / opening.budget
    assert 0 < value["numeric_delta"] <= value["ceiling"]["numeric_delta"]


def test_the_lines_print_both_numbers_and_what_each_is_worth(north: Home, terminal: Terminal, coordinator, protocol_bytes) -> None:
    with open_site(north.path) as site:
        ask(site, coordinator, protocol_bytes, run="run-00000001")
    value, out = shown(terminal, north), terminal.do("fedrad-site", "ledger", "--home", north.path).out

    assert "ceiling     epsilon 8 at delta 0.001: holds whatever happens" in out
    assert f"in advance  epsilon {value['in_advance']:.3f} if all of this had been fixed in advance (PRV, upper)" in out
    assert re.search(rf"reserved +█+░+ {value['share']:.0%} of the filter; epsilon {value['reserved']:.3f}", out)
    assert value["head"] in out
    assert "NO BOUND" not in out


def test_a_repeated_answer_is_counted_in_its_run(north: Home, terminal: Terminal, coordinator, protocol_bytes) -> None:
    with open_site(north.path) as site:
        protocol, plan = site.approved(parse_protocol(protocol_bytes).hash)
        site.ledger.reserve_run("run-00000001", protocol=protocol, plan=plan, generation=1)
        before = site.ledger.account.training
        ask(site, coordinator, protocol_bytes, run="run-00000001")
        assert site.ledger.account.training == before
        order = Order(run="run-00000001", epoch=2, round=1, kind="train", protocol=protocol.hash, model="0" * 64, length=16)
        site.ledger.reserve_answer(order, protocol=protocol, plan=plan, commitment="0" * 64)
    run = shown(terminal, north)["runs"][0]

    assert (run["steps"], run["steps_again"]) == (6, 2)
    assert run["epsilon"] > plan.epsilon
    assert "6 + 2 again" in terminal.do("fedrad-site", "ledger", "--home", north.path).out


def test_the_page_shows_the_same_figures_and_fetches_nothing(
    north: Home, terminal: Terminal, coordinator, protocol_bytes, tmp_path: Path
) -> None:
    with open_site(north.path) as site:
        ask(site, coordinator, protocol_bytes, run="run-00000001")
    terminal.do("fedrad-site", "ledger", "--html", tmp_path / "ledger.html", "--home", north.path)
    page, value = (tmp_path / "ledger.html").read_text(), shown(terminal, north)

    assert f"{value['reserved']:.3f}" in page
    assert f"{value['in_advance']:.3f}" in page
    assert "run-00000001" in page
    assert "hold" in page
    assert "default-src 'none'" in page  # the browser fetches nothing, whatever the drawing library would like


def test_no_name_of_a_part_of_a_page_hides_another(north: Home, terminal: Terminal, tmp_path: Path) -> None:
    """The drawings' data is found by its id: a section of the same id once left the statement without its drawing."""
    for command in ("ledger", "privacy-statement"):
        terminal.do("fedrad-site", command, "--html", tmp_path / "page.html", "--force", "--home", north.path)
        named = re.findall(r'<\w+[^<>]* id="([\w-]+)"', (tmp_path / "page.html").read_text())

        assert "figures" in named
        assert len(named) == len(set(named))


@pytest.mark.parametrize("command", ["ledger", "privacy-statement"])
def test_a_page_overwrites_nothing_unasked_and_makes_no_folder(north: Home, terminal: Terminal, tmp_path: Path, command: str) -> None:
    (tmp_path / "notes.html").write_text("mine")

    said = terminal.fail("fedrad-site", command, "--html", tmp_path / "notes.html", "--home", north.path)
    assert said.error == "--html: notes.html: exists already"
    said = terminal.fail("fedrad-site", command, "--html", tmp_path / "missing" / "page.html", "--home", north.path)
    assert said.error == "--html: page.html: there is no such folder"


@pytest.mark.parametrize("command", ["ledger", "privacy-statement"])
def test_what_is_not_covered_is_said_wherever_epsilon_is_printed(north: Home, terminal: Terminal, command: str) -> None:
    out = " ".join(terminal.do("fedrad-site", command, "--home", north.path).out.split())

    assert "Not covered" in out
    assert "attacks on the site's own machine" in out


def test_what_a_charge_would_cross_is_named_by_its_own_line(north: Home) -> None:
    with open_site(north.path) as site:
        opening, account = site.ledger.opening, site.ledger.account
    nothing = {"cost": 0.0, "validation_cost": 0.0, "numeric_delta": 0.0}

    assert what_crosses(opening, account, **nothing) is None
    assert "epsilon 8 of training patients" in str(what_crosses(opening, account, **{**nothing, "cost": 100.0}))
    assert "epsilon 10 of validation patients" in str(what_crosses(opening, account, **{**nothing, "validation_cost": 100.0}))
    assert "set aside for arithmetic" in str(what_crosses(opening, account, **{**nothing, "numeric_delta": 1.0}))


def test_the_ledger_can_be_read_while_the_node_answers(north: Home, terminal: Terminal) -> None:
    with open_site(north.path):
        assert shown(terminal, north)["site"] == "north"


def test_verify_says_what_was_checked(north: Home, terminal: Terminal, coordinator, protocol_bytes) -> None:
    with open_site(north.path) as site:
        ask(site, coordinator, protocol_bytes, run="run-00000001")
    head = shown(terminal, north)["head"]
    value = json.loads(terminal.do("fedrad-site", "ledger", "verify", "--head", head, "--json", "--home", north.path).out)

    assert (value["entries"], value["head"], value["releases"]) == (3, head, 1)
    assert value["witnesses"] == ["the head that was given is in the ledger"]
    said = terminal.fail("fedrad-site", "ledger", "verify", "--head", "ab" * 32, "--home", north.path, code=1)
    assert "never had the head that was given" in said.error


def test_the_statement_says_its_words_and_this_sites_figures(
    north: Home, terminal: Terminal, coordinator, protocol_bytes, tmp_path: Path
) -> None:
    with open_site(north.path) as site:
        ask(site, coordinator, protocol_bytes, run="run-00000001")
    terminal.do("fedrad-site", "privacy-statement", "--html", tmp_path / "statement.html", "--home", north.path)
    page, value = (tmp_path / "statement.html").read_text(), shown(terminal, north)
    out = terminal.do("fedrad-site", "privacy-statement", "--home", north.path).out
    flat = " ".join(out.split())

    for text in (*spoken()["promise"], *spoken()["words"].values(), *spoken()["limits"]):
        assert text in flat
        assert text.replace("'", "&#x27;").replace('"', "&quot;") in page or text in page
    assert "ε 8 at δ 0.001, per patient, over the site's lifetime" in flat
    assert f"ε {value['reserved']:.3f}" in flat
    assert "declared size 60" in flat
    assert value["head"] in flat


def test_the_statement_names_no_count_of_patients(make_site, write_cohort, terminal: Terminal, protocol_bytes) -> None:
    said = []
    for name, n_patients in (("east", 60), ("west", 61)):
        home = make_site(name)
        write_cohort(home.cohort, n_patients=n_patients)
        with open_site(home.path) as site:
            approve(site, protocol_bytes, declared_size=60)
        value = json.loads(terminal.do("fedrad-site", "privacy-statement", "--json", "--home", home.path).out)
        said.append({key: value[key] for key in ("total", "validation_fraction", "policy", "protocols")})

    assert said[0] == said[1]


def test_a_patient_at_two_hospitals_bears_at_most_the_sum(
    make_site, terminal: Terminal, coordinator, protocol_bytes, tmp_path: Path
) -> None:
    homes = [make_site(name) for name in ("north", "south")]
    for home in homes:
        with open_site(home.path) as site:
            approve(site, protocol_bytes, declared_size=60)
            ask(site, coordinator, protocol_bytes, run="run-00000001")
    printed = tmp_path / "south.json"
    printed.write_text(terminal.do("fedrad-site", "ledger", "--json", "--home", homes[1].path).out)
    alone = shown(terminal, homes[0])
    both = json.loads(terminal.do("fedrad-site", "ledger", "with", printed, "--json", "--home", homes[0].path).out)

    assert (both["sites"], both["ceiling"], both["delta"]) == (["north", "south"], 16.0, 0.002)
    assert alone["in_advance"] < both["planned"] < 2 * alone["in_advance"]
    assert "epsilon 16 holds whatever happens" in terminal.do("fedrad-site", "ledger", "with", printed, "--home", homes[0].path).out
    assert "same site" in terminal.fail("fedrad-site", "ledger", "with", printed, "--home", homes[1].path).error
    printed.write_text("{}")
    assert "is no printed ledger" in terminal.fail("fedrad-site", "ledger", "with", printed, "--home", homes[0].path, code=1).error


@pytest.mark.parametrize("epsilon", [0.0, 1e-9, 1.0, 2.0004, 7.9999999, math.inf])
def test_a_printed_epsilon_is_never_below_the_true_one(epsilon: float) -> None:
    assert epsilon <= rounded_up(epsilon) < epsilon + 0.0011 or math.isinf(epsilon)
