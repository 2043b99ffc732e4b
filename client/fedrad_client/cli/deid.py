"""`fedrad-site deid` and `merge`: a folder of DICOM that identifies nobody, and who is one person."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (deid, merge):
        app.command()(verb)


def deid(
    folder: Annotated[Path | None, typer.Argument(help="Folder with DICOM files.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the de-identified files.")] = None,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Where to write which file became which. It leads back to patients.")
    ] = None,
    project: Annotated[
        str, typer.Option(help="What the files are for: each project has names, UIDs and date shifts of its own.")
    ] = "export",
    force: Annotated[bool, typer.Option("--force", help="Write everything anew, over what is there.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print every rule with its paragraph of PS3.15.")] = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """De-identify a folder to DICOM for another use, or tell what is kept. Everything not listed does not exist. The folder is not changed.

    Exit codes: 0 done; what was set aside is counted · 1 failed; the same command goes on · 2 misused.

    Example: fedrad-site deid /mnt/export --out given --map map.jsonl --project teaching --home north
    """
    if explain:
        _explain(as_json=as_json)
        return
    from fedrad_client.intake.deid.folder import deidentify, recipe_of
    from fedrad_client.site import Home
    from fedrad_common.errors import MisuseError
    from fedrad_common.progress import progress_bar

    if folder is None or out is None or map_file is None:
        raise MisuseError("deid: a folder, --out and --map belong together", hint="or use --explain to see what would be kept")
    site = Home(home)
    workers = site.config.resources.workers
    with progress_bar("de-identifying", quiet=as_json) as advance:
        recipe = recipe_of(site, project=project)
        report = deidentify(folder, recipe, out=out, map_path=map_file, force=force, review=site.path, workers=workers, progress=advance)
    emit(report.facts(), as_json=as_json, lines=report.lines())


def _explain(*, as_json: bool) -> None:
    from fedrad_client.intake.deid.explanation import explain, explained, table
    from fedrad_client.intake.deid.export_rules import MORE_RULES

    kept, exported = [vars(line) for line in explained()], [vars(line) for line in explained(MORE_RULES)[2:]]
    lines = [
        *explain().splitlines(),
        "",
        "and in an exported DICOM file, beside its pixels, which are written anew:",
        *table(MORE_RULES)[3:],
    ]
    emit({"format": "fedrad-deid-1", "rules": kept, "exported": exported, "all_else": "does not exist"}, as_json=as_json, lines=lines)


def merge(
    named: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    ids: Annotated[Path | None, typer.Option(help="File with the ids; without it they are read from stdin.")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Tell that several Patient IDs are one person's, from the next order and the next ingest on.

    One Patient ID a line; where the files name an Issuer of Patient ID, that behind it, after a tab. A blank line between two people.

    Exit codes: 0 merged, also where they were before · 1 failed · 2 misused.

    Example: fedrad-site merge --ids people.txt --home north
    """
    from fedrad_client.intake.deid.merging import merge_patients
    from fedrad_common.errors import MisuseError

    if named:  # and not repeated here: it is a patient's
        raise MisuseError("merge: an id on the command line stays in the shell's history", hint="give ids on stdin, or with --ids FILE")
    if ids is not None and not ids.is_file():
        raise MisuseError(f"--ids: {ids.name}: no such file", hint="a text file with one Patient ID a line")
    if ids is None and sys.stdin.isatty():
        typer.echo("one Patient ID a line, a blank line between two people; end with Ctrl-D", err=True)
    done = merge_patients(home, sys.stdin.buffer.read() if ids is None else ids.read_bytes())
    lines = [
        f"merged: {done.people} people, {done.already} of them before; {done.merged} ids are another's from now on; {done.listed} in all",
        "  from now on  no order reads the images of those ids in the generations made so far; ingest again, and they are the one person's",
        "  stays        what was spent; until now such a person could bear the cost of two",
    ]
    if done.apart:
        lines.append(
            f"  left out     {done.apart} people whose ids stood in training and in validation: in neither from now on, nobody moves"
        )
    if done.withdrawn:
        lines.append(f"  withdrawn    {done.withdrawn} people, because one of their ids was: all of their images stay out")
    emit(vars(done), as_json=as_json, lines=lines)
