"""`fedrad-coordinator watch` and `status`: how things stand, from files alone."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (watch, status):
        app.command()(verb)


def watch(
    home: HomeArgument,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Below HOME/runs; by default the one that is played, or the last one.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch a run: which site answered which round, who is late and why, epsilon so far, when each site last spoke.

    Ends when the run is finished or stopped.

    Live on a terminal; plain lines for what changes elsewhere; with --json one snapshot. Epsilon is an upper bound for the accepted
    updates by the sites' own statements; each site's ledger is the authority.
    Exit codes: 0 shown · 1 failed · 2 misused · 130 Ctrl-C, the run goes on.

    Example: fedrad-coordinator watch coordinator chest-1
    """
    from datetime import UTC, datetime

    from fedrad_common.errors import MisuseError
    from fedrad_server import wanted
    from fedrad_server.display import as_value, lines
    from fedrad_server.following import follow
    from fedrad_server.home import Home
    from fedrad_server.watch import chosen_run, snapshot

    Home.open(home)
    folder = wanted.find(home, run) if run is not None else chosen_run(home)
    if folder is None:
        raise MisuseError("no runs yet", hint=f"launch one with: fedrad-coordinator launch {home} PROTOCOL")
    if once or as_json:
        found = snapshot(home, folder, datetime.now(UTC))
        emit(as_value(found), as_json=as_json, lines=lines(found))
        return
    follow(home, folder, over=frozenset({"finished", "stopped"}))


def status(
    place: Annotated[Path, typer.Argument(metavar="HOME|RUN", help="The coordinator's folder, or a run's, such as HOME/runs/chest-1.")],
    as_json: JsonOption = False,
) -> None:
    """Show how the coordinator stands, or how far a run is, from its records alone; a running one may be asked too.

    Exit codes: 0 shown · 1 failed · 2 misused.

    Example: fedrad-coordinator status coordinator --json
    """
    if (place / "roster.json").is_file():
        _status_of_home(place, as_json)
    else:
        _status_of_run(place, as_json)


def _status_of_home(home: Path, as_json: bool) -> None:
    from datetime import UTC, datetime

    from fedrad_server.display import seconds
    from fedrad_server.standing import standing

    found = standing(home, datetime.now(UTC))
    lines = [
        f"coordinator  {'running' if found['supervised'] else 'not running: start it with: fedrad-coordinator start ' + str(home)}",
        f"server       {found['server'] or 'not listening'}" + (f", health {found['health']}" if found["health"] else ""),
        f"playing      {found['playing'] or 'nothing'}",
        *(
            f"site         {row['site']}: last contact {'never' if row['age'] is None else seconds(row['age']) + ' ago'}"
            for row in found["sites"]
        ),
    ]
    emit(found, as_json=as_json, lines=lines)


def _status_of_run(run: Path, as_json: bool) -> None:
    from fedrad_server.cli.runs import summary

    found = summary(run)
    lines = [
        f"run       {found['run']}",
        f"protocol  {found['name']} {found['protocol'][:16]}",
        f"round     {found['round']} of {found['rounds']}, epoch {found['epoch']}",
        f"state     {found['state']}" + (f": {found['reason']}" if found["reason"] else ""),
        f"sites     {len(found['sites'])}; in the open round: {', '.join(found['accepted']) or 'none yet'}",
    ]
    emit(found, as_json=as_json, lines=lines)
