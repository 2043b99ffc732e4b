"""Pixel profiles as data: how stored DICOM values become what a model sees, the same at every site to the last bit."""

from typing import Literal

from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.config import Section
from fedrad_common.errors import ConfigError

# Pixels are kept as uint16; 0 is the window's lower end, SCALE its upper end. Training sees stored / SCALE in [0, 1].
SCALE = 65535


class PixelProfile(Section):
    """One image at a time: no statistic ever crosses a patient (privacy.md, rule 5)."""

    name: str
    version: int
    modalities: tuple[str, ...]  # DICOM Modality values taken in; others are quarantined
    invert_monochrome1: bool  # PS3.3 C.7.6.3.1.2: MONOCHROME1 shows the lowest value white
    apply_rescale: bool  # Modality LUT, PS3.3 C.11.1
    window: Literal["percentiles", "foreground-percentiles"]  # of the image without padding; "foreground" leaves the background's mode out
    lower: float  # percentile that becomes 0
    upper: float  # percentile that becomes SCALE

    @property
    def hash(self) -> str:
        return sha256_hex(canonical_json(self.model_dump(mode="json")))


PROFILES: dict[str, PixelProfile] = {
    "xr": PixelProfile(
        name="xr", version=1, modalities=("CR", "DX", "RG", "XA", "OT"),
        invert_monochrome1=True, apply_rescale=True, window="percentiles", lower=0.5, upper=99.5,
    ),
    "mr": PixelProfile(
        name="mr", version=1, modalities=("MR", "CT"),
        invert_monochrome1=True, apply_rescale=True, window="foreground-percentiles", lower=1.0, upper=99.0,
    ),
}  # fmt: skip


def profile(name: str) -> PixelProfile:
    if name not in PROFILES:
        raise ConfigError(f"input.profile: {name!r} is not known", hint=f"known profiles: {', '.join(PROFILES)}")
    return PROFILES[name]
