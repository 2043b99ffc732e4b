"""Chest radiographs that never belonged to anyone: anatomy, lesions of known place, size and contrast, and a scanner's fingerprint."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Images: TypeAlias = npt.NDArray[np.floating[Any]]  # (n, H, W)
Column: TypeAlias = npt.NDArray[np.floating[Any]]  # (n, 1, 1), one number an image
MAX_LESIONS = 2
NODULE, CONSOLIDATION = 0, 1

# Half-axes and centres in body coordinates: x to the image's right (the patient's left), y down, the frame is about [-1, 1]².
LUNG_X, LUNG_Y, LUNG_WIDTH, LUNG_HEIGHT = 0.42, 0.34, 0.315, 1.06
DIAPHRAGM = 0.50
_FIELD = 640  # side of the noise fields that textures are cropped from, in pixels


@dataclass(frozen=True)
class Drift:
    """One scanner and its habits: what makes one hospital's images differ from the next one's."""

    modality: Literal["CR", "DX"] = "DX"
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    bits_stored: Literal[10, 12, 14, 16] = 12
    rows: int = 96  # pixels, before padding
    columns: int = 96
    gain: float = 1.0  # of the contrast around mid-grey
    gamma: float = 1.0
    blur: float = 0.5  # pixels, standard deviation
    noise: float = 0.015  # standard deviation at full exposure; the full grey range is 1
    rescale: tuple[float, float] = (1.0, 0.0)  # slope, intercept
    padding: int = 0  # pixels of border with PixelPaddingValue
    collimation: float = 0.0  # part of the frame's width and height that the shutter blackens at each side


@dataclass(frozen=True)
class Bodies:
    """Anatomy of n patients or images, one row each; lesions in body coordinates, contrast 0 where there is none."""

    shape: npt.NDArray[np.float32]  # (n, 12), standard normal
    place: npt.NDArray[np.float32]  # (n, MAX_LESIONS, 2), x and y
    radius: npt.NDArray[np.float32]  # (n, MAX_LESIONS)
    contrast: npt.NDArray[np.float32]  # (n, MAX_LESIONS), of the attenuation; a lung is 0.42 darker than the chest wall
    kind: npt.NDArray[np.int8]  # (n, MAX_LESIONS), NODULE or CONSOLIDATION

    def of(self, patients: npt.NDArray[np.int64]) -> "Bodies":
        return Bodies(self.shape[patients], self.place[patients], self.radius[patients], self.contrast[patients], self.kind[patients])


def draw_bodies(diseased: npt.NDArray[np.bool_], rng: np.random.Generator) -> Bodies:
    """Patients' anatomy, and one or two subtle lesions inside the lungs of the diseased ones."""
    n = len(diseased)
    side = rng.choice([-1.0, 1.0], (n, MAX_LESIONS))
    angle, reach = rng.uniform(0, 2 * np.pi, (n, MAX_LESIONS)), np.sqrt(rng.uniform(0, 1, (n, MAX_LESIONS)))
    y = -0.08 + 0.44 * reach * np.sin(angle)
    x = side * (LUNG_X + 0.05 * y) + 0.2 * reach * np.cos(angle)
    kind = (rng.random((n, MAX_LESIONS)) < 0.6).astype(np.int8)
    radius = np.where(kind == NODULE, rng.uniform(0.10, 0.16, kind.shape), rng.uniform(0.20, 0.32, kind.shape))
    contrast = np.where(kind == NODULE, rng.uniform(0.30, 0.50, kind.shape), rng.uniform(0.26, 0.43, kind.shape))
    present = np.stack([diseased, diseased & (rng.random(n) < 0.5)], axis=1)
    return Bodies(
        shape=rng.standard_normal((n, 12), dtype=np.float32),
        place=np.stack([x, y], axis=2).astype(np.float32),
        radius=radius.astype(np.float32),
        contrast=np.where(present, contrast, 0).astype(np.float32),
        kind=kind,
    )


@dataclass(frozen=True)
class Poses:
    """How n images were taken: shifts in body units, tilt in radians, breath as a scale of the chest's height."""

    x: Column
    y: Column
    tilt: Column
    breath: Column

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> "Poses":
        normal = rng.standard_normal((4, n, 1, 1), dtype=np.float32)
        return cls(x=0.035 * normal[0], y=0.03 * normal[1], tilt=0.03 * normal[2], breath=1 + 0.03 * normal[3])

    def to_body(self, drift: Drift) -> tuple[Images, Images]:
        """Body coordinates of every pixel of the unpadded matrix, (n, H, W) each."""
        half = min(drift.rows, drift.columns) / 2
        v = ((np.arange(drift.rows, dtype=np.float32) - (drift.rows - 1) / 2) / half)[None, :, None]
        u = ((np.arange(drift.columns, dtype=np.float32) - (drift.columns - 1) / 2) / half)[None, None, :]
        return u + self.tilt * v - self.x, (v - self.tilt * u - self.y) * self.breath

    def to_pixel(self, place: npt.NDArray[np.float32], drift: Drift) -> npt.NDArray[np.float32]:
        """Row and column, (n, k, 2), in the padded matrix, of body coordinates (n, k, 2): the inverse of `to_body`."""
        x, y, tilt = self.x[:, :, 0], self.y[:, :, 0], self.tilt[:, :, 0]
        a, b = place[..., 0] + x, place[..., 1] / self.breath[:, :, 0] + y
        u, v = (a - tilt * b) / (1 + tilt**2), (b + tilt * a) / (1 + tilt**2)
        half = min(drift.rows, drift.columns) / 2
        row, column = v * half + (drift.rows - 1) / 2, u * half + (drift.columns - 1) / 2
        return np.stack([row, column], axis=2).astype(np.float32) + drift.padding


class Textures:
    """Smooth random fields of unit variance, made once a hospital and cropped at random for each image."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._fields = {sigma: self._field(sigma, rng) for sigma in (1.2, 2.5, 6.0)}
        self._rng = rng

    @staticmethod
    def _field(sigma: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        field = ndimage.gaussian_filter(rng.standard_normal((_FIELD, _FIELD), dtype=np.float32), sigma, mode="wrap")
        return np.asarray(field / field.std(), dtype=np.float32)

    def crop(self, sigma: float, n: int, drift: Drift) -> Images:
        top, left = self._rng.integers(0, _FIELD - drift.rows, n), self._rng.integers(0, _FIELD - drift.columns, n)
        crops = [self._fields[sigma][t : t + drift.rows, s : s + drift.columns] for t, s in zip(top, left, strict=True)]
        return np.stack(crops)


def attenuation(bodies: Bodies, poses: Poses, *, drift: Drift, textures: Textures) -> Images:
    """What the rays met: 0 is air, about 1 the densest bone; (n, H, W) before any scanner touched it."""
    x, y = poses.to_body(drift)
    n = len(x)
    s = bodies.shape[:, :, None, None]
    x, y = x / (1 + 0.04 * s[:, 0]), y / (1 + 0.04 * s[:, 1])
    across = np.abs(x)
    fine, middle, coarse = (textures.crop(sigma, n, drift) for sigma in (1.2, 2.5, 6.0))
    body = _inside(across - 0.34 - 0.60 * _inside(-0.84 - y, 0.05) - 0.02 * s[:, 2], 0.02)
    lungs = _lung(x, y, -1.0, s) + _lung(x, y, 1.0, s)
    total = body * (0.66 - 0.14 * across**2 + 0.10 * _inside(DIAPHRAGM - y, 0.15)) - 0.42 * lungs
    total += _skeleton(x, y, s) * body
    total += 0.34 * _inside(_ellipse(x - 0.14, y - 0.24 - 0.03 * s[:, 3], 0.33 + 0.03 * s[:, 4], 0.30), 0.06) * body  # heart
    total += 0.16 * _inside(across - 0.115 - 0.02 * s[:, 5], 0.035) * _inside(-0.72 - y, 0.1)  # mediastinum
    total += 0.10 * _inside(_ellipse(x - 0.13, y + 0.30, 0.10, 0.10), 0.12)  # aortic knob
    total -= 0.10 * _inside(np.abs(x + 0.01) - 0.045, 0.012) * _inside(y + 0.34, 0.04) * body  # trachea
    hilum = np.exp(-((across - 0.22) ** 2 / 0.05 + (y + 0.02) ** 2 / 0.10))
    vessels = np.exp(-((middle / 0.35) ** 2))
    total += lungs * vessels * (0.04 + 0.13 * hilum)
    total += 0.06 * hilum * lungs
    total += body * (0.020 * coarse + 0.014 * middle + 0.010 * fine)
    return total + _lesions(bodies, x, y, middle) * np.clip(0.25 + lungs, 0, 1)


def _inside(distance: Images, softness: float) -> Images:
    """1 where the signed distance is negative, 0 where positive, with a soft edge."""
    return np.asarray(0.5 - 0.5 * np.tanh(distance / (2 * softness)), dtype=np.float32)


def _ellipse(x: Images, y: Images, width: Images | float, height: float) -> Images:
    return np.asarray(np.sqrt((x / width) ** 2 + (y / height) ** 2) - 1, dtype=np.float32)


def _lung(x: Images, y: Images, side: float, s: Images) -> Images:
    centre = side * (LUNG_X + 0.06 * y)
    outline = _inside(_ellipse(x - centre, y - LUNG_Y, LUNG_WIDTH + 0.012 * s[:, 6], LUNG_HEIGHT), 0.035)
    # The right dome (image's left) stands higher: the liver is below it.
    floor = DIAPHRAGM + 0.03 * side + 0.04 * s[:, 7] + 1.6 * (x - centre + 0.05 * side) ** 2
    return outline * _inside(y - floor, 0.02)


def _skeleton(x: Images, y: Images, s: Images) -> Images:
    across = np.abs(x)
    spacing = 0.165 + 0.008 * s[:, 8]
    posterior = np.cos((y + 0.04 * s[:, 9] - 0.55 * across + 0.75 * (across - 0.3) ** 2) * (2 * np.pi / spacing))
    anterior = np.cos((y + 0.06 * s[:, 10] + 0.9 * across - 1.5 * (across - 0.45) ** 2) * (2 * np.pi / spacing))
    cage = _inside(across - 0.82, 0.02) * _inside(y - 0.62, 0.06) * _inside(-0.80 - y, 0.04)
    ribs = 0.09 * _inside(0.15 - posterior, 0.09) + 0.04 * _inside(0.3 - anterior, 0.12) * _inside(0.3 - across, 0.06)
    spine = _inside(across - 0.075, 0.02) * (0.13 + 0.03 * np.cos(y * (2 * np.pi / 0.12)))
    clavicle = _inside(np.abs(y + 0.60 + 0.22 * (across - 0.1) + 0.03 * s[:, 11]) - 0.028, 0.012) * _inside(across - 0.78, 0.04)
    return np.asarray(cage * ribs * _inside(0.07 - across, 0.02) + spine + 0.09 * clavicle * _inside(0.08 - across, 0.02), dtype=np.float32)


def _lesions(bodies: Bodies, x: Images, y: Images, texture: Images) -> Images:
    total = np.zeros_like(x)
    for slot in range(MAX_LESIONS):
        ill = np.flatnonzero(bodies.contrast[:, slot] > 0)
        if not len(ill):
            continue
        px, py = bodies.place[ill, slot, :].T[:, :, None, None]
        radius = bodies.radius[ill, slot][:, None, None]
        square = ((x[ill] - px) ** 2 + (y[ill] - py) ** 2) / radius**2
        nodule, consolidation = np.exp(-(square**2)), np.exp(-square) * np.clip(1 + 0.35 * texture[ill], 0, 2)
        profile = np.where(bodies.kind[ill, slot][:, None, None] == NODULE, nodule, consolidation)
        total[ill] += bodies.contrast[ill, slot][:, None, None] * profile
    return total


def expose(density: Images, drift: Drift, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """What the scanner stores of `attenuation`'s result: (n, H + 2p, W + 2p), within `bits_stored`, inverted for MONOCHROME1.

    Real pixels keep clear of both ends of the range, so that the padding value is never a measured one.
    """
    seen = np.clip((1.0 - np.exp(-1.5 * np.clip(density, 0, None))) / 0.78, 0, 1) ** drift.gamma
    seen = np.clip(0.5 + drift.gain * (seen - 0.5), 0, 1)
    seen = ndimage.gaussian_filter(seen, (0, drift.blur, drift.blur))
    seen += drift.noise * (0.6 + 0.8 * seen) * rng.standard_normal(seen.shape, dtype=np.float32)
    rows, columns = round(drift.collimation * drift.rows), round(drift.collimation * drift.columns)
    shutter = np.zeros(seen.shape[1:], dtype=bool)
    shutter[rows : drift.rows - rows, columns : drift.columns - columns] = True
    seen = np.where(shutter, np.clip(seen, 0, 1), 0)
    top = 2**drift.bits_stored - 1
    margin = top // 64
    values = np.rint(margin + (top - 2 * margin) * (1 - seen if drift.photometric == "MONOCHROME1" else seen)).astype(np.uint16)
    width = (0, 0), (drift.padding, drift.padding), (drift.padding, drift.padding)
    return np.pad(values, width, constant_values=padding_value(drift))


def padding_value(drift: Drift) -> int:
    """Black on the screen: the lowest stored value, or the highest of MONOCHROME1."""
    return 2**drift.bits_stored - 1 if drift.photometric == "MONOCHROME1" else 0
