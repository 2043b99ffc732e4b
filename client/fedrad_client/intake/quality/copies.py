"""The same picture under two patients: one person with two IDs, a mix-up, or a validation image that was trained on.

A perceptual hash with real values: the 143 lowest frequencies of a cosine transform (as pHash takes 64 of them, and their signs), each
measured from the cohort's mean and in its spread, so that what all chests share counts for nothing. Within one patient nothing is compared:
slices of one stack are alike, and nobody is in two parts.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

from fedrad_client.intake.quality.findings import Finding, counted, fine, flagged
from fedrad_client.intake.quality.sketches import Floats, Sketches
from fedrad_client.intake.quality.subject import Subject

# Tried on 5,232 real chest radiographs and 3,929 brain slices: of copies after JPEG (quality 30), another window or gamma, 2° of rotation
# or 4 % of cropping, 75 to 100 % reach the first; of other patients' images none of the chests, and 25 pairs of the brains, up to 0.96.
# A copy that was moved by 2 % of its width, or has a large new mark, is missed.
ALIKE, SAME = 0.92, 0.97
FREQUENCIES = 143
_ENOUGH_FOR_A_MEAN = 50  # images; with fewer, what sets two apart is not known, and only the same will do
_MOST_PAIRS = 20_000
_BLOCK, _STRIPE = 512, 8192  # images compared at a time
Pairs = npt.NDArray[np.int64]  # (k, 2) ascending places


def copies(subject: Subject) -> Iterator[Finding]:
    """Are there nearly the same images under two patients, across training and validation above all?"""
    pairs, likeness = alike(subject.sketches, subject.owner)
    across = subject.validates[pairs[:, 0]] != subject.validates[pairs[:, 1]]
    labels = subject.labels[pairs]
    opposed = ((labels[:, 0] != labels[:, 1]) & ~np.isnan(labels).any(axis=1)).any(axis=1)
    for chosen, verdict, what, remedy in (
        (across & (likeness >= SAME), "fail", "the same image, one in training and one in validation", _LEAK),
        (across & (likeness < SAME), "warn", "much the same image, one in training and one in validation", _LEAK),
        (~across, "warn", "nearly the same image under two patients of one part", _TWO_IDS),
        (opposed, "warn", "nearly the same image with opposite labels", "at most one of the two labels is right"),
    ):
        count, more = int(chosen.sum()), "at least " if len(pairs) >= _MOST_PAIRS else ""
        if count:
            yield flagged(
                "fail" if verdict == "fail" else "warn", f"{more}{counted(count, 'pair')} of {what}", remedy,
                look=subject.shown(pairs[chosen]), pairs=count,
            )  # fmt: skip
    if not len(pairs):
        yield fine(f"no two patients share nearly the same image, of {counted(len(subject), 'image')}")


_LEAK = "look at them with --page; scores on such images say nothing: merge the IDs if it is one person, or leave the copies out"
_TWO_IDS = "look at them with --page; one person with two IDs counts, and is protected, as two people until the IDs are merged"


def alike(sketches: Sketches, owner: npt.NDArray[np.int64]) -> tuple[Pairs, Floats]:
    """Pairs of different owners whose pictures are nearly the same, the most alike first, and how much; at most `_MOST_PAIRS`.

    Every image is compared with every other one, in blocks, as a matrix product: for 100,000 images that takes half a minute, is exact,
    and takes no longer where all pictures are of one kind, as an index of hashes would.
    """
    least = ALIKE if sketches.structured.sum() >= _ENOUGH_FOR_A_MEAN else SAME
    prints, found, alikes = fingerprints(sketches), [np.empty((0, 2), dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for start in range(0, len(prints), _BLOCK):
        for left in range(start, len(prints), _STRIPE):
            likeness = prints[start : start + _BLOCK] @ prints[left : left + _STRIPE].T
            row, column = np.nonzero(likeness >= least)
            kept = (row + start < column + left) & (owner[row + start] != owner[column + left])
            found.append(np.stack([row + start, column + left], axis=1)[kept])
            alikes.append(likeness[row, column][kept])
        if sum(map(len, found)) >= _MOST_PAIRS:
            break
    pairs, likeness = np.concatenate(found), np.concatenate(alikes)
    order = np.argsort(-likeness, kind="stable")[:_MOST_PAIRS]
    return pairs[order], likeness[order]


def fingerprints(sketches: Sketches) -> Floats:
    """(n, 143) unit vectors, or zeros for a picture without structure; the scalar product of two is how alike they are."""
    structured, parts = sketches.structured, np.array_split(sketches.means, 1 + len(sketches) // 1024)
    found = np.concatenate([_frequencies(part) for part in parts])
    if structured.sum() >= _ENOUGH_FOR_A_MEAN:
        found -= found[structured].mean(axis=0)
        found /= np.maximum(found[structured].std(axis=0), 1e-6)
    found[~structured] = 0
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6), dtype=np.float32)


def _frequencies(means: npt.NDArray[np.uint16]) -> Floats:
    """(n, 143) of pictures brought to one brightness and contrast; higher ones weigh more, as they do where the spread is known."""
    down, across = np.mgrid[:17, :17]
    chosen = np.argsort((down + across).ravel(), kind="stable")[1 : FREQUENCIES + 1]  # without the mean brightness
    pixels = means.astype(np.float32)
    pixels /= np.maximum(pixels.std(axis=(1, 2), keepdims=True), 1)
    found = dctn(pixels, axes=(1, 2), norm="ortho")[:, :17, :17].reshape(len(means), -1)[:, chosen]
    return np.asarray(found * (down + across).ravel()[chosen], dtype=np.float32)
