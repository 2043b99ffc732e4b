"""A person accepts a protocol: gates on this site's own data, its own noise, and the protocol's bytes kept under their hash."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedrad_client import audit
from fedrad_client.config import Resources
from fedrad_client.policy import refusals
from fedrad_client.privacy.account import Account, Opening, epsilon_at
from fedrad_client.privacy.ledger import evaluation_cost, training_charge, what_crosses
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.site import Home, Site
from fedrad_common.accounting import rounded_up
from fedrad_common.canonical import canonical_json
from fedrad_common.config import read_toml
from fedrad_common.errors import MisuseError
from fedrad_common.files import fsync_directory, new_folder, write_atomic
from fedrad_common.protocol import TrainingProtocol, parse_protocol

if TYPE_CHECKING:
    from fedrad_client.cohort.store import Cohort

LEAST_OF_A_CLASS = 50  # validation patients, for exact histograms


@dataclass(frozen=True)
class Preview:
    """What an approval would mean, before anybody approves: all of what would leave and what it would cost."""

    protocol: TrainingProtocol
    plan: Plan
    n_parameters: int
    bytes_a_round: int  # of one update, without the envelope's few hundred
    evaluation_bytes: int  # of one histogram answer; 0 where this site would not evaluate
    epsilon_before: float  # what the ceiling's filter holds now
    epsilon_after: float | None  # None: no bound
    ceiling: float
    obstacles: tuple[str, ...]  # why it cannot be approved: the policy, or the ceiling
    warnings: tuple[str, ...]  # local, for the person who approves; nothing of it leaves


def preview(home: Home, opening: Opening, account: Account, content: bytes, *, declared_size: int) -> Preview:
    """Work out a protocol's plan for this site. Spends and writes nothing.

    Raises:
        ConfigError: the protocol is malformed, or its network or loss couples patients.
        MisuseError: no cohort fits it, or the size is too large for delta.
    """
    from fedrad_client.cohort.store import newest_fitting, open_cohort
    from fedrad_common.models import initial_vector

    config = home.config
    protocol = parse_protocol(content)
    n_parameters = initial_vector(protocol).size
    check_delta(opening.delta, declared_size)
    cohort = open_cohort(home.cohort, newest_fitting(home.cohort, protocol))
    warnings = gates(cohort, protocol, declared_size)
    plan = make_plan(
        protocol,
        n_parameters=n_parameters,
        declared_size=declared_size,
        delta=opening.delta,
        numeric_delta=opening.numeric_delta,
        least_noise=config.policy.min_noise_multiplier,
        validation_fraction=opening.validation_fraction,
    )
    if protocol.task.kind != "echo":  # which learns nothing, and needs no torch
        check_trainable(protocol, plan, config.resources)
    charge = training_charge(opening, plan, protocol.privacy.steps)
    after = account.training + charge["cost"]
    tainted = account.tainted.union(opening.earlier_unbounded)
    unbounded = plan.noise_multiplier == 0 or account.unbounded_runs > 0 or bool(opening.earlier_unbounded)
    before = rounded_up(epsilon_at(account.training, order=opening.order, delta=opening.filter_delta))
    obstacles = [*refusals(protocol, config.policy, n_parameters, tainted=tainted), *exact_metrics_obstacles(cohort, protocol)]
    crossed = what_crosses(opening, account, **charge, validation_cost=evaluation_cost(protocol, plan, opening.order))
    if crossed:
        obstacles.append(f"does not fit below this site's ceiling, which is for its lifetime: {crossed}")
    return Preview(
        protocol=protocol,
        plan=plan,
        n_parameters=n_parameters,
        bytes_a_round=4 * n_parameters,
        evaluation_bytes=0 if plan.evaluation == "none" else 4 * len(protocol.task.labels) * 2 * protocol.evaluation.bins,
        epsilon_before=before,
        epsilon_after=None if unbounded else rounded_up(epsilon_at(after, order=opening.order, delta=opening.filter_delta)),
        ceiling=opening.epsilon,
        obstacles=tuple(obstacles),
        warnings=warnings,
    )


def check_trainable(protocol: TrainingProtocol, plan: Plan, resources: Resources) -> None:
    """Raises ConfigError: what one patient does to an update of this network could not be told from the others' part in it."""
    from fedrad_client.privacy.batches import images_at_a_time
    from fedrad_client.privacy.trainable import check_network, check_places
    from fedrad_client.privacy.training import views_of
    from fedrad_client.work.tensors import choose_device

    check_network(protocol)
    views, device = views_of(protocol), choose_device(resources.device).type
    images = images_at_a_time(resources.micro_batch, expected_batch=plan.expected_batch, views=views, device=device)
    if plan.noise_multiplier > 0:
        check_places(protocol, images=images, views=views, device=device)


def approve(site: Site, content: bytes, *, declared_size: int) -> Preview:
    """Keep the protocol's bytes and this site's plan under the protocol's hash.

    Raises:
        MisuseError: it asks for more than the policy or the ceiling allows, or was approved already with another size.
        FedradError: the disk is full; nothing was approved.
    """
    seen = preview(site.home, site.ledger.opening, site.ledger.account, content, declared_size=declared_size)
    before = site.approved(seen.protocol.hash)
    if before is not None and before[1] != seen.plan:
        raise MisuseError(
            f"protocol: approved already with declared size {before[1].declared_size}, not {declared_size}",
            hint="a declared size stays for the run; approve with the same one",
        )
    if before is not None:
        return seen  # its cost may be reserved by now; that is no second one
    if seen.obstacles:
        raise MisuseError(
            f"protocol: {seen.obstacles[0]}",
            hint="nothing was approved; the hospital decides: change site.toml, or ask the coordinator for another protocol",
        )
    with new_folder(site.home.path / "approved" / seen.protocol.hash) as folder:
        write_atomic(folder / "protocol.toml", content)
        write_atomic(folder / "plan.json", canonical_json(seen.plan.model_dump(mode="json")) + b"\n")
        # Before the folder gets its name: no approval may count that the log does not know.
        audit.record(site.audit, "approve", protocol=seen.protocol.hash, declared_size=declared_size, epsilon=seen.plan.epsilon)
    return seen


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


def gates(cohort: "Cohort", protocol: TrainingProtocol, declared_size: int) -> tuple[str, ...]:
    """Look at the data once, locally, before approval: the coordinator learns approval or silence, never why."""
    from fedrad_client.cohort.dataset import load_dataset

    training = load_dataset(cohort, part="training", labels=protocol.task.labels)
    warnings = []
    if training.n_patients < math.ceil(declared_size / 2):
        warnings.append(
            "fewer than half of the declared patients are in the training part: the noise is made for more; consider a smaller size"
        )
    if training.n_patients == 1:
        warnings.append("one patient only: an update of this site is that patient and the noise")
    for index, label in enumerate(protocol.task.labels):
        if not {0.0, 1.0} <= set(training.labels[:, index].tolist()):
            warnings.append(f"label {label!r}: all training images are of one class; this site teaches the model nothing about the other")
    return tuple(warnings)


def exact_metrics_obstacles(cohort: "Cohort", protocol: TrainingProtocol) -> list[str]:
    """Exact histograms want enough validation patients of each class (privacy.md, rule 11); seen here, locally, never at run time."""
    if protocol.evaluation.release != "exact" or not protocol.evaluation.rounds:
        return []
    import numpy as np

    from fedrad_client.cohort.dataset import load_dataset

    validation = load_dataset(cohort, part="validation", labels=protocol.task.labels)
    short = []
    for index, label in enumerate(protocol.task.labels):
        known = ~np.isnan(validation.labels[:, index])
        positive = set(validation.owner[known & (validation.labels[:, index] == 1)].tolist())
        negative = set(validation.owner[known].tolist()) - positive
        if min(len(positive), len(negative)) < LEAST_OF_A_CLASS:
            short.append(f"evaluation.release: exact histograms of {label!r} want {LEAST_OF_A_CLASS} validation patients of each class")
    return short


def check_delta(delta: float, declared_size: int) -> None:
    if declared_size < 1:
        raise MisuseError(f"declared size: {declared_size} is not a number of patients")
    if delta > 1 / (10 * declared_size) * (1 + 1e-9):
        raise MisuseError(
            f"privacy.delta: the ledger's {delta:g} is above 1 / (10 × {declared_size})",
            hint="a declared size this large needs a smaller delta, which is fixed when a ledger is opened",
        )


def read_protocol(path: Path) -> bytes:
    """The document's bytes. Raises ConfigError here, where the file's name is known, when they are no protocol."""
    content = read_toml(path)
    parse_protocol(content, name=path.name)
    return content
