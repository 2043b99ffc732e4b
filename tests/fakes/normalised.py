"""Writes one digest of what every profile makes of the same files: `python normalised.py SEED`, whose order of work the seed draws."""

import hashlib
import random
import sys

import numpy as np
from pydicom import Dataset

from fakes.slices import ct_series, enhanced
from fedrad_client.intake.pixels.image import Geometry, finished, scale_of, slices_of
from fedrad_client.intake.pixels.volume import volume_of
from fedrad_common.profiles import PROFILES

VOLUMES = ("ct", "mr")


def series(name: str) -> list[Dataset]:
    """Slices with noise and a fractional slope, as the profile's own modality."""
    made = ct_series(9, slope=0.37, thick=7.0)
    rng = np.random.default_rng(3)
    for ds in made:
        ds.Modality = PROFILES[name].modalities[0]
        ds.PixelData = (ds.pixel_array + rng.integers(0, 400, (40, 40))).astype("<i2").tobytes()
    return made


def digest(name: str, order: random.Random) -> str:
    geometry = Geometry(PROFILES[name], 37, 29)
    files = series(name)
    order.shuffle(files)
    slices = [one for ds in files for one in slices_of(ds, geometry)]
    scale = scale_of([one.tally for one in slices if one.tally], geometry.profile) if slices[0].tally else None
    images = sorted(finished(one, scale).tobytes() for one in slices)
    if name in VOLUMES:
        geometry = Geometry(PROFILES[name], 37, 29, 31, (2.2, 2.1, 1.9))
        cut = [one for ds in (files if order.random() < 0.5 else [enhanced(files)]) for one in slices_of(ds, geometry)]
        images.append(volume_of(cut, geometry).tobytes())
    return hashlib.sha256(b"".join(images)).hexdigest()


if __name__ == "__main__":
    drawn = random.Random(int(sys.argv[1]))
    names = list(PROFILES)
    drawn.shuffle(names)
    sys.stdout.write(" ".join(line for _, line in sorted((name, f"{name}:{digest(name, drawn)}") for name in names)))
