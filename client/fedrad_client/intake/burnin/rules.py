"""What people decided about text in pictures: of single files, and of everything that one device makes. Kept in the site's home."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydicom import Dataset

from fedrad_client.intake.burnin.boxes import Box
from fedrad_client.intake.deid.keys import PseudonymKeys, mac
from fedrad_common.canonical import Sha256, canonical_json, sha256_hex
from fedrad_common.config import Section, parse_json
from fedrad_common.files import write_json

RULES = Path("review") / "rules.json"
DEVICE_KEYWORDS = ("Manufacturer", "ManufacturerModelName", "SOPClassUID", "PhotometricInterpretation", "Rows", "Columns")
Decision = Literal["release", "mask", "reject"]


class FileVerdict(Section):
    """What a person said of one file, or of one like it."""

    verdict: Decision
    boxes: tuple[Box, ...] = ()  # to blank


class DeviceRule(Section):
    """What holds for every picture of one device, of one size."""

    mask: tuple[Box, ...] = ()  # blanked, whatever stands there
    harmless: tuple[Box, ...] = ()  # text there names nobody: a side, a position


class BurnRules(Section):
    """Empty by default: then every text that is found holds its file back."""

    format: Literal["fedrad-burn-1"] = "fedrad-burn-1"
    files: dict[Sha256, FileVerdict] = {}  # by the SHA-256 of a file
    devices: dict[str, DeviceRule] = {}

    @property
    def id(self) -> str:
        """Another one whenever a file that was looked at could now become other pixels."""
        return sha256_hex(canonical_json({name: rule.model_dump(mode="json") for name, rule in self.devices.items()}))


def read_rules(home: Path) -> BurnRules:
    """Those of a site; none where nobody decided anything yet. Raises FormatError: damaged."""
    try:
        return parse_json((home / RULES).read_bytes(), BurnRules, name=RULES.name)
    except FileNotFoundError:
        return BurnRules()


def write_rules(home: Path, rules: BurnRules) -> None:
    """Durable when this returns; mode 0600. Raises DiskError."""
    (home / RULES).parent.mkdir(mode=0o700, exist_ok=True)
    write_json(home / RULES, rules.model_dump(mode="json"))


def device_of(ds: Dataset, keys: PseudonymKeys) -> str:
    """A keyed name of what made a picture, and of its size: the same for all that have their text at the same place. Holds no text."""
    values: list[Any] = [str(ds.get(keyword, "")).strip(" \0") for keyword in DEVICE_KEYWORDS]
    return mac(keys.uid, b"device" + canonical_json(values))[:8].hex()
