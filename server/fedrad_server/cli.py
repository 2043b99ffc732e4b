"""`fedrad-coordinator`: the coordinator's own verbs. Heavy libraries are imported by the verb that needs them, never here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fedrad_common.cli import emit, run_cli
from fedrad_server.deployment_cli import add_deployment

if TYPE_CHECKING:
    from fedrad_server.history import RunRecords

app = typer.Typer(
    name="fedrad-coordinator",
    help="Launch and watch training runs across hospitals. It holds no patient data.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
add_deployment(app)

HomeArgument = Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's folder.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as coordinator/runs/pneumonia.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON for a program.")]


def main() -> NoReturn:
    run_cli(app, "fedrad-coordinator")


@app.command()
def init(home: HomeArgument) -> None:
    """Make the coordinator's folder and its signing key.

    Example: fedrad-coordinator init coordinator
    """
    from fedrad_server.home import Home

    made = Home.create(home)
    emit({}, as_json=False, lines=[f"made {home}", f"give each site this public key: {made.public.hex}"])


@app.command()
def sites(home: HomeArgument, as_json: Json = False) -> None:
    """List the admitted sites and the ids of their keys.

    Example: fedrad-coordinator sites coordinator --json
    """
    from fedrad_common.identity import PublicKey
    from fedrad_server.home import Home

    rows = [{"site": name, "key": PublicKey.from_hex(key).id} for name, key in Home.open(home).roster.items()]
    lines = [f"{row['site']:32}  key {row['key'][:16]}" for row in rows] or ["no sites yet"]
    emit({"sites": rows}, as_json=as_json, lines=lines)


@app.command()
def runs(home: HomeArgument, as_json: Json = False) -> None:
    """List the runs of this coordinator and how far they are.

    Example: fedrad-coordinator runs coordinator
    """
    from fedrad_server.home import Home

    rows = [{"folder": path.name, **_listed(path)} for path in Home.open(home).runs]
    lines = [_line(row) for row in rows] or ["no runs yet"]
    emit({"runs": rows}, as_json=as_json, lines=lines)


@app.command()
def status(run: RunArgument, as_json: Json = False) -> None:
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


@app.command()
def replay(run: RunArgument, as_json: Json = False) -> None:
    """Fold the stored updates once more and compare with the stored models, bit for bit; exit code 1 where they differ.

    Example: fedrad-coordinator replay coordinator/runs/pneumonia
    """
    from fedrad_server.replay import replay as fold_again

    outcome = fold_again(run)
    value = {
        "start": outcome.start,
        "rounds": outcome.rounds,
        "equal": outcome.equal,
        "first_difference": outcome.first_difference,
        "reason": outcome.reason,
    }
    begun = f" from the checkpoint of round {outcome.start}, before which updates were deleted" if outcome.start else ""
    verdict = (
        f"equal: {outcome.rounds} rounds{begun}" if outcome.equal else f"differs at round {outcome.first_difference}: {outcome.reason}"
    )
    emit(value, as_json=as_json, lines=[verdict])
    raise typer.Exit(0 if outcome.equal else 1)


@app.command()
def report(
    run: RunArgument, out: Annotated[Path | None, typer.Option(help="Where to write it; RUN/result/report.html by default.")] = None
) -> None:
    """Write the run's report: one HTML file that needs no network.

    Example: fedrad-coordinator report coordinator/runs/pneumonia --out report.html
    """
    from fedrad_common.errors import MisuseError
    from fedrad_server.history import read_run
    from fedrad_server.report import write_report

    read_run(run, files=False)  # before anything is made in a folder that may be no run
    target = out or run / "result" / "report.html"
    if out is None:
        target.parent.mkdir(exist_ok=True)
    elif not target.parent.is_dir():
        raise MisuseError(f"--out: {target.parent}: no such folder", hint="make it first")
    write_report(run, target)
    emit({}, as_json=False, lines=[f"wrote {target}"])


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
