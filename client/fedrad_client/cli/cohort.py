"""`fedrad-site withdraw`: a patient leaves the cohort. Names come from stdin or a file, never from the command line."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    app.command()(withdraw)


def withdraw(
    named: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    ids: Annotated[Path | None, typer.Option(help="File with the ids; without it they are read from stdin.")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Keep patients out of training, evaluation and later ingests, from the next order on.

    One Patient ID a line; where the files name an Issuer of Patient ID, that behind it, after a tab.

    Exit codes: 0 withdrawn, also where it was before · 1 failed · 2 misused.

    Example: fedrad-site withdraw --ids withdrawn.txt --home north
    """
    from fedrad_client.intake.verb import withdraw_patients
    from fedrad_common.errors import MisuseError

    if named:  # and not repeated here: it is a patient's
        raise MisuseError("withdraw: an id on the command line stays in the shell's history", hint="give ids on stdin, or with --ids FILE")
    if ids is not None and not ids.is_file():
        raise MisuseError(f"--ids: {ids.name}: no such file", hint="a text file with one Patient ID a line")
    if ids is None and sys.stdin.isatty():
        typer.echo("one Patient ID a line; end with Ctrl-D", err=True)
    done = withdraw_patients(home, sys.stdin.buffer.read() if ids is None else ids.read_bytes())
    unknown = done.given - done.known
    lines = [
        f"withdrawn: {done.given} patients, {done.known} of them with images here, {done.already} of them before; {done.listed} in all",
        "  from now on  no order and no later ingest reads their images; a keyed tombstone of each is kept, to know them again",
        "  stays        what was spent, the declared size, and what was released: models that left are not unlearned",
        "  images       those of the generations made so far lie there unread: ingest again, and delete older ones when no run needs them",
    ]
    if unknown:
        lines.append(f"  warning: {unknown} are in no generation: check how they are written, and whether their files name an issuer")
    facts = {"given": done.given, "known": done.known, "unknown": unknown, "already": done.already, "withdrawn": done.listed}
    emit(facts, as_json=as_json, lines=lines)
