"""`fedrad-coordinator launch`, `stop`, `resume` and `runs`: what is to be played. Playing is the supervisor's; these write and look."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrad_common.cli import INTERRUPTED, emit
from fedrad_server.cli.options import HomeArgument, JsonOption

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder below HOME/runs, such as pneumonia.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Do not wait for its end: only ask for it to be played.")]
_PATIENCE = 20.0  # seconds for a player to end


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (launch, stop, resume, runs):
        app.command()(verb)


def launch(
    home: HomeArgument,
    protocol: Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The protocol's TOML file.")],
    name: Annotated[str | None, typer.Option(help="The run's folder below HOME/runs; the protocol's name by default.")] = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train: `start` plays the run with the admitted sites, one run at a time; this shows it until it is finished or paused.

    Sites that did not approve stay silent. Ctrl-C only stops showing it.
    Exit codes: 0 finished, or asked for with --detach · 1 paused, stopped or failed · 2 misused · 130 Ctrl-C, the run goes on.

    Example: fedrad-coordinator launch coordinator chest.toml --name chest-1
    """
    from fedrad_server.launching import create_run

    _follow(home, create_run(home, protocol, name), detach=detach, as_json=as_json)


def resume(home: HomeArgument, run: RunName, detach: DetachOption = False, as_json: JsonOption = False) -> None:
    """Go on with a run that was stopped or is paused; what was accepted is not asked for again.

    Exit codes: 0 finished, or asked for with --detach · 1 paused, stopped or failed · 2 misused · 130 Ctrl-C, the run goes on.

    Example: fedrad-coordinator resume coordinator chest-1
    """
    from fedrad_common.errors import MisuseError
    from fedrad_server import wanted
    from fedrad_server.audit import record
    from fedrad_server.history import read_run
    from fedrad_server.home import Home

    Home.own(home)
    folder = wanted.find(home, run)
    records = read_run(folder, files=False)
    if records.finished:
        raise MisuseError(f"{folder.name}: is finished", hint="to train anew, launch the protocol under another --name")
    record(home, "resume", run=records.launch.run, round=records.round)
    wanted.write(folder, "run")
    _follow(home, folder, detach=detach, as_json=as_json)


def stop(home: HomeArgument, run: RunName, as_json: JsonOption = False) -> None:
    """Stop playing a run and wait until it is so; `resume` goes on with it. Stopping it twice, or before it began, is fine.

    Exit codes: 0 it is not played · 1 its player does not end · 2 misused.

    Example: fedrad-coordinator stop coordinator chest-1
    """
    from fedrad_common.errors import FedradError
    from fedrad_server import wanted
    from fedrad_server.audit import record
    from fedrad_server.following import wait_until
    from fedrad_server.history import read_run
    from fedrad_server.home import Home
    from fedrad_server.liveness import played

    Home.own(home)
    folder = wanted.find(home, run)
    records, asked = read_run(folder, files=False), wanted.read(folder)
    if not records.finished and (asked is None or asked.state != "stop"):
        record(home, "run-stopped", run=records.launch.run, round=records.round)
        wanted.write(folder, "stop")
    if not wait_until(lambda: not played(folder), patience=_PATIENCE):
        raise FedradError(f"{folder.name}: its player does not end", hint="look at the log of `fedrad-coordinator start`")
    records = read_run(folder, files=False)
    state = "finished" if records.finished else "stopped"
    emit({"run": records.launch.run, "folder": folder.name, "state": state, "round": records.round}, as_json=as_json,
         lines=[f"{folder.name}: {state} after round {records.round}"])  # fmt: skip


def runs(home: HomeArgument, as_json: JsonOption = False) -> None:
    """List the runs of this coordinator and how far they are.

    Exit codes: 0 listed · 1 failed · 2 misused.

    Example: fedrad-coordinator runs coordinator
    """
    from fedrad_server import wanted
    from fedrad_server.home import Home

    Home.open(home)
    rows = [{"folder": path.name, **_listed(path)} for path in wanted.folders(home)]
    lines = [_line(row) for row in rows] or ["no runs yet"]
    emit({"runs": rows}, as_json=as_json, lines=lines)


def _follow(home: Path, run: Path, *, detach: bool, as_json: bool) -> None:
    from fedrad_server.following import follow
    from fedrad_server.history import read_run
    from fedrad_server.liveness import supervised

    supervisor, launch = supervised(home), read_run(run, files=False).launch
    if not supervisor:
        typer.echo(f"no coordinator runs on this home; the run waits for: fedrad-coordinator start {home}", err=True)
    watch = f"fedrad-coordinator watch {home} {run.name}"
    if detach:
        facts = {"run": launch.run, "folder": run.name, "wanted": "run", "supervised": supervisor}
        emit(facts, as_json=as_json, lines=[f"{run.name}: is to be played; watch it with: {watch}"])
        return
    try:
        found = follow(home, run, quiet=as_json and not sys.stderr.isatty())
    except KeyboardInterrupt:
        typer.echo(f"\nrun {run.name} goes on without you; watch it with: {watch}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    facts = {"run": launch.run, "folder": run.name, "outcome": found.state, "round": found.round, "reason": found.reason}
    reason = f" ({found.reason})" if found.reason else ""
    emit(facts, as_json=as_json, lines=[f"{found.state} after round {found.round}{reason}: {run}"])
    raise typer.Exit(0 if found.state == "finished" else 1)


def _line(row: dict[str, Any]) -> str:
    if row["state"] == "damaged":
        return f"{row['folder']:32}  damaged: {row['reason']}"
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['folder']:32}  round {row['round']} of {row['rounds']}  {row['state']}{reason}"


def _listed(run: Path) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    from fedrad_common.errors import FedradError

    try:
        return summary(run)
    except FedradError as error:
        return {"round": None, "rounds": None, "state": "damaged", "reason": str(error)}


def summary(run: Path) -> dict[str, Any]:
    """`state` and `reason` are those of `watch`; `wanted` is what a person asked of this coordinator."""
    from fedrad_server import wanted
    from fedrad_server.watch import read_state

    records, state, reason = read_state(run.absolute().parent.parent, run)
    asked, following = wanted.read(run), records.round + 1
    return {
        "run": records.launch.run,
        "protocol": records.launch.protocol,
        "name": records.protocol.name,
        "round": records.round,
        "rounds": records.protocol.privacy.rounds,
        "epoch": records.epoch,
        "state": state,
        "reason": reason,
        "wanted": asked.state if asked is not None else None,
        "sites": sorted(records.launch.roster),
        "accepted": sorted(records.envelopes(following, "train")),
        "missing": dict(records.manifests[-1].missing),
        "seeded": records.launch.seeded,
    }
