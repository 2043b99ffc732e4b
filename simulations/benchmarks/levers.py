"""What each lever does for the same epsilon, on the paediatric radiographs: `python simulations/benchmarks/levers.py --seeds 1 2`.

Five hospitals of unlike prevalence train with the sites' own steps, noise, plans and fold, in this process and without transport. Scored is
a fifth of the *training* split, which no hospital holds: like all tuning, this never touches `val_images`. Learning rates are the best of
those that a row names, by the same score, so differences of less than a hundredth say nothing. Noise is seeded: a simulation's.

Public weights are made here, of invented phantoms (`fedrad_sim.anatomy`): nobody's images, so their training wants no privacy.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from fedrad_client.cohort.dataset import Dataset
from fedrad_client.config import Resources
from fedrad_client.privacy.noise import AesNoise
from fedrad_client.privacy.plan import Plan, make_plan
from fedrad_client.privacy.training import train
from fedrad_client.work.scoring import features_of, fixed_front, patient_scores
from fedrad_common import processes
from fedrad_common.accounting import NUMERIC_SHARE
from fedrad_common.metrics import auc_scores
from fedrad_common.models import build, initial_vector
from fedrad_common.packing import Vector, pack, unpack, vector_hash
from fedrad_common.profiles import SCALE
from fedrad_common.protocol import TrainingProtocol, load_protocol, replace_settings
from fedrad_common.tasks import task
from fedrad_common.weights import Sizes, backbone, file_hash, first_vector, public_vector, write_weights
from fedrad_server.aggregation import fold, initial, released
from fedrad_sim.anatomy import MAX_LESIONS, NODULE, Drift, Poses, Textures, attenuation, draw_bodies, expose
from fedrad_sim.hospitals import delta_for
from fedrad_sim.partition import Dirichlet, dirichlet_sites
from fedrad_sim.scenario import data_path, find_scenario, load_scenario, protocol_path

SIDE, N_SITES = 28, 5
PLACE = Resources(threads=1, device="cpu")
FINDINGS = ("lesion", "left", "right", "nodule", "consolidation")  # what the phantoms teach
Settings = dict[str, object]
RESNET: Settings = {"model.name": "resnet", "model.options": {"channels": 8, "stages": 3}}
STANDARDIZED = {"channels": 8, "stages": 3, "weight_standardization": True}
LOCAL: Settings = {"privacy.rounds": 10, "privacy.steps_per_round": 8, "aggregation.momentum": 0.0, "aggregation.ema": 0.0}


@dataclass(frozen=True)
class Row:
    """One lever: what differs from the shipped protocol, and the learning rates to choose from."""

    group: str
    name: str
    settings: Settings = field(default_factory=dict)
    rates: tuple[float, ...] = (0.5,)
    public: bool = False  # starts from the phantoms' weights, with a fresh head


SHIPPED, IN_ROUNDS, SMALL = (
    "the shipped recipe, 80 steps",
    "the same in 10 rounds of 8 steps",
    "small residual network, 40 steps, batch 200",
)


def _small(name: str, rates: tuple[float, ...], *, public: bool = False, **settings: object) -> Row:
    shared = RESNET | {"privacy.rounds": 40, "privacy.expected_batch": 200.0}
    return Row(SMALL, name, shared | {key.replace("__", "."): value for key, value in settings.items()}, rates, public)


ROWS = (
    Row(SHIPPED, "as shipped: flat clip, sgd, batch 375, average 0.9"),
    Row(SHIPPED, "normalised clip", {"privacy.clipping": "normalised"}, (0.25, 0.5)),
    Row(SHIPPED, "expected batch 120", {"privacy.expected_batch": 120.0}),
    Row(SHIPPED, "expected batch 600", {"privacy.expected_batch": 600.0}),
    Row(SHIPPED, "without the moving average", {"aggregation.ema": 0.0}),
    Row(IN_ROUNDS, "sgd", LOCAL, (1.0, 3.0)),
    Row(IN_ROUNDS, "adamw", LOCAL | {"training.optimizer": "adamw"}, (0.01, 0.03)),
    Row(IN_ROUNDS, "adam-bc", LOCAL | {"training.optimizer": "adam-bc"}, (0.003, 0.01)),
    _small("random weights", (2.0, 4.0)),
    _small("with weight standardisation", (1.0, 2.0), model__options=STANDARDIZED),
    _small("1 augmented view an image", (1.0, 2.0), training__augmentation="xr"),
    _small("4 augmented views, averaged before the clip", (2.0,), training__augmentation="xr", training__multiplicity=4),
    _small("public weights, all trained", (0.25, 0.5), public=True),
    _small("public weights, head alone", (4.0, 16.0), public=True, model__trains="head"),
    _small("public weights, lora of rank 4", (1.0,), public=True, model__trains="lora", model__rank=4),
    _small("public weights, lora-up of rank 4", (1.0,), public=True, model__trains="lora-up", model__rank=4),
    _small("random weights that stay, head alone", (4.0, 16.0), model__trains="head"),
)


# ── the hospitals ──


@dataclass(frozen=True)
class World:
    sites: tuple[Dataset, ...]
    unseen: Dataset  # a fifth of the training split


def world(seed: int) -> World:
    scenario = find_scenario("pneumonia")
    wanted = load_scenario(scenario).imported
    assert wanted is not None
    with np.load(data_path(wanted.arrays, scenario)) as arrays:
        pixels, labels = arrays[wanted.image], arrays[wanted.label].ravel().astype(np.int64)
    pixels = (pixels.astype(np.float32) / 255 * SCALE).astype(np.uint16)
    kept = np.flatnonzero(pixels.std((1, 2)) > 0)
    rng = np.random.default_rng(seed)
    order = rng.permutation(kept)
    unseen, seen = order[: len(order) // 5], order[len(order) // 5 :]
    at = dirichlet_sites(labels[seen], N_SITES, split=Dirichlet(2.0), rng=rng)
    return World(tuple(_dataset(pixels, labels, seen[at == site]) for site in range(N_SITES)), _dataset(pixels, labels, unseen))


def _dataset(pixels: npt.NDArray[np.uint16], labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Dataset:
    """One image is one patient: the data set names none."""
    return Dataset(pixels[rows], labels[rows, None].astype(np.float32), np.arange(len(rows)), len(rows))


# ── the public weights ──


def phantoms(count: int, *, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(n, 28, 28) in [0, 1] and (n, findings) 0 or 1."""
    rng = np.random.default_rng(seed)
    textures, images, truth = Textures(rng), [], []
    for _ in range(count // 64):
        gain, gamma, blur, noise = rng.uniform((0.7, 0.7, 0.2, 0.01), (1.3, 1.4, 0.8, 0.05)).tolist()
        drift = Drift(rows=SIDE, columns=SIDE, gain=gain, gamma=gamma, blur=blur, noise=noise)
        bodies = draw_bodies(rng.random(64) < 0.5, rng)
        images.append(expose(attenuation(bodies, Poses.draw(64, rng), drift=drift, textures=textures), drift, rng) / 4095)
        here, left, nodule = bodies.contrast > 0, bodies.place[:, :, 0] > 0, bodies.kind == NODULE
        assert here.shape == (64, MAX_LESIONS)
        truth.append(np.stack([found.any(1) for found in (here, here & left, here & ~left, here & nodule, here & ~nodule)], axis=1))
    return np.concatenate(images).astype(np.float32), np.concatenate(truth).astype(np.float32)


def pretrained(protocol: TrainingProtocol, path: Path, *, epochs: int = 6) -> None:
    """Train the protocol's network on phantoms, plainly, and write it."""
    taught = replace_settings(protocol, {"task.labels": list(FINDINGS), "model.trains": "all", "model.rank": None})
    network = build(taught.model, n_outputs=len(FINDINGS), height=SIDE, width=SIDE)
    images, truth = (torch.from_numpy(part) for part in phantoms(12_800, seed=0))
    generator, step = torch.Generator().manual_seed(0), 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(images) // 128))
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(128):  # type: ignore[no-untyped-call]
            seen = images[rows].flip(2) if step % 2 else images[rows]
            aims = truth[rows][:, [0, 2, 1, 3, 4]] if step % 2 else truth[rows]  # mirrored, left is right
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(network(seen[:, None]), aims).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
    write_weights(taught, pack(network), path, lineage={"source": "phantoms"})


def from_public(protocol: TrainingProtocol, path: Path) -> tuple[TrainingProtocol, Vector]:
    """The protocol with its lineage, and the first weights."""
    first = first_vector(protocol, public_vector(protocol, path, fresh="head"))
    told = {"kind": "public", "model": vector_hash(first), "source": "invented phantoms", "weights": file_hash(path), "fresh": "head"}
    return replace_settings(protocol, {"model.initial": told}), first


# ── a run ──


def plan_of(protocol: TrainingProtocol, n: int, *, n_parameters: int) -> Plan:
    delta = delta_for(n)
    return make_plan(
        protocol, n_parameters=n_parameters, declared_size=n, delta=delta, numeric_delta=NUMERIC_SHARE * delta, least_noise=0.5,
        validation_fraction=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Found:
    auc: float
    n_parameters: int
    noise: float  # the largest site's multiplier
    rate: float


def play(protocol: TrainingProtocol, hospitals: World, *, file: Path | None, seed: int) -> Found:
    """All rounds in memory; noise from the seed."""
    first, kept = initial_vector(protocol), None
    sizes: Sizes = {"n_outputs": 1, "height": SIDE, "width": SIDE}
    if file is not None:
        protocol, first = from_public(protocol, file)
        kept = None if protocol.model.trains == "all" else backbone(protocol.model, file, **sizes)  # as a site reads it
    network = build(protocol.model, **sizes, backbone=kept)
    plans = [plan_of(protocol, site.n_patients, n_parameters=first.size) for site in hospitals.sites]
    front = fixed_front(network) if protocol.training.augmentation == "none" else None
    features = [None if front is None else features_of(site.pixels, front) for site in hospitals.sites]
    state = initial(protocol.aggregation, first)
    for number in range(1, protocol.privacy.rounds + 1):
        updates = []
        for place, (site, plan) in enumerate(zip(hospitals.sites, plans, strict=True)):
            unpack(network, state.model)
            noise = AesNoise.seeded(seed * 1_000_000 + number * 100 + place)
            train(site, protocol=protocol, plan=plan, model=network, round=number, noise=noise, resources=PLACE, features=features[place])
            updates.append((pack(network) - state.model, float(plan.declared_size)))
        state = fold(protocol.aggregation, state, updates)
    unpack(network, released(state))
    scores, classes = patient_scores(hospitals.unseen, network, score=task("classification").score, resources=PLACE)
    auc = auc_scores(scores[:, 0], classes[:, 0].astype(np.float64))
    assert auc is not None
    return Found(auc, first.size, min(plan.noise_multiplier for plan in plans), protocol.training.learning_rate)


def best(row: Row, base: TrainingProtocol, hospitals: World, *, file: Path, seed: int) -> Found:
    tried = []
    for rate in row.rates:
        settings = {"evaluation.rounds": [], "model.seed": seed, **row.settings, "training.learning_rate": rate}
        chosen = replace_settings(base, settings)
        tried.append(play(chosen, hospitals, file=file if row.public else None, seed=seed))
    return max(tried, key=lambda found: found.auc)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", default="", help="rows whose group or name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    processes.keep_memory()
    scenario = find_scenario("pneumonia")
    shipped = load_protocol(protocol_path(load_scenario(scenario), scenario))
    rows = [row for row in ROWS if options.only in row.group or options.only in row.name]
    hospitals = {seed: world(seed) for seed in options.seeds}
    with tempfile.TemporaryDirectory(prefix="fedrad-levers-") as scratch:
        file = Path(scratch) / "phantoms.safetensors"
        if any(row.public for row in rows):
            start = time.process_time()
            pretrained(replace_settings(shipped, RESNET), file)
            print(f"phantoms: {time.process_time() - start:.0f} s", flush=True)
        for epsilon in options.epsilon:
            group = ""
            base = replace_settings(shipped, {"privacy.epsilon": epsilon})
            for row in rows:
                if row.group != group:
                    group = row.group
                    print(f"epsilon {epsilon:g}: {group}", flush=True)
                start = time.process_time()
                found = [best(row, base, hospitals[seed], file=file, seed=seed) for seed in options.seeds]
                print(_line(row, found, seconds=time.process_time() - start), flush=True)


def _line(row: Row, found: list[Found], *, seconds: float) -> str:
    values = [each.auc for each in found]
    spread = f" ({min(values):.3f} … {max(values):.3f})" if len(values) > 1 else ""
    first, rates = found[0], sorted({each.rate for each in found})
    return (
        f"  {row.name:<52} AUC {statistics.median(values):.4f}{spread}  weights {first.n_parameters:>6,}  noise {first.noise:.2f}  "
        f"rate {', '.join(f'{rate:g}' for rate in rates)}  {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
