"""Who lives at which hospital: by a column of the data, by a label-skewed draw, or all at one."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedrad_common.errors import MisuseError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dirichlet:
    """A class's patients fall on the sites in proportions drawn from Dirichlet(alpha, …, alpha): the smaller alpha, the more skewed."""

    alpha: float


def parse_split(text: str) -> Dirichlet:
    """Read `dirichlet:ALPHA`.

    Raises:
        MisuseError: it is anything else.
    """
    kind, _, number = text.partition(":")
    try:
        alpha = float(number)
    except ValueError:
        alpha = 0.0
    if kind != "dirichlet" or not 1e-3 <= alpha <= 1e6:
        raise MisuseError(
            f"--split: {text!r} is not a split", hint="write dirichlet:ALPHA with ALPHA from 0.001 to 1000000, as dirichlet:2.0"
        )
    return Dirichlet(alpha)


def dirichlet_sites(classes: Indices, n_sites: int, *, split: Dirichlet, rng: np.random.Generator) -> Indices:
    """The site, 0 … n_sites - 1, of each patient.

    Args:
        classes: (n_patients,) the class of each patient, any integers.

    No site stays empty when there are as many patients as sites: the largest one gives.
    """
    sites = np.zeros(len(classes), dtype=np.int64)
    for value in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == value))
        shares = rng.dirichlet(np.full(n_sites, split.alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        sites[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    while len(classes) >= n_sites and (counts := np.bincount(sites, minlength=n_sites)).min() == 0:
        sites[rng.choice(np.flatnonzero(sites == counts.argmax()))] = counts.argmin()
    return sites


def patient_classes(labels: npt.NDArray[np.uint8], owner: Indices, n_patients: int) -> Indices:
    """One class a patient, from (n, L) labels of images: the pattern of labels that any of the images carries."""
    ever = np.zeros((n_patients, labels.shape[1]), dtype=np.uint8)
    np.maximum.at(ever, owner, labels)
    return np.unique(ever, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def site_names(values: list[str]) -> list[str]:
    """Names that a site may bear (letters, digits, `_`, `-`; at most 32), one for each distinct value, in order.

    Raises:
        MisuseError: a value leaves no name, or two leave the same.
    """
    names: dict[str, int] = {}
    for number, value in enumerate(values, start=1):
        name = re.sub(r"[^A-Za-z0-9_-]", "-", value).lstrip("-_")[:32]
        if not name:
            raise MisuseError(f"site: value #{number} holds no letter or digit", hint="site names are made of A-Z, a-z, 0-9, _ and -")
        if name in names:
            raise MisuseError(
                f"site: values #{names[name]} and #{number} both become {name!r}",
                hint="site names keep A-Z, a-z, 0-9, _ and - and at most 32 characters; rename one",
            )
        names[name] = number
    return list(names)
