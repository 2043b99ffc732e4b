"""The site's policy as a person meets it: hours, pause file, metrics, bytes, and a limit that was tightened after the approval."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.config import SiteConfig
from fedrad_client.hours import within
from fedrad_client.policy import REASONS, refusals
from fedrad_client.site import Home, Site
from fedrad_client.site_toml import render
from fedrad_client.traffic import bytes_a_round
from fedrad_common.config import parse_toml
from fedrad_common.errors import REFUSAL_CODES, ConfigError, MisuseError
from fedrad_common.packing import vector_hash
from fedrad_common.protocol import parse_protocol, replace_settings
from fedrad_common.records import Answer, Order
from fedrad_sim.one_site import asked

MODEL = np.zeros(16, np.float32)


def at(time: str) -> datetime:
    return datetime(2026, 3, 29, int(time[:2]), int(time[3:]), tzinfo=UTC)


@pytest.fixture
def change() -> Callable[..., None]:
    """Replace one line of the policy in site.toml, as a person would."""

    def edit(home: Home, key: str, value: str) -> None:
        path = home.path / "site.toml"
        lines = path.read_text().splitlines()
        lines = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
        path.write_text("\n".join(lines) + "\n")

    return edit


@pytest.fixture
def home(make_site, protocol_bytes) -> Home:
    made = make_site()
    site = Site(made)
    approve(site, protocol_bytes, declared_size=60)
    site.close()
    return made


@pytest.fixture
def ask(coordinator, protocol_bytes) -> Callable[..., Answer]:
    def ask(home: Home, *, now: datetime | None = None, **changed: object) -> Answer:
        site = Site(home) if now is None else Site(home, now=lambda: now)
        values = {"run": "run-00000001", "epoch": 1, "round": 1, "kind": "train", "protocol": parse_protocol(protocol_bytes).hash}
        order = Order(**{**values, "model": vector_hash(MODEL), "length": MODEL.size, **changed})
        size = 16 if order.kind == "train" else 64
        try:
            return answer(site, asked(order, MODEL, coordinator, home.path), work=lambda job, model: np.ones(size, np.float32))
        finally:
            site.close()

    return ask


def last_reason(home: Home) -> str:
    site = Site(home)
    site.close()
    return site.audit.entries[-1].body["reason"]


def spent(home: Home) -> float:
    site = Site(home)
    site.close()
    return site.ledger.account.training


# ── hours ──


@pytest.mark.parametrize(
    ("hours", "time", "answers"),
    [
        ((), "03:00", True),
        (("08:00-18:00",), "08:00", True),
        (("08:00-18:00",), "17:59", True),
        (("08:00-18:00",), "18:00", False),
        (("08:00-18:00",), "07:59", False),
        (("20:00-06:00",), "20:00", True),
        (("20:00-06:00",), "00:00", True),
        (("20:00-06:00",), "05:59", True),
        (("20:00-06:00",), "06:00", False),
        (("20:00-06:00",), "12:00", False),
        (("20:00-00:00",), "23:59", True),
        (("20:00-00:00",), "00:00", False),
        (("00:00-23:59",), "00:00", True),
        (("06:00-07:00", "20:00-22:00"), "21:00", True),
        (("06:00-07:00", "20:00-22:00"), "12:00", False),
    ],
)
def test_a_span_of_hours_includes_its_beginning_and_may_go_over_midnight(hours: tuple[str, ...], time: str, answers: bool) -> None:
    assert within(hours, at(time)) == answers


def test_outside_its_hours_a_site_says_so_and_spends_nothing(home: Home, ask, change) -> None:
    change(home, "hours", '["20:00-06:00"]')

    assert ask(home, now=at("12:00")) == Answer(refusal="hours")
    assert last_reason(home) == "hours"
    assert spent(home) == 0
    assert ask(home, now=at("21:00")).envelope is not None


@pytest.mark.parametrize("hours", ['["20:00-20:00"]', '["24:00-06:00"]', '["8:00-18:00"]', '["08:00 to 18:00"]', '"08:00-18:00"'])
def test_hours_that_nobody_can_mean_are_refused_with_their_place(hours: str) -> None:
    text = render(name="north", epsilon=8.0, delta=1e-5, validation_fraction=0.2).replace("hours = []", f"hours = {hours}")

    with pytest.raises(ConfigError, match=r"site\.toml: policy\.hours"):
        parse_toml(text.encode(), SiteConfig, name="site.toml")


# ── the pause file ──


def test_a_file_that_the_hospitals_own_tools_make_pauses_the_site(home: Home, ask, change, tmp_path: Path) -> None:
    maintenance = tmp_path / "maintenance"
    change(home, "pause_file", f'"{maintenance}"')
    assert ask(home).envelope is not None

    maintenance.write_text("")
    assert ask(home, round=2) == Answer(refusal="paused")
    maintenance.unlink()
    assert ask(home, round=2).envelope is not None


def test_fedrads_own_pause_holds_whatever_file_the_policy_names(home: Home, ask, change, tmp_path: Path) -> None:
    change(home, "pause_file", f'"{tmp_path / "other"}"')
    (home.path / "paused").write_bytes(b"")

    assert ask(home) == Answer(refusal="paused")


def test_a_pause_file_that_cannot_be_looked_at_pauses(home: Home, change, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path) -> None:
        raise PermissionError(13, "forbidden")

    monkeypatch.setattr(Path, "lstat", forbidden)

    assert home.paused


# ── metrics ──


def test_without_metrics_a_site_trains_and_evaluates_nothing(make_site, protocol_bytes, ask, change) -> None:
    home = make_site()
    change(home, "metrics", '"none"')
    site = Site(home)
    seen = approve(site, protocol_bytes, declared_size=60)
    site.close()

    assert (seen.plan.evaluation, seen.evaluation_bytes) == ("none", 0)
    assert ask(home).envelope is not None
    assert ask(home, kind="evaluate") == Answer(refusal="policy")
    assert last_reason(home) == "no-evaluation"


def test_metrics_that_were_forbidden_after_the_approval_leave_no_more(home: Home, ask, change) -> None:
    assert [ask(home).refusal, ask(home, kind="evaluate").refusal] == [None, None]
    change(home, "metrics", '"none"')

    assert ask(home, kind="evaluate") == Answer(refusal="policy")  # the sealed bytes do not leave again either
    assert last_reason(home) == "no-evaluation"
    assert ask(home, round=2).envelope is not None


# ── limits ──


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tasks", '["classification"]', "task 'echo' is not accepted here: policy.tasks allows classification"),
        ("models", '["resnet"]', "model 'echo' is not accepted here: policy.models allows resnet"),
        ("models", "[]", "model 'echo' is not accepted here: policy.models allows none"),
        ("strategies", '["median"]', "aggregation 'fedavg' is not accepted here: policy.strategies allows median"),
        ("initial", '["public"]', "a start of kind 'random' is not accepted here: policy.initial allows public"),
        ("max_parameters", "15", "16 parameters is not accepted here: policy.max_parameters allows 15"),
        ("max_rounds", "2", "3 rounds is not accepted here: policy.max_rounds allows 2"),
        ("max_bytes_per_round", "400", "448 bytes a round is not accepted here: policy.max_bytes_per_round allows 400"),
        ("max_epsilon_per_run", "1.0", "epsilon 2.0 is not accepted here: policy.max_epsilon_per_run allows 1"),
    ],
)
def test_each_limit_is_obeyed_at_approval_and_after_it(
    make_site, home: Home, protocol_bytes, ask, change, key: str, value: str, said: str
) -> None:
    other = make_site("south")
    change(other, key, value)
    site = Site(other)
    with pytest.raises(MisuseError) as caught:
        approve(site, protocol_bytes, declared_size=60)
    site.close()
    assert str(caught.value) == f"protocol: {said}"

    change(home, key, value)  # approved before
    assert ask(home) == Answer(refusal="policy")
    assert last_reason(home) == "tightened"
    assert spent(home) == 0


@pytest.mark.parametrize(("key", "value"), [("min_noise_multiplier", "50.0"), ("declared_size", "61")])
def test_a_plan_that_no_longer_fits_the_policy_is_not_carried_out(home: Home, ask, change, key: str, value: str) -> None:
    change(home, key, value)

    assert ask(home) == Answer(refusal="policy")
    assert last_reason(home) == "tightened"


def test_more_noise_than_asked_for_makes_an_approval_and_no_refusal(make_site, protocol_bytes, change) -> None:
    home = make_site()
    change(home, "min_noise_multiplier", "50.0")
    site = Site(home)

    assert approve(site, protocol_bytes, declared_size=60).plan.noise_multiplier == 50.0
    site.close()


def test_the_bytes_of_a_round_are_counted_both_ways_by_the_protocols_dtype(protocol_bytes) -> None:
    protocol = parse_protocol(protocol_bytes)
    half = replace_settings(protocol, {"rounds.dtype": "float16"})
    quiet = replace_settings(protocol, {"evaluation.rounds": []})

    assert (bytes_a_round(quiet, 1000).largest, bytes_a_round(quiet, 1000).whole_run) == (8000, 3 * 8000)
    assert (bytes_a_round(protocol, 1000).largest, bytes_a_round(protocol, 1000).whole_run) == (12_256, 3 * 8000 + 2 * 4256)
    assert bytes_a_round(half, 1000).largest == 3 * 2000 + 256  # counts travel whole
    assert bytes_a_round(protocol, 1000, evaluates=False).largest == 8000


def test_a_protocol_within_every_limit_is_refused_for_nothing(home: Home, protocol_bytes) -> None:
    assert list(refusals(parse_protocol(protocol_bytes), home.config.policy, 16)) == []


def test_every_reason_leaves_as_a_code_of_the_closed_list() -> None:
    assert {code for code, _ in REASONS.values()} <= set(REFUSAL_CODES)
