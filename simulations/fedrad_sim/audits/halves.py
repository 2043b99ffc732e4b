"""Models of random halves of an image collection, each trained by a site's own work from a cohort on disk, round by round."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.draft import new_generation, publish
from fedrad_client.cohort.store import Manifest, Record
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.work.compute import forget, run_inline
from fedrad_client.work.job import Job
from fedrad_common.accounting import NUMERIC_SHARE
from fedrad_common.models import initial_vector
from fedrad_common.profiles import SCALE, profile
from fedrad_common.protocol import TrainingProtocol
from fedrad_server.aggregation import fold, initial, released
from fedrad_sim.audits.setting import LEAST_NOISE, RESOURCES, secret
from fedrad_sim.evaluate import outputs

if TYPE_CHECKING:
    from fedrad_common.packing import Vector

Truth = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Collection:
    """Images of one label, each a patient of its own: where the data names no patients, the unit is the image."""

    pixels: Pixels  # (n, H, W), 0 … SCALE
    truth: Truth  # (n,) 0 or 1


def load_collection(path: Path, *, most: int | None = None) -> Collection:
    """The training arrays alone, of 8 bits; `most` takes every so many-th, for a quick look."""
    with np.load(path) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"].reshape(-1)
    chosen = slice(None) if most is None else np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64)
    return Collection(images[chosen].astype(np.uint16) * np.uint16(SCALE // 255), labels[chosen].astype(np.int64))


def halves(n: int, models: int, *, seed: int) -> npt.NDArray[np.bool_]:
    """(models, n) who is in whose training: model 2k has a random half, 2k + 1 the other, so that everyone is in every second model."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(models // 2):
        half = np.isin(np.arange(n), rng.permutation(n)[: n // 2])
        rows += [half, ~half]
    return np.array(rows)


def plan_for(protocol: TrainingProtocol, *, size: int) -> Plan:
    """As a site would make it at approval, of its declared size; delta is 1 / (10 N)."""
    delta = 1 / (10 * size)
    length = len(initial_vector(protocol))
    return make_plan(
        protocol, n_parameters=length, declared_size=size, delta=delta, numeric_delta=NUMERIC_SHARE * delta, least_noise=LEAST_NOISE,
        validation_fraction=0.0,
    )  # fmt: skip


def trained(
    collection: Collection, inside: npt.NDArray[np.bool_], cohort: Path, *, protocol: TrainingProtocol, plan: Plan, seed: str
) -> Vector:
    """What a run of this one site releases at its end; `cohort` is a folder that is made and goes again, whatever happens."""
    shutil.rmtree(cohort, ignore_errors=True)  # of an audit whose process was killed
    try:
        _write(cohort, Collection(collection.pixels[inside], collection.truth[inside]), label=protocol.task.labels[0])
        state = initial(protocol.aggregation, initial_vector(protocol))
        for number in range(1, protocol.privacy.rounds + 1):
            job = Job(
                protocol=protocol, kind="train", round=number, plan=plan, secret=secret(seed=seed, round=number), cohort=cohort,
                generation=1, resources=RESOURCES, seeded=True,
            )  # fmt: skip
            state = fold(protocol.aggregation, state, [(run_inline(job, state.model), float(plan.declared_size))])
    finally:
        forget()
        shutil.rmtree(cohort, ignore_errors=True)
    return released(state)


def logits(protocol: TrainingProtocol, model: Vector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """(n,) before the sigmoid, which would make all that are sure alike."""
    return np.concatenate([said[:, 0].double().numpy() for said in outputs(protocol, model, pixels)])


def _write(cohort: Path, members: Collection, *, label: str) -> None:
    """A generation, without DICOM: what an ingest would have left on the disk."""
    height, width = members.pixels.shape[1:]
    with new_generation(cohort, height=height, width=width) as draft:
        for number, (pixels, truth) in enumerate(zip(members.pixels, members.truth.tolist(), strict=True)):
            draft.add(Record(f"{number:032x}", f"2.25.{number + 1}", "training", {}), pixels, (truth,), entry=number, series=number)
        kept = draft.settle()
        manifest = Manifest(
            generation=1, profile="xr", profile_hash=profile("xr").hash, height=height, width=width, key="audit", validation_fraction=0.0,
            labels=(label,), n_files=len(kept), n_images=len(kept), n_patients=len(kept), files=draft.write_files((label,)),
        )  # fmt: skip
        publish(draft, cohort, manifest)
