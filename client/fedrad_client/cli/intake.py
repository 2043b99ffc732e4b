"""`fedrad-site ingest` and `deid`: from DICOM to a cohort."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (ingest, deid):
        app.command()(verb)


def ingest(
    source: Annotated[Path, typer.Argument(help="Folder with DICOM files.")],
    protocol: Annotated[Path, typer.Option(help="Whose input geometry and labels to prepare for.")],
    labels: Annotated[Path | None, typer.Option(help="CSV keyed by SOPInstanceUID, SeriesInstanceUID or PatientID.")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Read, de-identify and normalise a folder into a new cohort generation. The folder is not changed.

    Exit codes: 0 made, or nothing is new · 1 failed; the old generation stays current · 2 misused.

    Example: fedrad-site ingest /mnt/export --labels labels.csv --protocol chest.toml
    """
    from fedrad_client.intake.verb import ingest_folder

    report = ingest_folder(home, source, protocol=protocol, labels=labels, quiet=as_json)
    emit(report.facts(), as_json=as_json, lines=report.lines())


def deid(
    explain: Annotated[bool, typer.Option("--explain", help="Print every rule with its paragraph of PS3.15.")] = False,
    as_json: JsonOption = False,
) -> None:
    """De-identification: what is kept of a DICOM file. Everything not listed does not exist.

    Exit codes: 0 printed · 2 misused.

    Example: fedrad-site deid --explain
    """
    from fedrad_client.intake.deid.rules import explain as text
    from fedrad_client.intake.deid.rules import explained
    from fedrad_common.errors import MisuseError

    if not explain:
        raise MisuseError("deid: nothing to do", hint="use --explain; files are de-identified by `fedrad-site ingest`")
    kept = [{"keyword": keyword, "action": action, "kept": what} for keyword, action, what in explained()]
    emit({"format": "fedrad-deid-1", "rules": kept, "all_else": "does not exist"}, as_json=as_json, lines=[text()])
