"""Data for scoring only: a folder goes through the run's own intake, under a key that guards nothing, into one part."""

from pathlib import Path

from fedrad_client.cohort.dataset import Dataset, load_dataset
from fedrad_client.cohort.store import open_cohort
from fedrad_client.intake.deid.rules import PseudonymKeys
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_common.protocol import TrainingProtocol


def prepare_folder(folder: Path, labels: Path, cohort: Path, *, protocol: TrainingProtocol, workers: int = 1) -> Dataset:
    """Read, de-identify and normalise `folder` into `cohort`, and return all of it.

    The key is the protocol's hash: the pseudonyms serve only to tell patients apart, and the same data must give the same intervals.
    """
    ingest(
        folder,
        labels,
        cohort=cohort,
        geometry=Geometry.of(protocol.input),
        label_names=protocol.task.labels,
        keys=PseudonymKeys.from_secret(bytes.fromhex(protocol.hash)),
        validation_fraction=0.0,
        workers=workers,
    )
    return load_part(cohort, part="training", protocol=protocol)


def load_part(cohort: Path, *, part: str, protocol: TrainingProtocol) -> Dataset:
    return load_dataset(open_cohort(cohort), part="training" if part == "training" else "validation", labels=protocol.task.labels)
