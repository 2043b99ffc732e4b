"""`fedrad-coordinator audit`: the log of every decision of this coordinator."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption

if TYPE_CHECKING:
    from fedrad_common.chain import Entry

OutOption = Annotated[Path, typer.Option("--out", help="The file to write.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    verbs = typer.Typer(help="The log of every decision of this coordinator.", no_args_is_help=True)
    for name, verb in (
        ("verify", audit_verify), ("show", audit_show), ("export", audit_export), ("checkpoint", audit_checkpoint),
        ("accept-clock", audit_accept_clock),
    ):  # fmt: skip
        verbs.command(name)(verb)
    app.add_typer(verbs, name="audit")


def audit_verify(
    home: HomeArgument,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A file that `audit checkpoint --out` wrote earlier.")] = None,
    head: Annotated[str | None, typer.Option(help="A head of the log that somebody else holds.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the log from the first entry to the last, and print its head. Against a checkpoint, a log made anew is noticed, too.

    Exit codes: 0 whole · 1 damaged, shortened, rewritten, or with an entry that fedrad never writes · 2 misused.

    Example: fedrad-coordinator audit verify coordinator --checkpoint audit.json
    """
    from fedrad_common.checkpoint import check_checkpoint, check_head
    from fedrad_server.audit import AUDIT
    from fedrad_server.home import Home

    log = _entries(home)
    keys = [Home.open(home).public]
    said = [check_checkpoint(log, path, keys=keys, log=AUDIT) for path in checkpoint or ()]
    said += [] if head is None else [check_head(log, head, log=AUDIT)]
    value = {"entries": len(log), "head": log[-1].hash, "witnesses": said}
    lines = [f"audit {value['entries']:>6} entries, head {value['head']}", *(f"witness {text}" for text in said)]
    emit(value, as_json=as_json, lines=lines)


def audit_show(
    home: HomeArgument,
    last: Annotated[int, typer.Option(min=1, help="How many entries, from the newest back.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print the newest entries.

    Exit codes: 0 done · 1 the log is damaged · 2 misused.

    Example: fedrad-coordinator audit show coordinator --last 5
    """
    from fedrad_common.audit import described

    entries = _entries(home)[-last:]
    emit([vars(entry) for entry in entries], as_json=as_json, lines=[described(entry) for entry in entries])


def audit_export(
    home: HomeArgument,
    out: OutOption,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="One JSON object a line, or a table.")] = "jsonl",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the whole log for another program.

    Exit codes: 0 written · 1 the log is damaged; nothing was written · 2 misused.

    Example: fedrad-coordinator audit export coordinator --format csv --out audit.csv
    """
    from fedrad_common.audit import check_out, exported
    from fedrad_common.files import write_atomic

    check_out(out, force=force)
    entries = _entries(home)
    write_atomic(out, exported(entries, form))
    emit({"file": str(out), "entries": len(entries)}, as_json=as_json, lines=(f"written: {out}, {len(entries)} entries",))


def audit_checkpoint(home: HomeArgument, out: OutOption, force: ForceOption = False, as_json: JsonOption = False) -> None:
    """Sign the log's head, for somebody else to keep: against it a log that was shortened or made anew is noticed.

    Exit codes: 0 written · 1 failed · 2 misused.

    Example: fedrad-coordinator audit checkpoint coordinator --out audit.json
    """
    from fedrad_common.audit import check_out
    from fedrad_common.canonical import canonical_json
    from fedrad_common.checkpoint import Checkpoint
    from fedrad_common.files import write_atomic
    from fedrad_server.audit import sign_checkpoint
    from fedrad_server.home import Home

    check_out(out, force=force)
    signed = sign_checkpoint(home, key=Home.own(home).key)
    write_atomic(out, canonical_json(signed.model_dump(mode="json")) + b"\n", mode=0o644)
    record = signed.peek(Checkpoint, what=out.name)
    emit(
        record.model_dump(mode="json"),
        as_json=as_json,
        lines=(f"signed: {record.count} entries, head {record.head}", f"  next          give {out} to somebody outside this machine"),
    )


def audit_accept_clock(home: HomeArgument, as_json: JsonOption = False) -> None:
    """Go on from the clock as it is now, after it was wrong: the audit log and the runs' logs hold entries that are later.

    Set the clock right first. Each log that is ahead of it gets an entry that says so; later ones are compared with that.
    Exit codes: 0 done, also where no log was ahead · 1 the audit log is damaged, or a log is in use · 2 misused.

    Example: fedrad-coordinator audit accept-clock coordinator
    """
    from fedrad_server.audit import accept_clock
    from fedrad_server.home import Home

    Home.own(home)
    logs = accept_clock(home)
    lines = [f"accepted the clock as it is, in {name}" for name in logs] or ["no log is ahead of the clock: nothing was written"]
    emit({"logs": list(logs)}, as_json=as_json, lines=lines)


def _entries(home: Path) -> "list[Entry]":
    """The log, every hash and every field of it checked."""
    from fedrad_common.audit import COORDINATOR_EVENTS, check_entries
    from fedrad_common.chain import read
    from fedrad_server.audit import AUDIT, KIND
    from fedrad_server.home import Home

    Home.open(home)
    entries = read(home / AUDIT, KIND)
    check_entries(COORDINATOR_EVENTS, entries, name=AUDIT)
    return entries
