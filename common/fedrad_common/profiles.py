"""Pixel profiles as data: how stored DICOM values become what a model sees, the same at every site to the last bit."""

from typing import Literal

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.config import Section
from fedrad_common.errors import ConfigError

# Pixels are kept as uint16; 0 is the window's lower end, SCALE its upper end. Training sees stored / SCALE in [0, 1].
SCALE = 65535


class PixelProfile(Section):
    """What is done to one image, or to one series of one patient: no statistic ever crosses a patient (privacy.md, rule 5)."""

    name: str
    version: int  # raised whenever the same file would become other pixels, by a value here or by the code that applies it
    modalities: tuple[str, ...]  # DICOM Modality values taken in; others are quarantined
    invert_monochrome1: bool = True  # PS3.3 C.7.6.3.1.2: MONOCHROME1 shows the lowest value white
    apply_rescale: bool = True  # Modality LUT, PS3.3 C.11.1, per frame
    apply_voi_table: bool = False  # VOI LUT Sequence, PS3.3 C.11.2.1.1; centre and width never are: `window` takes their place
    hounsfield: bool = False  # the rescale must lead to HU; others are quarantined
    localizers: bool = True  # ImageType's third value may be LOCALIZER
    upright: bool = False  # turned to the patient's axes, by Image Orientation (Patient)
    chest_wall_left: bool = False  # mirrored, so that the breast's heavier side is on the left
    # Which pixels the window is found from. Padding never counts.
    #   foreground: above `background`. body: the largest part that no dark or white margin cuts off.
    #   breast: the largest that no dark one does, and all else becomes 0.
    region: Literal["image", "foreground", "body", "breast"]
    # Part of the way from the 1st to the 99th percentile: below it lies air, table or bed; as near to the 99th, a collimator.
    background: float = 0.0
    window: Literal["percentiles", "fixed", "z-score"]  # z-score: of all the series' slices together
    lower: float  # percentile, HU, or standard deviations from the mean, that becomes 0
    upper: float  # the same for SCALE

    @property
    def hash(self) -> str:
        return sha256_hex(canonical_json(self.model_dump(mode="json")))


def _ct(name: str, lower: float, upper: float) -> PixelProfile:
    return PixelProfile(
        name=name, version=1, modalities=("CT",), hounsfield=True, localizers=False, upright=True,
        region="image", window="fixed", lower=lower, upper=upper,
    )  # fmt: skip


_ALL = (
    PixelProfile(
        name="xr", version=2, modalities=("CR", "DX", "RG", "XA", "OT"), apply_voi_table=True,
        region="body", background=0.05, window="percentiles", lower=0.5, upper=99.5,
    ),
    PixelProfile(
        name="mg", version=1, modalities=("MG",), apply_voi_table=True, chest_wall_left=True,
        region="breast", background=0.05, window="percentiles", lower=0.5, upper=99.5,
    ),
    PixelProfile(
        name="mr", version=2, modalities=("MR",), upright=True,
        region="foreground", background=0.1, window="z-score", lower=-2.0, upper=5.0,
    ),
    _ct("ct", -1000.0, 1000.0),
    _ct("ct-brain", 0.0, 80.0),
    _ct("ct-lung", -1350.0, 150.0),
    _ct("ct-soft", -160.0, 240.0),
)  # fmt: skip
PROFILES: dict[str, PixelProfile] = {one.name: one for one in _ALL}


def profile(name: str, version: int | None = None) -> PixelProfile:
    """The profile of that name; of one version only, where a protocol names it.

    Raises:
        ConfigError: no such profile, or this release has another version of it.
    """
    if name not in PROFILES:
        raise ConfigError(f"input.profile: {name!r} is not known", hint=f"known profiles: {', '.join(PROFILES)}")
    found = PROFILES[name]
    if version not in (None, found.version):
        raise ConfigError(
            f"input.profile_version: {name!r} has version {found.version} here, not {version}",
            hint="all sites run the release whose profile the protocol names; or write the protocol anew",
        )
    return found
