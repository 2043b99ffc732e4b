"""Images that lie on their side or are mirrored, measured against the others: does each look like them, or like them turned?

For each of the seven other ways to lay a square, a linear discriminant learns to tell the cohort's images from the same images laid that
way; each image is judged by a discriminant that saw no image of its patient. Where even that cannot tell the two apart, as left from right
in a phantom, nothing is said about it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from fedrad_client.intake.quality.findings import Finding, counted, fine, flagged, skipped
from fedrad_client.intake.quality.sketches import Floats, Sketches, reduced
from fedrad_client.intake.quality.subject import Subject

Turn = Callable[[Floats], Floats]  # of (n, s, s)
Moments = tuple[int, npt.NDArray[np.float64], npt.NDArray[np.float64]]  # number, sum and sum of squares of pictures
TURNS: dict[str, Turn] = {
    "mirrored": lambda p: p[:, :, ::-1],
    "upside down": lambda p: p[:, ::-1],
    "turned by half": lambda p: p[:, ::-1, ::-1],
    "on its side": lambda p: np.rot90(p, axes=(1, 2)),
    "on its other side": lambda p: np.rot90(p, k=-1, axes=(1, 2)),
    "on its side and mirrored": lambda p: p.transpose(0, 2, 1),
    "on its other side and mirrored": lambda p: np.rot90(p, k=2, axes=(1, 2)).transpose(0, 2, 1),
}
LEAST_IMAGES = 50
_SIDE, _FOLDS = 12, 5
_RARE = np.log(1000)  # one image in a thousand lies otherwise: so strong must the evidence of one be
_TOLD_APART = 2.0  # standard deviations between the two halves and their border: below, most turned images would be missed


def orientation(subject: Subject) -> Iterator[Finding]:
    """Do some images lie on their side or mirrored, against all others of their kind?"""
    if len(subject) < LEAST_IMAGES:
        yield skipped(f"{counted(len(subject), 'image')}: fewer than {LEAST_IMAGES} do not show how the others lie")
        return
    found, unknown = turned(subject.sketches, subject.owner)
    for name in TURNS:
        places = np.flatnonzero(found == name)
        if len(places):
            yield flagged(
                "warn", f"{counted(len(places), 'image')} {'looks' if len(places) == 1 else 'look'} {name}",
                "look at them with --page; turn them in the PACS and send them again, or leave them out",
                look=subject.shown(places[:, None]), turn=name, images=len(places),
            )  # fmt: skip
    if unknown:
        yield skipped(f"these images do not show whether one is {', '.join(unknown)}")
    if not (found != "").any() and len(unknown) < len(TURNS):
        yield fine(f"all {counted(len(subject), 'image')} lie alike")


def turned(sketches: Sketches, owner: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.str_], list[str]]:
    """(n,) the turn that each image seems to have, or ""; and the turns that cannot be told here."""
    pictures = _pictures(sketches)
    fold = np.random.default_rng(0).permutation(int(owner.max()) + 1)[owner] % _FOLDS
    moments = [_moments(pictures[fold == number]) for number in range(_FOLDS)]
    best, name = np.full(len(pictures), _RARE), np.full(len(pictures), "", dtype="<U32")
    unknown = []
    for turn, lay in TURNS.items():
        evidence = _evidence(pictures, lay, fold, moments)
        if evidence is None:
            unknown.append(turn)
            continue
        stronger = evidence > best
        best[stronger], name[stronger] = evidence[stronger], turn
    name[~sketches.structured] = ""
    return name, unknown


def _pictures(sketches: Sketches) -> Floats:
    """(n, _SIDE, _SIDE) brought to one brightness and contrast."""
    small = reduced(sketches.means.astype(np.float32), _SIDE)
    small -= small.mean(axis=(1, 2), keepdims=True)
    return np.asarray(small / np.maximum(small.std(axis=(1, 2), keepdims=True), 1), dtype=np.float32)


def _moments(pictures: Floats) -> Moments:
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    return len(flat), flat.sum(axis=0), flat.T @ flat


def _evidence(
    pictures: Floats, lay: Turn, fold: npt.NDArray[np.int64], moments: list[Moments]
) -> npt.NDArray[np.float64] | None:  # fmt: skip
    """(n,) log of how much likelier each image is among the turned ones; None where the two cannot be told apart."""
    order = lay(np.arange(_SIDE**2, dtype=np.float32).reshape(1, _SIDE, _SIDE)).ravel().astype(np.int64)  # where each pixel comes from
    score = np.empty(len(pictures))
    for number in range(_FOLDS):
        count, total, squares = (sum(part) for part in zip(*(m for place, m in enumerate(moments) if place != number), strict=True))
        mean = total / count
        spread = squares / count - np.outer(mean, mean)
        spread = (spread + spread[order][:, order]) / 2
        spread.flat[:: len(spread) + 1] += spread.trace() / len(spread) * (0.01 + len(spread) / count)  # fewer images, less trust
        away = np.linalg.solve(spread, mean - mean[order])
        mine = pictures[fold == number].reshape(-1, _SIDE**2)
        score[fold == number] = (mine - (mean + mean[order]) / 2) @ away
    middle = float(np.median(score))
    width = 1.4826 * float(np.median(np.abs(score - middle)))  # of a Gaussian, whatever a few turned ones do
    if middle < _TOLD_APART * width or width == 0:
        return None
    return -2 * middle * score / width**2
