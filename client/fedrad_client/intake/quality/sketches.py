"""Every image of a cohort made small, in one pass over the disk: enough for copies, orientation and borders, and little memory."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrad_client.cohort.images import Images
from fedrad_common.profiles import SCALE

Floats = npt.NDArray[np.float32]
SIDE, CELLS = 32, 16  # pixels of a sketch's edge, and cells of its two coarser grids
# A pixel of a burned-in letter: bright, and much brighter than what is around it, also where the image was made smaller since.
BRIGHT, BRIGHTER = 0.7 * SCALE, 0.3 * SCALE
LEAST_STRUCTURE = 0.03 * SCALE  # standard deviation of a picture; nearly black slices are all alike
_AROUND = 8  # squares of an edge: what a letter is brighter than
_CHUNK_BYTES = 16 * 10**6  # of stored pixels, read at a time


@dataclass(frozen=True)
class Sketches:
    """Of each image, in stored units."""

    means: npt.NDArray[np.uint16]  # (n, SIDE, SIDE)
    contrasts: npt.NDArray[np.uint16]  # (n, CELLS, CELLS) standard deviation inside each cell
    marks: npt.NDArray[np.uint16]  # (n, CELLS, CELLS) share of pixels in each cell that could be a letter's; SCALE is all of them

    def __len__(self) -> int:
        return len(self.means)

    @property
    def structured(self) -> npt.NDArray[np.bool_]:
        """(n,) whether there is anything to see on it."""
        parts = np.array_split(self.means, 1 + len(self) // 4096)
        return np.concatenate([part.std(axis=(1, 2)) > LEAST_STRUCTURE for part in parts])


def sketch(images: Images, *, progress: Callable[[int, int], None] = lambda done, total: None) -> Sketches:
    """Of a volume its middle slice. Raises FormatError when a file was changed."""
    step = max(1, _CHUNK_BYTES // (2 * int(np.prod(images.each))))
    means, contrasts, marks = (np.empty((len(images), side, side), dtype=np.uint16) for side in (SIDE, CELLS, CELLS))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        read = images[rows]
        pixels = (read if read.ndim == 3 else read[:, read.shape[1] // 2]).astype(np.float32)
        means[rows] = np.rint(reduced(pixels, SIDE))
        lettered = (pixels > BRIGHT) & (pixels - spread(reduced(pixels, _AROUND), pixels.shape[1:]) > BRIGHTER)
        marks[rows] = np.rint(SCALE * reduced(lettered.astype(np.float32), CELLS))
        # Around each image's own mean: the difference of two large squares would leave little in float32.
        pixels -= pixels.mean(axis=(1, 2), keepdims=True)
        variance = reduced(pixels**2, CELLS) - reduced(pixels, CELLS) ** 2
        contrasts[rows] = np.rint(np.sqrt(np.maximum(variance, 0)))
        progress(min(start + step, len(images)), len(images))
    return Sketches(means, contrasts, marks)


def reduced(pixels: Floats, side: int) -> Floats:
    """(n, H, W) to (n, side, side), each the mean of what it covers."""
    height, width = pixels.shape[1:]
    return np.asarray(areas(height, side) @ pixels @ areas(width, side).T)


def spread(cells: Floats, shape: tuple[int, ...]) -> Floats:
    """(n, side, side) to (n, H, W), each pixel the cell that its middle lies in."""
    down, across = ((np.arange(length) * 2 + 1) * cells.shape[1] // (2 * length) for length in shape)
    return cells[:, down][:, :, across]


def areas(length: int, cells: int) -> Floats:
    """(cells, length) weights of pixels in cells of equal width; each row adds up to 1."""
    edges = np.arange(cells + 1) * length / cells
    covered = np.minimum(edges[1:, None], np.arange(1, length + 1)) - np.maximum(edges[:-1, None], np.arange(length))
    return np.asarray(np.maximum(covered, 0) * cells / length, dtype=np.float32)
