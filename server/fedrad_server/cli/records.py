"""`fedrad-coordinator replay` and `report`: the proof and the picture, from a run's records alone."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import JsonOption, RunArgument


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (replay, report):
        app.command()(verb)


def replay(run: RunArgument, as_json: JsonOption = False) -> None:
    """Fold the stored updates once more and compare with the stored models, bit for bit.

    Exit codes: 0 equal · 1 they differ, or a record is damaged · 2 misused.

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


def report(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="Where to write it; RUN/result/report.html by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the run's report: one HTML file that needs no network.

    Exit codes: 0 written · 1 failed · 2 misused.

    Example: fedrad-coordinator report coordinator/runs/pneumonia --out report.html
    """
    from fedrad_common.errors import MisuseError
    from fedrad_common.files import check_account
    from fedrad_server.history import read_run
    from fedrad_server.report import write_report

    read_run(run, files=False)  # before anything is made in a folder that may be no run
    target = out or run / "result" / "report.html"
    if out is None:
        check_account(run)
        target.parent.mkdir(exist_ok=True)
    elif not target.parent.is_dir():
        raise MisuseError(f"--out: {target.parent}: no such folder", hint="make it first")
    write_report(run, target)
    emit({"report": str(target)}, as_json=as_json, lines=[f"wrote {target}"])
