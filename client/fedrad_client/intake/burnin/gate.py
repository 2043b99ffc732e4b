"""Whether a picture may go on: what its header says is a gate, but lies; so every frame that passes it meets the detector as well."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from fedrad_client.intake.burnin.boxes import Box, merged
from fedrad_client.intake.burnin.detector import find_text
from fedrad_client.intake.burnin.rules import BurnRules, DeviceRule
from fedrad_client.intake.codes import Code
from fedrad_client.intake.pixels.array import Array

SEARCH = 2  # raised with every change of the gate or the detector: files that an older one let pass are judged again
GATE_KEYWORDS = ("BurnedInAnnotation", "ImageType", "Modality")
# Pictures of a screen, with the names that stood on it: ultrasound and secondary capture (PS3.4 B.5), the retired ones too.
SCREENS = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("3", "3.1", "6", "6.1", "6.2", "7", "7.1", "7.2", "7.3", "7.4")
)  # fmt: skip
SCREEN_MODALITIES = frozenset(("US", "IVUS", "SC"))
SCREEN_TYPES = frozenset(("SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "SCREEN CAPTURE"))  # among the values of Image Type


@dataclass(frozen=True)
class Verdict:
    """What becomes of a file, and what a reviewer should look at."""

    code: Code | None = None
    boxes: tuple[Box, ...] = ()  # what would be blanked: text, and some room around it
    frame: int = 0  # in which it was found, from 0
    masks: tuple[Box, ...] = ()  # to blank before anything else is done


def judge(ds: Dataset, frames: Array, rules: BurnRules, *, content: str, device: str) -> Verdict:
    """One file, on its own.

    Args:
        frames: (N, H, W) stored values.
        content: SHA-256 of the file. device: of `device_of`.
    """
    if (decided := rules.files.get(content)) is not None:
        return Verdict("rejected") if decided.verdict == "reject" else Verdict(masks=decided.boxes)
    rule = rules.devices.get(device)
    if rule is None and (code := _by_header(ds)) is not None:
        return Verdict(code, _to_blank(find_text(frames[0]), frames[0]))
    known = rule or DeviceRule()
    for number, frame in enumerate(frames):
        found = tuple(box for box in find_text(frame) if not any(area.covers(box) for area in (*known.mask, *known.harmless)))
        if found:
            return Verdict("burned-in", _to_blank(found, frame), number)
    return Verdict(masks=known.mask)


def _to_blank(found: tuple[Box, ...], frame: Array) -> tuple[Box, ...]:
    return merged(box.grown(frame.shape) for box in found)


def _by_header(ds: Dataset) -> Code | None:
    if str(ds.get("SOPClassUID", "")) in SCREENS or str(ds.get("Modality", "")).strip() in SCREEN_MODALITIES:
        return "needs-mask"
    if str(ds.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        return "burned-in"
    types = ds.get("ImageType", ())
    values = [types] if isinstance(types, str) else list(types or ())
    return "burned-in" if SCREEN_TYPES & {str(value).strip().upper() for value in values} else None
