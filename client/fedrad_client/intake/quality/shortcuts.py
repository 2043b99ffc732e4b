"""What a model could learn instead of the disease: the device that an image comes from, or a mark at its rim, that goes with the label."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fedrad_client.intake.quality.columns import Column, columns
from fedrad_client.intake.quality.findings import MOST_SHOWN, Finding, flagged, skipped
from fedrad_client.intake.quality.separation import LEAST_OF_A_CLASS, Classes, Features, Scorer, Separation, separation
from fedrad_client.intake.quality.sketches import CELLS, SIDE
from fedrad_client.intake.quality.subject import Subject

# Of the lower end of the interval. Above the second, a model needs to look at nothing else.
SUSPICIOUS, DECISIVE = 0.6, 0.8
_RIM = 2  # cells of CELLS: an eighth of the image at each side
_MOST_NAMED = 3  # fields


def metadata(subject: Subject) -> Iterator[Finding]:
    """Do fields about device, view and acquisition alone tell who is positive?"""
    kept = columns(subject.cohort, subject.rows)
    if not kept:
        yield skipped("no field about device, view or acquisition differs between these images")
        return
    features = np.column_stack([column.values for column in kept])
    for index, name in enumerate(subject.label_names):
        found = separation(features, subject.labels[:, index], subject.owner, boosted)
        yield _verdict(name, "device, view and acquisition alone", found, worst="fail", by=_named(subject, kept, index, found))


def markers(subject: Subject) -> Iterator[Finding]:
    """Do small bright marks at the rim, as burned-in letters are, tell who is positive?"""
    yield from _at_the_rim(subject, "small bright marks at the rim alone", rim(subject.sketches.marks), worst="fail")


def borders(subject: Subject) -> Iterator[Finding]:
    """Does the rim of the images alone tell who is positive?"""
    means = subject.sketches.means.reshape(-1, CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean(axis=(2, 4))
    # Anatomy reaches the rim, too: a warning at most.
    yield from _at_the_rim(subject, "the rim of the images alone", rim(means, subject.sketches.contrasts), worst="warn")


def _at_the_rim(subject: Subject, what: str, features: Features, *, worst: Literal["warn", "fail"]) -> Iterator[Finding]:
    for index, name in enumerate(subject.label_names):
        found = separation(features, subject.labels[:, index], subject.owner, linear)
        most = np.argsort(-np.nan_to_num(found.scores, nan=-np.inf), kind="stable")[:MOST_SHOWN] if found else np.empty(0, dtype=np.int64)
        yield _verdict(name, what, found, worst=worst, look=subject.shown(most[:, None]))


def _verdict(
    label: str, what: str, found: Separation | None, *, worst: Literal["warn", "fail"], by: str = "", look: tuple[tuple[int, ...], ...] = ()
) -> Finding:
    if found is None:
        return skipped(f"{label}: fewer than {LEAST_OF_A_CLASS} patients of a class do not show what goes with it")
    figures = {"label": label, "auc": round(found.auc, 4), "low": round(found.low, 4), "high": round(found.high, 4)}
    said = f"{label} from {what}: {found}{by}"
    if found.low < SUSPICIOUS:
        return Finding("pass", said, figures=figures)
    remedy = "a model may learn this instead of the disease, and fail elsewhere: take both classes from the same devices, views and sources"
    return flagged(worst if found.low >= DECISIVE else "warn", said, remedy, look=look, **figures)


def _named(subject: Subject, kept: list[Column], label: int, found: Separation | None) -> str:
    """Which fields do it, each on its own."""
    if found is None or found.low < SUSPICIOUS:
        return ""
    alone = [separation(column.values[:, None], subject.labels[:, label], subject.owner, boosted) for column in kept]
    scored = sorted(((one.auc, column.name) for one, column in zip(alone, kept, strict=True) if one), reverse=True)
    return ": " + ", ".join(f"{name} {auc:.2f}" for auc, name in scored[:_MOST_NAMED])


def rim(*grids: npt.NDArray[Any]) -> Features:
    """(n, k) the cells at the rim of (n, CELLS, CELLS) grids."""
    outside = np.ones((CELLS, CELLS), dtype=bool)
    outside[_RIM:-_RIM, _RIM:-_RIM] = False
    return np.concatenate([grid[:, outside] for grid in grids], axis=1).astype(np.float32)


def boosted(features: Features, labels: Classes) -> Scorer:
    """Small trees: for fields with few values, in any order, some of them missing."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    least = max(5, min(20, len(labels) // 20))
    model = HistGradientBoostingClassifier(max_iter=30, max_depth=3, learning_rate=0.2, min_samples_leaf=least, early_stopping=False)
    model.fit(features, labels)
    return lambda wanted: model.predict_proba(wanted)[:, 1]


def linear(features: Features, labels: Classes) -> Scorer:
    """A linear discriminant that trusts the spread of its features the less, the fewer images there are."""
    middle, scale = features.mean(axis=0), 1 / np.maximum(features.std(axis=0), 1e-6)
    parts = np.array_split(np.arange(len(features)), 1 + len(features) // 4096)
    known = [((features[part] - middle) * scale, labels[part] - labels.mean()) for part in parts]
    spread = sum(x.T.astype(np.float64) @ x for x, _ in known) / len(features)
    spread.flat[:: len(spread) + 1] += 0.01 + len(spread) / len(features)
    towards = np.linalg.solve(spread, sum(x.T.astype(np.float64) @ y for x, y in known) / len(features))
    return lambda wanted: ((wanted - middle) * scale) @ towards
