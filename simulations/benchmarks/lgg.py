"""Does joining help, and what does privacy cost? On patients none of the models trained on: `simulations/benchmarks/lgg.py [--epsilon 8]`.

Five folds by patient, stratified by institution. In each, the whole pipeline (DICOM, intake, sites, rounds) trains the scenario's arms
on four fifths of the patients, and every model scores all held-out slices. Differences are paired and resample whole patients. Without
`--epsilon`: federated against each hospital alone, without privacy, tuned on fold 0 of another seed (999). With it: the federation with
privacy per patient beside the one without.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.dataset import Pixels
from fedrad_common.metrics import Floats, Statistic, auc_scores, paired_bootstrap, patient_bootstrap
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol
from fedrad_server.runs import read_run
from fedrad_sim.evaluate import predict
from fedrad_sim.importer import import_arrays
from fedrad_sim.scenario import data_path, find_scenario, load_scenario, render_scenario
from fedrad_sim.scoring_data import prepare_folder
from fedrad_sim.simulate import run

ARRAYS = "lgg_mri/lgg64_flair_mask.npz"
PLAIN, PRIVATE = "federated", "private"
LEAST_PATIENTS = 10  # of a hospital that counts among "alone"
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


def scenario_of(arrays: Path, *, seed: int, private: bool) -> str:
    """The shipped scenario with the fold's training patients, none of whom is set aside for validation."""
    shipped = load_scenario(find_scenario("lgg"))
    assert shipped.imported is not None
    own = {
        "name": "lgg-fold",
        "seed": seed,
        "arms": ("federated-private", "federated-plain") if private else ("federated-plain", "local-plain"),
        "imported": shipped.imported.model_copy(update={"arrays": str(arrays)}),
        "sites": shipped.sites.model_copy(update={"validation_fraction": 0.0}),
    }
    return render_scenario(shipped.model_copy(update=own))


def play_fold(
    arrays: Arrays, training: npt.NDArray[np.bool_], folder: Path, *, seed: int, jobs: int, epsilon: float | None
) -> dict[str, npt.NDArray[np.float64]]:
    """Scores of every model on the held-out slices, with their labels and patients, in the same order."""
    np.savez(folder / "training.npz", **{key: values[training] for key, values in arrays.items()})  # type: ignore[arg-type]
    np.savez(folder / "held-out.npz", **{key: values[~training] for key, values in arrays.items()})  # type: ignore[arg-type]
    scenario = folder / "scenario.toml"
    scenario.write_text(scenario_of(folder / "training.npz", seed=seed, private=epsilon is not None))
    result = run(scenario, folder / "out", settings={} if epsilon is None else {"privacy.epsilon": [epsilon]}, jobs=jobs)
    import_arrays(
        folder / "held-out.npz", image="flair", label="label", patient="patient", profile="mr", names=("tumour",), out=folder / "held-out"
    )
    records = {PRIVATE if arm.job.private else arm.job.site or PLAIN: read_run(arm.job.run) for arm in result.arms}
    protocol = records[PLAIN].protocol
    (site,) = (entry for entry in (folder / "held-out").iterdir() if entry.is_dir())
    data = prepare_folder(site / "dicom", site / "labels.csv", folder / "cohort", protocol=protocol)
    scores = {name: _scores(record.protocol, record.released(record.round), data.pixels) for name, record in records.items()}
    for arm in result.arms:
        if arm.job.private:
            print("  " + ", ".join(f"{site} epsilon {cost} delta {arm.delta[site]:.1e}" for site, cost in arm.epsilon.items()), flush=True)
    return {**scores, "": data.labels[:, 0].astype(np.float64), "patient": data.owner.astype(np.float64)}


def _scores(protocol: TrainingProtocol, model: Vector, pixels: Pixels) -> npt.NDArray[np.float64]:
    """Logits, so that folds whose scores are scaled apart are ranked together as little distorted as may be."""
    values = np.clip(predict(protocol, model, pixels)[:, 0], 1e-7, 1 - 1e-7)
    return np.log(values / (1 - values))


def _within(owner: npt.NDArray[np.int64]) -> Statistic:
    """The mean of the folds' AUCs; `owner` is the fold of each slice."""

    def statistic(scores: Floats, labels: Floats, weights: Floats) -> float | None:
        each = [auc_scores(scores[owner == fold], labels[owner == fold], weights[owner == fold]) for fold in np.unique(owner)]
        known = [value for value in each if value is not None]
        return float(np.mean(known)) if len(known) == len(each) else None

    return statistic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the folds and of training")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epsilon", type=float, help="per patient: plays the private arm in place of the hospitals alone")
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
            parts.append(play_fold(arrays, fold != number, folder, seed=arguments.seed, jobs=arguments.jobs, epsilon=arguments.epsilon))
        finally:
            shutil.rmtree(folder)
    alone = sorted(site for site, count in counts.items() if count >= LEAST_PATIENTS)
    names = [PLAIN, *(alone if arguments.epsilon is None else [PRIVATE])]
    scores = {name: np.concatenate([part[name] for part in parts]) for name in names}
    labels = np.concatenate([part[""] for part in parts])
    ones = np.ones(len(labels))
    patients = np.concatenate([part["patient"] + 1000 * number for number, part in enumerate(parts)])
    print(f"seed {arguments.seed}, {arguments.folds} folds, {len(np.unique(patients))} patients, {len(labels)} slices")
    owner = np.repeat(np.arange(len(parts)), [len(part[""]) for part in parts])
    less = f"the mean of {len(names) - 1}" if arguments.epsilon is None else f"epsilon {arguments.epsilon:g}"
    # Models of different folds score on scales of their own; noise moves those far apart, so both ways of counting are shown.
    for how, statistic in (("all slices ranked together", auc_scores), ("mean of the folds", _within(owner))):
        print(f" {how}")
        for name in names:
            low, high = patient_bootstrap(scores[name], labels, patients, statistic) or (0.0, 1.0)
            print(f"  {name:<12} AUC {statistic(scores[name], labels, ones):.4f} (95 % {low:.4f} … {high:.4f})")
        others = np.stack([scores[name] for name in names[1:]])
        mean = np.mean([statistic(row, labels, ones) for row in others])
        interval = paired_bootstrap(scores[PLAIN], others, labels, patients, statistic, n=2000)
        assert interval is not None
        difference = float(statistic(scores[PLAIN], labels, ones) or 0) - float(mean)
        print(f"  federated minus {less}: {difference:.4f} (95 % {interval[0]:.4f} … {interval[1]:.4f})")
    for name in names:
        each = (auc_scores(part[name], part[""]) or 0.0 for part in parts)
        print(f"  {name:<12} by fold {' '.join(f'{area:.4f}' for area in each)}")
    print(f"  {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
