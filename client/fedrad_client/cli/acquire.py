"""`fedrad-site receive` and `pull`: files from a PACS."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (receive, pull):
        app.command()(verb)


def receive(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Take in what a PACS or a modality sends by C-STORE, into the inbox, until SIGTERM. Who may call stands in site.toml, [receive].

    Exit codes: 0 ended in order · 1 failed · 2 misused, or nobody may call.

    Example: fedrad-site receive --home north
    """
    import signal
    import threading

    from fedrad_client.intake.acquire import verb
    from fedrad_client.site import Home

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    done = verb.receive(Home(home), stop, said=(lambda line: typer.echo(line, err=True)) if as_json else typer.echo)
    emit(vars(done), as_json=as_json, lines=[done.line])


def pull(
    query: Annotated[Path, typer.Argument(help="File that says from where, and what.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what fits.")] = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Fetch series from a PACS into the inbox, by C-GET, C-MOVE or DICOMweb. The same again fetches what is new, or what broke off.

    Exit codes: 0 done; series that broke off are counted · 1 the archive is away or refuses · 2 misused.

    Example: fedrad-site pull chest.pull.toml --home north
    """
    from fedrad_client.intake.acquire import verb
    from fedrad_client.site import Home

    done = verb.pull_from(Home(home), query, dry_run=dry_run, quiet=as_json)
    emit(verb.facts_of(done), as_json=as_json, lines=verb.lines_of(done, dry_run=dry_run))
