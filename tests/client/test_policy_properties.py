"""Over random policies, protocols and orders: what is accepted lies within the policy, and a tighter policy never accepts more.

What a policy means is written down here a second time, by itself. With any one limit taken out of the code these tests fail.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedrad_client import policy as rules
from fedrad_client.config import Policy
from fedrad_client.grants import Grant
from fedrad_client.policy import check_order, plan_refusals, refusals
from fedrad_client.privacy.plan import Plan
from fedrad_common.errors import Refusal
from fedrad_common.protocol import TrainingProtocol, replace_settings
from fedrad_common.records import Order

MODEL, OTHER = "ab" * 32, "cd" * 32
RUNS = ("run-00000001", "run-00000002", "run-00000003")
SIZES = (10, 1000)  # parameters
quick = settings(
    max_examples=250, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """So that a case often breaks one limit and keeps all others."""
    return st.sampled_from((usual,) * 5 + others)


# ── random things ──

BASE = TrainingProtocol.model_validate_json("""{
    "format": "fedrad-protocol-1", "name": "tiny", "task": {"kind": "classification", "labels": ["lesion"]},
    "input": {"profile": "xr", "height": 8, "width": 8}, "model": {"name": "resnet"},
    "privacy": {"unit": "patient", "epsilon": 2.0, "expected_batch": 5.0, "steps_per_round": 2, "rounds": 3},
    "training": {"learning_rate": 0.1}, "rounds": {"quorum": 3, "deadline_seconds": 5.0},
    "evaluation": {"epsilon": 1.0, "rounds": []}
}""")


@st.composite
def protocols(draw: st.DrawFn) -> TrainingProtocol:
    n_rounds = draw(mostly(3, 12))
    exact = draw(st.sampled_from([False, False, True]))
    changed: dict[str, object] = {
        "task.kind": draw(mostly("classification", "echo")),
        "model.name": draw(mostly("resnet", "scattering")),
        "aggregation.strategy": draw(mostly("fedavg", "median")),
        "privacy.rounds": n_rounds,
        "rounds.dtype": draw(st.sampled_from(["float32", "float16"])),
        "evaluation.rounds": draw(st.sampled_from([[], [n_rounds]])),
        "evaluation.release": "exact" if exact else "noised",
    }
    epsilon = draw(mostly(2.0, 9.0, None))
    changed |= {"privacy.epsilon": epsilon, "privacy.unit": "none" if epsilon is None else "patient"}
    if draw(st.booleans()):
        unit, trained_by = draw(mostly("patient", "none")), draw(mostly(OTHER, MODEL))
        changed["rounds.dtype"] = "float32"  # no other starts from a run's weights
        changed["model.initial"] = {"kind": "run", "model": MODEL, "protocol": trained_by, "unit": unit}
    return replace_settings(BASE, changed)


ACCEPTED_HOURS = st.sampled_from([(), ("08:00-18:00",), ("20:00-06:00",), ("08:00-09:00", "20:00-06:00")])
POLICIES = st.builds(
    Policy,
    tasks=mostly(("classification", "echo"), ("classification",), ("echo",), ()),
    models=mostly(("any",), ("resnet", "scattering"), ("resnet",), ()),
    strategies=mostly(("any",), ("fedavg", "median"), ("median",), ()),
    initial=mostly(("any",), ("random", "run"), ("random",), ()),
    max_parameters=mostly(1000, 10, 100),
    max_rounds=mostly(12, 3, 2),
    max_bytes_per_round=mostly(100_000, 8256, 8000, 4000, 80),
    max_epsilon_per_run=mostly(9.0, 2.0, 1.0),
    min_noise_multiplier=mostly(0.5, 1.0, 4.0),
    declared_size=mostly(0, 60, 50),
    metrics=mostly("exact", "noised", "noised", "none", "none"),
    unbounded=mostly(True, False),
    approval=mostly("protocol", "run"),
    hours=ACCEPTED_HOURS,
)
# Whose limits on protocols are so wide that what is left of them is about orders.
WIDE = st.builds(
    Policy,
    tasks=st.just(("classification", "echo")),
    max_parameters=mostly(1001, 1000),
    max_epsilon_per_run=st.just(9.0),
    min_noise_multiplier=mostly(0.5, 1.0, 4.0),
    declared_size=mostly(0, 60, 50),
    metrics=mostly("exact", "noised", "none"),
    unbounded=st.just(True),
    approval=mostly("protocol", "run"),
    hours=mostly((), ("08:00-18:00",), ("20:00-06:00",)),
)
TAINTED = st.sampled_from([(), (MODEL,)])


@st.composite
def plans(draw: st.DrawFn, protocol: TrainingProtocol, n_parameters: int) -> Plan:
    noise = 0.0 if protocol.privacy.unit == "none" else draw(mostly(2.0, 0.6))
    return Plan(
        protocol=protocol.hash, n_parameters=n_parameters, n_whole=draw(mostly(None, 1000, 1001)),
        declared_size=draw(mostly(60, 50)), sampling_rate=0.1, expected_batch=5.0,
        noise_multiplier=noise, delta=1e-5, epsilon=protocol.privacy.epsilon, evaluation=draw(mostly(protocol.evaluation.release, "none")),
        evaluation_noise=0.0,
    )  # fmt: skip


@st.composite
def orders(draw: st.DrawFn, protocol: TrainingProtocol) -> Order:
    last = protocol.privacy.rounds
    return Order(
        run=draw(mostly(*RUNS)), epoch=1, round=draw(st.sampled_from([1, 1, 1, last, last, 13])),
        kind=draw(st.sampled_from(["train", "evaluate"])), protocol=protocol.hash,
        model=draw(st.sampled_from([MODEL, MODEL, OTHER])), length=10,
    )  # fmt: skip


GRANTS = st.builds(
    Grant,
    runs=mostly(2, 0, 1, 3),
    named=st.frozensets(st.sampled_from(RUNS), max_size=2),
    begun=st.lists(st.sampled_from(RUNS), unique=True).map(tuple),
    earlier=mostly(frozenset(), frozenset({RUNS[1]})),
).filter(lambda grant: not grant.earlier & set(grant.begun))
NOW = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31))  # noqa: DTZ001 - what the clock on the wall shows


# ── what the policy means, once more ──


def within_policy(protocol: TrainingProtocol, policy: Policy, n_parameters: int, tainted: tuple[str, ...]) -> bool:
    bytes_each = {"float32": 4, "float16": 2}[protocol.rounds.dtype] * n_parameters
    evaluated = len(protocol.evaluation.rounds) > 0
    moved = 2 * bytes_each + (bytes_each + 4 * 64 * len(protocol.task.labels) if evaluated else 0)
    initial = protocol.model.initial
    return all(
        [
            protocol.task.kind in policy.tasks,
            "any" in policy.models or protocol.model.name in policy.models,
            "any" in policy.strategies or protocol.aggregation.strategy in policy.strategies,
            "any" in policy.initial or initial.kind in policy.initial,
            n_parameters <= policy.max_parameters,
            protocol.privacy.rounds <= policy.max_rounds,
            moved <= policy.max_bytes_per_round,
            policy.unbounded if protocol.privacy.unit == "none" else protocol.privacy.epsilon <= policy.max_epsilon_per_run,
            policy.metrics == "exact" or not evaluated or protocol.evaluation.release != "exact",
            protocol.privacy.unit == "none" or (initial.unit != "none" and initial.protocol not in tainted),
        ]
    )


def minutes(text: str) -> int:
    return 60 * int(text[:2]) + int(text[3:])


def open_at(hours: tuple[str, ...], now: datetime) -> bool:
    at = 60 * now.hour + now.minute
    spans = [(minutes(span[:5]), minutes(span[6:])) for span in hours]
    return not spans or any((at - begin) % 1440 < (end - begin) % 1440 for begin, end in spans)


def covered(order: Order, policy: Policy, grant: Grant) -> bool:
    """By going through the runs in the order in which they began, and taking one of those allowed for each that has no name."""
    if order.run in grant.named:
        return True
    if order.run in grant.earlier:
        return False
    left = 0 if policy.approval == "run" else grant.runs
    for run in (*grant.begun, *(() if order.run in grant.begun else (order.run,))):
        if run in grant.named:
            continue
        left -= 1
        if run == order.run:
            return left >= 0
    raise AssertionError("the run is in the list")


def within_order(order: Order, protocol: TrainingProtocol, plan: Plan, policy: Policy, now: datetime, grant: Grant) -> bool:
    answers = plan.evaluation != "none" and policy.metrics != "none" and order.round in protocol.evaluation.rounds
    first = order.kind == "train" and order.round == 1 and protocol.model.initial.kind == "run"
    return all(
        [
            open_at(policy.hours, now),
            covered(order, policy, grant),
            protocol.privacy.unit == "none" or plan.noise_multiplier >= policy.min_noise_multiplier,
            plan.n_whole is None or plan.n_whole <= policy.max_parameters,
            policy.declared_size == 0 or plan.declared_size == policy.declared_size,
            order.round <= protocol.privacy.rounds if order.kind == "train" else answers,
            not first or order.model == protocol.model.initial.model,
        ]
    )


def accepts(
    order: Order, protocol: TrainingProtocol, plan: Plan, policy: Policy, *, tainted: tuple[str, ...], now: datetime, grant: Grant
) -> bool:
    try:
        check_order(order, protocol, plan, policy, tainted=tainted, now=now, grant=grant)
    except Refusal:
        return False
    return True


# ── properties ──


def judge_protocols(*, examples: int) -> None:
    @settings(quick, max_examples=examples)
    @given(protocols(), POLICIES, st.sampled_from(SIZES), TAINTED)
    def accepted_exactly_where_within(protocol, policy, n_parameters, tainted) -> None:
        accepted = not list(refusals(protocol, policy, n_parameters, tainted=tainted))
        assert accepted == within_policy(protocol, policy, n_parameters, tainted)

    accepted_exactly_where_within()


def judge_orders(*, examples: int) -> None:
    @settings(quick, max_examples=examples)
    @given(st.data(), protocols(), WIDE, st.sampled_from(SIZES), mostly((), (MODEL,)))
    def accepted_exactly_where_within(data, protocol, policy, n_parameters, tainted) -> None:
        plan, order = data.draw(plans(protocol, n_parameters)), data.draw(orders(protocol))
        now, grant = data.draw(NOW), data.draw(GRANTS)
        within = within_policy(protocol, policy, n_parameters, tainted) and within_order(order, protocol, plan, policy, now, grant)
        assert accepts(order, protocol, plan, policy, tainted=tainted, now=now, grant=grant) == within

    accepted_exactly_where_within()


def test_a_protocol_is_accepted_exactly_where_every_field_is_within_the_policy() -> None:
    judge_protocols(examples=400)


def test_an_order_is_accepted_exactly_where_it_and_its_protocol_are_within_the_policy() -> None:
    judge_orders(examples=400)


def fewer(values: tuple[str, ...], known: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(known if "any" in values else values or ("",)), unique=True).map(
        lambda kept: tuple(name for name in kept if name)
    )


TIGHTER: dict[str, Callable[[Policy], st.SearchStrategy[Any]]] = {
    "tasks": lambda policy: fewer(policy.tasks, ()),
    "models": lambda policy: fewer(policy.models, ("resnet", "scattering")),
    "strategies": lambda policy: fewer(policy.strategies, ("fedavg", "median")),
    "initial": lambda policy: fewer(policy.initial, ("random", "public", "run")),
    "max_parameters": lambda policy: st.integers(1, policy.max_parameters),
    "max_rounds": lambda policy: st.integers(1, policy.max_rounds),
    "max_bytes_per_round": lambda policy: st.integers(1, policy.max_bytes_per_round),
    "max_epsilon_per_run": lambda policy: st.floats(0.01, policy.max_epsilon_per_run),
    "min_noise_multiplier": lambda policy: st.floats(policy.min_noise_multiplier, 10.0),
    "declared_size": lambda policy: st.just(policy.declared_size) if policy.declared_size else st.sampled_from([50, 60]),
    "metrics": lambda policy: st.sampled_from(["exact", "noised", "none"][["exact", "noised", "none"].index(policy.metrics) :]),
    "unbounded": lambda policy: st.just(False),
    "approval": lambda policy: st.just("run"),
    "hours": lambda policy: (
        st.lists(st.sampled_from(policy.hours), unique=True, min_size=1).map(tuple) if policy.hours else ACCEPTED_HOURS
    ),
}  # fmt: skip


def test_every_key_of_the_policy_can_be_tightened() -> None:
    assert set(TIGHTER) | {"pause_file"} == set(Policy.model_fields)


@pytest.mark.parametrize("key", TIGHTER)
@settings(quick, max_examples=50)
@given(data=st.data(), protocol=protocols(), policy=POLICIES, n_parameters=st.sampled_from(SIZES), tainted=TAINTED)
def test_tightening_never_turns_a_refusal_into_acceptance(key: str, data, protocol, policy, n_parameters, tainted) -> None:
    tighter = Policy.model_validate({**policy.model_dump(), key: data.draw(TIGHTER[key](policy))})
    plan, order = data.draw(plans(protocol, n_parameters)), data.draw(orders(protocol))
    now, grant = data.draw(NOW), data.draw(GRANTS)

    if not list(refusals(protocol, tighter, n_parameters, tainted=tainted)):
        assert not list(refusals(protocol, policy, n_parameters, tainted=tainted))
    if not list(plan_refusals(protocol, plan, tighter)):
        assert not list(plan_refusals(protocol, plan, policy))
    if accepts(order, protocol, plan, tighter, tainted=tainted, now=now, grant=grant):
        assert accepts(order, protocol, plan, policy, tainted=tainted, now=now, grant=grant)


# ── with one limit taken out, the properties fail: the first example that shows it ends the search ──


@pytest.mark.parametrize("key", rules.LIMITS)
def test_each_limit_on_protocols_is_needed(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(rules.LIMITS, key)

    with pytest.raises(AssertionError):
        judge_protocols(examples=3000)


@pytest.mark.parametrize(("table", "key"), [(table, key) for table in ("PLAN_LIMITS", "ORDER_LIMITS") for key in getattr(rules, table)])
def test_each_limit_on_orders_is_needed(table: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(getattr(rules, table), key)

    with pytest.raises(AssertionError):
        judge_orders(examples=3000)


def test_the_check_of_lineage_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_is_tainted", lambda protocol, tainted: False)

    with pytest.raises(AssertionError):
        judge_protocols(examples=3000)
