"""`fedrad-coordinator launch`, `runs` and `status`: runs, live."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption, RunArgument

if TYPE_CHECKING:
    from fedrad_server.history import RunRecords
    from fedrad_server.superlink.files import SuperLinkFiles


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (launch, runs, status):
        app.command()(verb)


def launch(
    home: HomeArgument,
    protocol: Annotated[Path | None, typer.Argument(metavar="[PROTOCOL]", help="The protocol's TOML file; none with --resume.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder below HOME/runs; the protocol's name by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run --name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train: ask the admitted sites, round by round, until the run is finished or paused. Sites that did not approve stay silent.

    Example: fedrad-coordinator launch coordinator chest.toml --name chest-1
    """
    from fedrad_common.errors import MisuseError
    from fedrad_common.files import exclusive_lock
    from fedrad_server.launching import check, open_run, say

    if resume == (protocol is not None) or (resume and name is None):
        raise MisuseError(
            "launch: name either a protocol, or a run with --resume --name RUN", hint="see 'fedrad-coordinator launch --help'"
        )
    check(home, protocol, name)
    files = _files(home)
    _ = files.serving
    with exclusive_lock(home / "launch.lock", what="launch"), open_run(home, protocol, name) as run:
        from fedrad_server.app.task import play_run

        outcome = play_run(run, files, progress=say if sys.stderr.isatty() or not as_json else lambda number, site, what: None)
        facts = {"run": run.launch.run, "folder": run.directory.name, "outcome": outcome.value, "round": run.round}
    emit(facts, as_json=as_json, lines=[f"{outcome.value} after round {facts['round']}: {run.directory}"])
    raise typer.Exit(0 if outcome.value == "finished" else 1)


def runs(home: HomeArgument, as_json: JsonOption = False) -> None:
    """List the runs of this coordinator and how far they are.

    Example: fedrad-coordinator runs coordinator
    """
    from fedrad_server.home import Home

    rows = [{"folder": path.name, **_listed(path)} for path in Home.open(home).runs]
    lines = [_line(row) for row in rows] or ["no runs yet"]
    emit({"runs": rows}, as_json=as_json, lines=lines)


def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show how far a run is, from its records alone; a running one may be asked too.

    Example: fedrad-coordinator status coordinator/runs/pneumonia --json
    """
    from fedrad_server.history import read_run

    summary = _summary(read_run(run, files=False))
    lines = [
        f"run       {summary['run']}",
        f"protocol  {summary['name']} {summary['protocol'][:16]}",
        f"round     {summary['round']} of {summary['rounds']}, epoch {summary['epoch']}",
        f"state     {summary['state']}" + (f": {summary['reason']}" if summary["reason"] else ""),
        f"sites     {len(summary['sites'])}; in the open round: {', '.join(summary['accepted']) or 'none yet'}",
    ]
    emit(summary, as_json=as_json, lines=lines)


def _files(home: Path) -> "SuperLinkFiles":
    from fedrad_server.home import Home
    from fedrad_server.superlink.files import SuperLinkFiles

    Home.open(home)
    return SuperLinkFiles(home / "superlink")


def _line(row: dict[str, Any]) -> str:
    if row["state"] == "damaged":
        return f"{row['folder']:32}  damaged: {row['reason']}"
    return f"{row['folder']:32}  round {row['round']} of {row['rounds']}  {row['state']}"


def _listed(run: Path) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    from fedrad_common.errors import FedradError
    from fedrad_server.history import read_run

    try:
        return _summary(read_run(run, files=False))
    except FedradError as error:
        return {"round": None, "rounds": None, "state": "damaged", "reason": str(error)}


def _summary(records: "RunRecords") -> dict[str, Any]:
    """`state` is finished, paused, or open: whether a coordinator works on it right now, the records do not say."""
    following = records.round + 1
    return {
        "run": records.launch.run,
        "protocol": records.launch.protocol,
        "name": records.protocol.name,
        "round": records.round,
        "rounds": records.protocol.privacy.rounds,
        "epoch": records.epoch,
        "state": "finished" if records.finished else "paused" if records.paused else "open",
        "reason": records.paused,
        "sites": sorted(records.launch.roster),
        "accepted": sorted(records.envelopes(following, "train")),
        "missing": dict(records.manifests[-1].missing),
        "seeded": records.launch.seeded,
    }
