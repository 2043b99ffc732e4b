"""A person accepts a protocol: this site's own plan and cost of it, and the protocol's bytes kept under their hash."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedrad_client import audit
from fedrad_client.changes import Changes, changes
from fedrad_client.gates import check_delta, check_trainable, declared, exact_metrics_obstacles, gates, weights_obstacles
from fedrad_client.grants import Approval, Grant, granted, read_approval, write_approval
from fedrad_client.policy import plan_refusals, refusals
from fedrad_client.privacy.account import Account, Opening, epsilon_at
from fedrad_client.privacy.ledger import evaluation_cost, read_ledger, training_charge, what_crosses
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.site import LEDGER, Home, Site
from fedrad_client.traffic import RoundBytes, bytes_a_round
from fedrad_common.accounting import rounded_up
from fedrad_common.audit import RUN
from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.config import read_toml
from fedrad_common.errors import MisuseError
from fedrad_common.files import fsync_directory, new_folder, write_atomic
from fedrad_common.protocol import TrainingProtocol, parse_protocol
from fedrad_common.weights import kept_file


@dataclass(frozen=True)
class Preview:
    """What an approval would mean, before anybody approves: all of what would leave and what it would cost."""

    protocol: TrainingProtocol
    plan: Plan
    n_parameters: int
    traffic: RoundBytes
    approval: Approval  # as it would be, with what was approved before
    grant: Grant
    epsilon_before: float  # what the ceiling's filter holds now
    epsilon_after_one: float | None  # with one more run; None: no bound
    epsilon_after: float | None  # with all runs that the approval would let begin; None: no bound
    ceiling: float
    holds_weights: bool  # the public file that the protocol starts from is kept here: checked by this site itself
    changes: Changes | None  # None: no other protocol of this name is approved here
    obstacles: tuple[str, ...]  # why it cannot be approved: the policy, or the ceiling
    warnings: tuple[str, ...]  # local, for the person who approves; nothing of it leaves

    @property
    def evaluation_bytes(self) -> int:
        """Of one histogram answer; 0 where this site would not evaluate."""
        return self.traffic.histogram_out

    @property
    def runs(self) -> int:
        """That this approval would let begin from now on; at least the one that it is about."""
        return max(1, self.grant.left)


def preview(
    home: Home,
    opening: Opening,
    account: Account,
    content: bytes,
    *,
    declared_size: int | None = None,
    runs: int | None = None,
    run: str | None = None,
) -> Preview:
    """Work out a protocol's plan for this site. Spends and writes nothing.

    Args:
        declared_size: None: the one that the policy names.
        runs: how many may begin, in all; None: one, or none besides the one that is named.
        run: the id of one run, approved by name.

    Raises:
        ConfigError: the protocol is malformed, or its network or loss couples patients.
        MisuseError: no cohort fits it, or the size is another than the policy's, or too large for delta.
    """
    from fedrad_client.cohort.store import newest_fitting, open_cohort
    from fedrad_client.intake.quality.remembered import reminder
    from fedrad_common.models import initial_vector, whole_size

    config = home.config
    protocol = parse_protocol(content)
    declared_size = declared(config.policy, declared_size)
    n_parameters = initial_vector(protocol).size
    check_delta(opening.delta, declared_size)
    cohort = open_cohort(home.cohort, newest_fitting(home.cohort, protocol))
    warnings = gates(cohort, protocol, declared_size)
    if said := reminder(home.cohort, cohort.generation):
        warnings += (said,)
    plan = make_plan(
        protocol,
        n_parameters=n_parameters,
        declared_size=declared_size,
        delta=opening.delta,
        numeric_delta=opening.numeric_delta,
        least_noise=config.policy.min_noise_multiplier,
        validation_fraction=opening.validation_fraction,
    )
    if protocol.model.trains != "all":
        plan = plan.model_copy(update={"n_whole": whole_size(protocol)})
    if config.policy.metrics == "none":
        plan = plan.model_copy(update={"evaluation": "none", "evaluation_noise": 0.0})
    if protocol.task.kind != "echo":  # which learns nothing, and needs no torch
        warnings += check_trainable(protocol, plan, config.resources)
    by_name = config.policy.approval == "run"
    approval = _approval(home, protocol.hash, account, runs=0 if by_name and runs is None else runs, run=run)
    grant = granted(approval, account.runs, protocol.hash)
    obstacles = [
        *refusals(protocol, config.policy, n_parameters, tainted=account.tainted.union(opening.earlier_unbounded)),
        *plan_refusals(protocol, plan, config.policy),
        *exact_metrics_obstacles(cohort, protocol),
        *weights_obstacles(home.path, protocol),
    ]
    if by_name and (run is None or runs):
        obstacles.append("policy.approval is 'run' here: each run is approved by its name, with --run ID")
    if not grant.left:
        warnings += ("no further run may begin under this approval: all that it is for have begun; --runs or --run adds one",)
    more = max(1, grant.left)
    if crossed := what_crosses(opening, account, **_charge(opening, plan, protocol, runs=more)):
        obstacles.append(f"does not fit below this site's ceiling, which is for its lifetime: {crossed}")
    return Preview(
        protocol=protocol,
        plan=plan,
        n_parameters=n_parameters,
        traffic=bytes_a_round(protocol, n_parameters, evaluates=plan.evaluation != "none"),
        approval=approval,
        grant=grant,
        epsilon_before=_filtered(opening, account.training),
        epsilon_after_one=_after(opening, account, plan, protocol, runs=1),
        epsilon_after=_after(opening, account, plan, protocol, runs=more),
        ceiling=opening.epsilon,
        holds_weights=protocol.model.initial.kind == "public" and kept_file(home.path, protocol.model.initial).is_file(),
        changes=changes(home, protocol),
        obstacles=tuple(obstacles),
        warnings=warnings,
    )


def _approval(home: Home, name: str, account: Account, *, runs: int | None, run: str | None) -> Approval:
    """What a person's yes would add to what they said before. Raises MisuseError for an id that no run can have."""
    if run is not None and not RUN.holds(run):
        raise MisuseError(f"--run: {run!r} is no run's id", hint="take it from `fedrad-site audit show`, or from the coordinator")
    folder = home.path / "approved" / name
    before = read_approval(folder) if name in home.approvals else Approval(runs=0, since=len(account.runs))
    return before.plus(runs=(1 if run is None else 0) if runs is None else runs, named=run)


def _charge(opening: Opening, plan: Plan, protocol: TrainingProtocol, *, runs: int) -> dict[str, float]:
    one = {
        **training_charge(opening, plan, protocol.privacy.steps),
        "validation_cost": evaluation_cost(protocol, plan, opening.order),
    }
    return {name: runs * cost for name, cost in one.items()}


def _after(opening: Opening, account: Account, plan: Plan, protocol: TrainingProtocol, *, runs: int) -> float | None:
    if plan.noise_multiplier == 0 or account.unbounded_runs > 0 or opening.earlier_unbounded:
        return None
    return _filtered(opening, account.training + _charge(opening, plan, protocol, runs=runs)["cost"])


def _filtered(opening: Opening, divergence: float) -> float:
    return rounded_up(epsilon_at(divergence, order=opening.order, delta=opening.filter_delta))


def approve(
    site: Site, content: bytes, *, declared_size: int | None = None, runs: int | None = None, run: str | None = None
) -> Preview:  # fmt: skip
    """Keep the protocol's bytes, this site's plan and the runs that it is approved for under the protocol's hash.

    Approved again, it holds for the most runs that were ever typed, and for every run that was named.

    Raises:
        MisuseError: it asks for more than the policy or the ceiling allows, or was approved already with another size.
        FedradError: the disk is full; nothing was approved.
    """
    seen = preview(site.home, site.ledger.opening, site.ledger.account, content, declared_size=declared_size, runs=runs, run=run)
    folder = site.home.path / "approved" / seen.protocol.hash
    before = site.approved(seen.protocol.hash)
    # A plan of before a part's whole network was counted says nothing of it.
    if before is not None and before[1] not in (seen.plan, seen.plan.model_copy(update={"n_whole": None})):
        _refuse_another_plan(before[1], seen.plan)
    if before is not None and read_approval(folder) == seen.approval:
        return seen  # its cost may be reserved by now; that is no second one
    if seen.obstacles:
        raise MisuseError(
            f"protocol: {seen.obstacles[0]}",
            hint="nothing was approved; the hospital decides: change site.toml, or ask the coordinator for another protocol",
        )
    if before is not None:
        _record(site, seen, run)
        write_approval(folder, seen.approval)
        return seen
    with new_folder(folder) as beside:
        write_atomic(beside / "protocol.toml", content)
        write_atomic(beside / "plan.json", canonical_json(seen.plan.model_dump(mode="json")) + b"\n")
        write_approval(beside, seen.approval)
        # Before the folder gets its name: no approval may count that the log does not know.
        _record(site, seen, run)
    return seen


def _refuse_another_plan(before: Plan, now: Plan) -> None:
    if before.declared_size != now.declared_size:
        raise MisuseError(
            f"protocol: approved already with declared size {before.declared_size}, not {now.declared_size}",
            hint="a declared size stays for the run; approve with the same one",
        )
    raise MisuseError(
        "protocol: approved already, and site.toml or the ledger's ceiling has changed since",
        hint="what was fixed then stays; to fix it anew: unapprove, then approve",
    )


def _record(site: Site, seen: Preview, run: str | None) -> None:
    named = {} if run is None else {"run": run}
    audit.record(
        site.audit,
        "approve",
        protocol=seen.protocol.hash,
        declared_size=seen.plan.declared_size,
        epsilon=seen.plan.epsilon,
        runs=seen.approval.runs,
        policy=sha256_hex(canonical_json(site.config.policy.model_dump(mode="json"))),
        **named,
    )


def withdraw_approval(site: Site, prefix: str) -> str:
    """Take an approval back: orders for the protocol are refused from now on; what was spent stays spent. Returns the hash.

    Raises:
        MisuseError: `prefix` names no approved protocol, or several.
    """
    found = [name for name in site.home.approvals if name.startswith(prefix)]
    if len(found) != 1 or not prefix:
        raise MisuseError(f"protocol {prefix!r}: names {len(found)} approved protocols", hint="`fedrad-site status` lists their hashes")
    audit.record(site.audit, "withdraw-approval", protocol=found[0])
    folder = site.home.path / "approved" / found[0]
    gone = folder.with_name(f".{folder.name}")  # in one step: half a folder would be no approval and no refusal
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    fsync_directory(folder.parent)
    shutil.rmtree(gone)
    site.forget_approval(found[0])
    return found[0]


@dataclass(frozen=True)
class Approved:
    """One approval as it stands, for a list."""

    name: str
    hash: str
    declared_size: int
    epsilon: float | None  # of each run; None: no bound
    runs: int  # that may begin in all, besides named ones
    named: tuple[str, ...]
    begun: tuple[str, ...]  # since it was approved
    left: int  # that may still begin


def approvals(home: Home) -> list[Approved]:
    """Every approval, by hash; from small files and the ledger, without a lock. Raises FormatError where one is damaged."""
    _, account, _ = read_ledger(home.path / LEDGER)
    listed = []
    for name in home.approvals:
        found = home.approved(name)
        if found is None:  # taken back just now
            continue
        (protocol, plan), grant = found, home.grant(name, account)
        named = tuple(sorted(grant.named))
        listed.append(Approved(protocol.name, name, plan.declared_size, plan.epsilon, grant.runs, named, grant.begun, grant.left))
    return listed


def read_protocol(path: Path) -> bytes:
    """The document's bytes. Raises ConfigError here, where the file's name is known, when they are no protocol."""
    content = read_toml(path)
    parse_protocol(content, name=path.name)
    return content
