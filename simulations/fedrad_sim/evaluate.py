"""Score a finished run's model on data it never saw, through the run's own preprocessing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import MisuseError
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol

if TYPE_CHECKING:
    from torch import Tensor

    from fedrad_client.cohort.dataset import Dataset, Pixels

_BATCH = 512  # images


@dataclass(frozen=True)
class Score:
    """How well a model ranks and calibrates; intervals resample whole patients."""

    n: int  # images
    n_patients: int
    auc: float | None  # None: one class only
    auc_ci: tuple[float, float] | None
    brier: float | None
    roc: tuple[tuple[float, float], ...] = ()
    reliability: tuple[tuple[float, float, float], ...] = ()

    def facts(self) -> dict[str, Any]:
        interval = None if self.auc_ci is None else list(self.auc_ci)
        return {"n": self.n, "n_patients": self.n_patients, "auc": self.auc, "auc_ci": interval, "brier": self.brier}


def predict(protocol: TrainingProtocol, model: Vector, pixels: Pixels, *, home: Path | None = None) -> npt.NDArray[np.float64]:
    """Scores (n_images, n_labels) in [0, 1] of uint16 images (n_images, H, W) that a cohort holds.

    Args:
        home: of a site or a coordinator that keeps the public weights, where the protocol trains only a part.
    """
    from fedrad_common.tasks import task

    learned = task(protocol.task.kind)
    parts = [learned.score(some).double().numpy() for some in outputs(protocol, model, pixels, home=home)]
    return np.concatenate(parts) if parts else np.zeros((0, len(protocol.task.labels)))


def outputs(protocol: TrainingProtocol, model: Vector, pixels: Pixels, *, home: Path | None = None) -> Iterator[Tensor]:
    """What the network says, (batch, n_outputs) a batch, before any score is made of it; arguments as for `predict`."""
    import torch

    from fedrad_common.models import build
    from fedrad_common.packing import unpack
    from fedrad_common.profiles import SCALE
    from fedrad_common.tasks import task
    from fedrad_common.weights import backbone, kept_file

    n_outputs = task(protocol.task.kind).n_outputs(protocol.task.labels)
    sizes = {"n_outputs": n_outputs, "height": protocol.input.height, "width": protocol.input.width}
    public = protocol.model.trains != "all" and protocol.model.initial.kind == "public"
    kept = backbone(protocol.model, kept_file(home, protocol.model.initial), **sizes) if public and home is not None else None
    network = build(protocol.model, **sizes, backbone=kept)
    unpack(network, model)
    network.eval()
    for start in range(0, len(pixels), _BATCH):
        images = torch.from_numpy(pixels[start : start + _BATCH].astype(np.float32) / SCALE).unsqueeze(1)
        with torch.inference_mode():
            said = network(images)
        yield said


def score(protocol: TrainingProtocol, model: Vector, datasets: Iterable[Dataset], *, label: str, home: Path | None = None) -> Score:
    """One label's score over several data sets, which share no patient. `home` as for `predict`."""
    from fedrad_common.metrics import auc_scores, brier_scores, patient_bootstrap

    column = protocol.task.labels.index(label)
    scores, labels, patients, n_patients = [], [], [], 0
    for dataset in datasets:
        scores.append(predict(protocol, model, dataset.pixels, home=home)[:, column])
        labels.append(dataset.labels[:, column].astype(np.float64))
        patients.append(dataset.owner + n_patients)
        n_patients += dataset.n_patients
    if not scores:
        return Score(0, 0, None, None, None)
    values, truth, owner = np.concatenate(scores), np.concatenate(labels), np.concatenate(patients)
    auc = auc_scores(values, truth)
    interval = patient_bootstrap(values, truth, owner, auc_scores) if auc is not None else None
    return Score(
        n=len(values),
        n_patients=n_patients,
        auc=auc,
        auc_ci=interval,
        brier=brier_scores(values, truth),
        roc=_roc(values, truth),
        reliability=_reliability(values, truth),
    )


def evaluate(
    run: Path, data: Path, *, image: str | None = None, label: str | None = None, patient: str | None = None, labels: Path | None = None
) -> Score:
    """Score the released model of a run on arrays (.npz) or a folder of DICOM.

    Args:
        run: a run directory, or the folder that `fedrad-sim run` wrote (then its main arm).
        image, label, patient: arrays' keys, for an .npz.
        labels: label table, for a folder; `labels.csv` beside it by default.
    """
    from fedrad_server.runs import read_run
    from fedrad_sim.importer import import_arrays
    from fedrad_sim.scoring_data import prepare_folder

    records = read_run(run_directory(run))
    protocol = records.protocol
    wanted = protocol.task.labels[0]
    home = run_directory(run).resolve().parent.parent  # of the coordinator, where the run is one of its runs
    _check_weights(protocol, home)
    with tempfile.TemporaryDirectory(prefix="fedrad-evaluate-") as scratch:
        folder = data
        if data.suffix == ".npz":
            if image is None or label is None:
                hint = "for example --image val_images --label val_labels"
                raise MisuseError(f"{data.name}: arrays need --image KEY and --label KEY", hint=hint)
            written_as: Literal["xr", "mr"] = "mr" if protocol.input.profile == "mr" else "xr"
            imported = Path(scratch) / "dicom"
            import_arrays(data, image=image, label=label, patient=patient, names=(wanted,), profile=written_as, out=imported)
            (site,) = (entry for entry in imported.iterdir() if entry.is_dir())
            folder, labels = site / "dicom", site / "labels.csv"
        dataset = prepare_folder(folder, labels or folder.parent / "labels.csv", Path(scratch) / "cohort", protocol=protocol)
        return score(protocol, records.released(records.round), [dataset], label=wanted, home=home)


def _check_weights(protocol: TrainingProtocol, home: Path) -> None:
    """Raises MisuseError: what the run did not train is not where its coordinator keeps it, as beside a run that was copied."""
    from fedrad_common.weights import kept_file

    initial = protocol.model.initial
    if protocol.model.trains != "all" and initial.kind == "public" and not kept_file(home, initial).is_file():
        raise MisuseError(
            f"weights/{str(initial.weights)[:16]}….safetensors: is not here, and the run trained only a part of the network beside it",
            hint="name the run where its coordinator keeps it, HOME/runs/NAME; or lay a copy out like that, HOME/weights with it",
        )


def run_directory(path: Path) -> Path:
    """A run directory itself, or the main arm's of a simulation."""
    if (path / "launch.json").exists():
        return path
    if (path / "simulation.json").exists():
        from fedrad_common.files import read_json

        return path / str(read_json(path / "simulation.json", expected_format="fedrad-simulation-1")["main"])
    raise MisuseError(f"{path.name}: is no run", hint="name the folder that `fedrad-sim run --out` wrote, or a run directory")


def _roc(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """At most 64 points of the curve, for drawing."""
    kept = ~np.isnan(labels)
    truth = labels[kept][np.argsort(-scores[kept], kind="stable")]
    if truth.size == 0 or truth.min() == truth.max():
        return ()
    hits, alarms = np.cumsum(truth) / truth.sum(), np.cumsum(1 - truth) / (1 - truth).sum()
    picked = np.unique(np.linspace(0, len(hits) - 1, 62).astype(int))
    return ((0.0, 0.0), *zip(alarms[picked].tolist(), hits[picked].tolist(), strict=True), (1.0, 1.0))


def _reliability(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    """(mean score, observed share, images) in tenths of the score."""
    kept = ~np.isnan(labels)
    tenths = np.minimum((scores[kept] * 10).astype(int), 9)
    points = []
    for tenth in range(10):
        here = tenths == tenth
        if here.any():
            points.append((float(scores[kept][here].mean()), float(labels[kept][here].mean()), float(here.sum())))
    return tuple(points)
