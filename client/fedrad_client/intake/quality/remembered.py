"""What the newest check said, kept beside the generations, so that who is about to approve is reminded. Loads nothing heavy."""

from pathlib import Path
from typing import Any

from fedrad_client.cohort.store import MANIFEST, folder_name
from fedrad_client.intake.quality.findings import counted
from fedrad_common.errors import FedradError
from fedrad_common.files import read_json, sha256_file, write_json

REMEMBERED = "check.json"
FORMAT = "fedrad-check-1"


def remember(directory: Path, value: dict[str, Any]) -> None:
    """For who approves. Raises DiskError."""
    write_json(directory / REMEMBERED, value)


def reminder(directory: Path, generation: int) -> str | None:
    """One line for who is about to approve; None where a check of this very generation found nothing to fail it for."""
    say = "see `fedrad-site cohort check`"
    try:
        value = read_json(directory / REMEMBERED, expected_format=FORMAT)
        if value["manifest"] != sha256_file(directory / folder_name(generation) / MANIFEST):
            return f"data quality: generation {generation} was not checked: {say}"
        failed, warned = int(value["fail"]), int(value["warn"])
    except (OSError, KeyError, TypeError, ValueError, FedradError):
        return f"data quality: generation {generation} was not checked: {say}"
    return f"data quality: {counted(failed, 'check')} failed, {counted(warned, 'warning')}: {say}" if failed else None
