"""Does joining help? Federated against each hospital alone, on patients none of them trained on: `simulations/benchmarks/lgg.py`.

Five folds by patient, stratified by institution. In each, the whole pipeline (DICOM, intake, sites, rounds) trains the scenario's arms
without privacy on four fifths of the patients, and every model scores all held-out slices. The difference is paired and resamples whole
patients. Tuned on fold 0 of another seed (999).
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.dataset import Pixels
from fedrad_common.metrics import auc_scores, paired_bootstrap
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol
from fedrad_server.runs import read_run
from fedrad_sim.evaluate import predict
from fedrad_sim.importer import import_arrays
from fedrad_sim.scenario import data_path, find_scenario
from fedrad_sim.scoring_data import prepare_folder
from fedrad_sim.simulate import run

ARRAYS = "lgg_mri/lgg64_flair_mask.npz"
LEAST_PATIENTS = 10  # of a hospital that counts among "alone"
SCENARIO = """
format = "fedrad-scenario-1"
name = "lgg-fold"
protocol = "lgg"
label = "tumour"
seed = {seed}
arms = ["federated-plain", "local-plain"]
[imported]
arrays = "{arrays}"
image = "flair"
label = "label"
patient = "patient"
site = "site"
profile = "mr"
[sites]
validation_fraction = 0.0
"""
Arrays = dict[str, npt.NDArray[np.generic]]


def folds(patients: npt.NDArray[np.str_], sites: npt.NDArray[np.str_], *, seed: int, n_folds: int) -> npt.NDArray[np.int64]:
    """(n_slices,) fold of each slice: patients dealt in turn, institution by institution."""
    rng, fold_of, dealt = np.random.default_rng(seed), {}, 0
    for site in sorted(set(sites)):
        members = np.unique(patients[sites == site])
        for place, patient in enumerate(rng.permutation(members)):
            fold_of[str(patient)] = (place + dealt) % n_folds
        dealt += len(members)
    return np.array([fold_of[str(patient)] for patient in patients])


def play_fold(arrays: Arrays, training: npt.NDArray[np.bool_], folder: Path, *, seed: int, jobs: int) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of every model on the held-out slices, with their labels and patients, in the same order."""
    np.savez(folder / "training.npz", **{key: values[training] for key, values in arrays.items()})  # type: ignore[arg-type]
    np.savez(folder / "held-out.npz", **{key: values[~training] for key, values in arrays.items()})  # type: ignore[arg-type]
    scenario = folder / "scenario.toml"
    scenario.write_text(SCENARIO.format(seed=seed, arrays=folder / "training.npz"))
    result = run(scenario, folder / "out", jobs=jobs)
    import_arrays(
        folder / "held-out.npz", image="flair", label="label", patient="patient", profile="mr", names=("tumour",), out=folder / "held-out"
    )
    records = {"federated" if arm.job.site is None else arm.job.site: read_run(arm.job.run) for arm in result.arms}
    protocol = records["federated"].protocol
    (site,) = (entry for entry in (folder / "held-out").iterdir() if entry.is_dir())
    data = prepare_folder(site / "dicom", site / "labels.csv", folder / "cohort", protocol=protocol)
    scores = {name: _scores(protocol, record.released(record.round), data.pixels) for name, record in records.items()}
    return {**scores, "": data.labels[:, 0].astype(np.float64), "patient": data.owner.astype(np.float64)}


def _scores(protocol: TrainingProtocol, model: Vector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Logits, so that folds whose scores are scaled apart are ranked together as little distorted as may be."""
    values = np.clip(predict(protocol, model, pixels)[:, 0], 1e-7, 1 - 1e-7)
    return np.log(values / (1 - values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of training")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    start = time.monotonic()
    with np.load(data_path(ARRAYS, find_scenario("lgg")), allow_pickle=False) as archive:
        arrays: Arrays = {key: archive[key] for key in ("flair", "label", "patient", "site")}
    fold = folds(arrays["patient"].astype(str), arrays["site"].astype(str), seed=arguments.seed, n_folds=arguments.folds)
    counts = {str(site): len(np.unique(arrays["patient"][arrays["site"] == site])) for site in np.unique(arrays["site"])}
    parts = []
    for number in range(arguments.folds):
        folder = Path(tempfile.mkdtemp(prefix="fedrad-lgg-"))
        try:
            parts.append(play_fold(arrays, fold != number, folder, seed=arguments.seed, jobs=arguments.jobs))
        finally:
            shutil.rmtree(folder)
    names = ["federated", *sorted(site for site, count in counts.items() if count >= LEAST_PATIENTS)]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in names}
    labels = np.concatenate([part[""] for part in parts])
    patients = np.concatenate([part["patient"] + 1000 * number for number, part in enumerate(parts)])
    print(f"seed {arguments.seed}, {arguments.folds} folds, {len(np.unique(patients))} patients, {len(labels)} slices")
    for name in names:
        print(f"  {name:<12} AUC {auc_scores(scores[name], labels):.4f}")
    others = np.stack([scores[name] for name in names[1:]])
    mean = np.mean([auc_scores(row, labels) for row in others])
    interval = paired_bootstrap(scores["federated"], others, labels, patients, auc_scores, n=2000)
    difference = float(auc_scores(scores["federated"], labels) or 0) - float(mean)
    assert interval is not None
    print(f"  federated minus the mean of {len(others)}: {difference:.4f} (95 % {interval[0]:.4f} … {interval[1]:.4f})")
    print(f"  {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
