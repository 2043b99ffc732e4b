"""`fedrad-site ingest`: from DICOM to a cohort."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit
from fedrad_common.errors import MisuseError


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(ingest)


def ingest(
    source: Annotated[Path | None, typer.Argument(help="Folder with DICOM files; without it, what was received into the inbox.")] = None,
    protocol: Annotated[Path | None, typer.Option(help="Whose input geometry and labels to prepare for.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV keyed by SOPInstanceUID, SeriesInstanceUID or PatientID.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Only say how many files are in which state, and why.")] = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Read, de-identify and normalise files into a new cohort generation. They are not changed.

    What an earlier ingest has read for the same protocol is not read again, also where it was interrupted or killed.

    Exit codes: 0 made, or nothing is new · 1 failed; the old generation stays current · 2 misused.

    Example: fedrad-site ingest /mnt/export --labels labels.csv --protocol chest.toml
    """
    from fedrad_client.intake.verb import ingest_folder, states_of

    if status:
        found = states_of(home)
        emit(found.facts(), as_json=as_json, lines=found.lines())
        return
    if protocol is None:
        raise MisuseError("--protocol: none given", hint="name the protocol to prepare for, or ask with --status")
    report = ingest_folder(home, source, protocol=protocol, labels=labels, quiet=as_json)
    emit(report.facts(), as_json=as_json, lines=report.lines())
