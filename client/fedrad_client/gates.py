"""Looks at a protocol and at this site's own data once, before approval: the coordinator learns approval or silence, never why."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from fedrad_client.config import Policy, Resources
from fedrad_client.privacy.plan import Plan
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.protocol import TrainingProtocol

if TYPE_CHECKING:
    from fedrad_client.cohort.store import Cohort

LEAST_OF_A_CLASS = 50  # validation patients, for exact histograms


def check_trainable(protocol: TrainingProtocol, plan: Plan, resources: Resources) -> tuple[str, ...]:
    """Warnings. Raises ConfigError: what one patient does to an update of this network could not be told from the others' part in it."""
    from fedrad_client.privacy.batches import images_at_a_time
    from fedrad_client.privacy.trainable import check_network, check_places
    from fedrad_client.privacy.training import views_of
    from fedrad_client.work.tensors import choose_device

    warnings = check_network(protocol)
    views, device = views_of(protocol), choose_device(resources.device).type
    images = images_at_a_time(
        resources.micro_batch, expected_batch=plan.expected_batch, views=views, device=device,
        most_of_a_patient=protocol.privacy.max_images,
    )  # fmt: skip
    if plan.noise_multiplier > 0:
        check_places(protocol, images=images, views=views, device=device)
    return warnings


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


def weights_obstacles(home: Path, protocol: TrainingProtocol) -> list[str]:
    """Public weights that this site keeps must be those that the protocol names; what is not trained must be kept."""
    from fedrad_common.weights import check_public, check_stays, kept_file

    model = protocol.model
    try:
        check_stays(model)
    except FedradError as error:
        return [str(error)]
    if model.initial.kind != "public":
        return []
    kept = kept_file(home, model.initial)
    if not kept.is_file():
        wanted = f"model.trains is {model.trains!r}: the public weights that stay as they are are not kept here: fedrad-site weights"
        return [] if model.trains == "all" else [wanted]
    try:
        check_public(protocol, kept)
    except FedradError as error:
        return [f"weights/{error}"]
    return []


def check_delta(delta: float, declared_size: int) -> None:
    if declared_size < 1:
        raise MisuseError(f"declared size: {declared_size} is not a number of patients")
    if delta > 1 / (10 * declared_size) * (1 + 1e-9):
        raise MisuseError(
            f"privacy.delta: the ledger's {delta:g} is above 1 / (10 × {declared_size})",
            hint="a declared size this large needs a smaller delta, which is fixed when a ledger is opened",
        )


def declared(policy: Policy, typed: int | None) -> int:
    """The size that counts: the policy's, where the hospital wrote one down. Raises MisuseError for another one, or none at all."""
    if policy.declared_size and typed not in (None, policy.declared_size):
        raise MisuseError(
            f"--declared-size: {typed} is not this site's: policy.declared_size is {policy.declared_size}",
            hint="leave the option out, or change site.toml",
        )
    size = policy.declared_size or typed
    if size is None:
        raise MisuseError(
            "--declared-size: none given", hint="type the number of patients as you declare it, or set policy.declared_size in site.toml"
        )
    return size
