"""`fedrad-site audit`: the log of every decision and of every byte that left."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit

if TYPE_CHECKING:
    from fedrad_client.site import Home
    from fedrad_common.chain import Entry

OutOption = Annotated[Path, typer.Option("--out", help="The file to write.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    verbs = typer.Typer(help="The log of every decision and of every byte that left.", no_args_is_help=True)
    for name, verb in (("verify", audit_verify), ("show", audit_show), ("export", audit_export), ("checkpoint", audit_checkpoint)):
        verbs.command(name)(verb)
    app.add_typer(verbs, name="audit")


def audit_verify(
    home: HomeOption = HERE,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="A file that `audit checkpoint --out` wrote earlier.")] = None,
    head: Annotated[str | None, typer.Option(help="A head of the audit log that somebody else holds.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check both logs from the first entry to the last, and print their heads. Against a checkpoint, a log made anew is noticed, too.

    Exit codes: 0 whole · 1 damaged, shortened, rewritten, or with an entry that fedrad never writes · 2 misused.

    Example: fedrad-site audit verify --checkpoint north-audit.json --home north
    """
    from fedrad_client.audit import signing_keys
    from fedrad_client.privacy.ledger import KIND as LEDGER_KIND
    from fedrad_client.site import AUDIT, LEDGER, Home
    from fedrad_common.chain import read
    from fedrad_common.checkpoint import check_checkpoint, check_head

    site = Home(home)
    log = _entries(site)
    logs = {"audit": log, "ledger": read(home / LEDGER, LEDGER_KIND)}
    keys = signing_keys(home)
    said = [check_checkpoint(log, path, keys=keys, log=AUDIT) for path in checkpoint or ()]
    said += [] if head is None else [check_head(log, head, log=AUDIT)]
    value = {name: {"entries": len(entries), "head": entries[-1].hash} for name, entries in logs.items()}
    lines = [f"{name:<8}{len(entries):>6} entries, head {entries[-1].hash}" for name, entries in logs.items()]
    emit({**value, "witnesses": said}, as_json=as_json, lines=[*lines, *(f"witness {text}" for text in said)])


def audit_show(
    last: Annotated[int, typer.Option(min=1, help="How many entries, from the newest back.")] = 20,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Print the newest entries.

    Exit codes: 0 done · 1 the log is damaged · 2 misused.

    Example: fedrad-site audit show --last 5 --home north
    """
    from fedrad_client.site import Home
    from fedrad_common.audit import described

    entries = _entries(Home(home))[-last:]
    emit([vars(entry) for entry in entries], as_json=as_json, lines=[described(entry) for entry in entries])


def audit_export(
    out: OutOption,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="One JSON object a line, or a table.")] = "jsonl",
    force: ForceOption = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Write the whole log for another program. It holds hashes, codes and numbers only; its counts are for this hospital.

    Exit codes: 0 written · 1 the log is damaged; nothing was written · 2 misused.

    Example: fedrad-site audit export --format csv --out audit.csv --home north
    """
    from fedrad_client.site import Home
    from fedrad_common.audit import check_out, exported
    from fedrad_common.files import write_atomic

    check_out(out, force=force)
    entries = _entries(Home(home))
    write_atomic(out, exported(entries, form))
    emit({"file": str(out), "entries": len(entries)}, as_json=as_json, lines=(f"written: {out}, {len(entries)} entries",))


def audit_checkpoint(out: OutOption, force: ForceOption = False, home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Sign the log's head, for somebody else to keep: against it a log that was shortened or made anew is noticed.

    Exit codes: 0 written · 1 failed, or the log is in use · 2 misused.

    Example: fedrad-site audit checkpoint --out north-audit.json --home north
    """
    from fedrad_client.audit import sign_checkpoint
    from fedrad_client.site import Home
    from fedrad_common.audit import check_out
    from fedrad_common.canonical import canonical_json
    from fedrad_common.checkpoint import Checkpoint
    from fedrad_common.files import write_atomic

    check_out(out, force=force)
    site = Home(home)
    signed = sign_checkpoint(home, name=site.config.site.name, key=site.envelope_key)
    write_atomic(out, canonical_json(signed.model_dump(mode="json")) + b"\n", mode=0o644)
    record = signed.peek(Checkpoint, what=out.name)
    emit(
        record.model_dump(mode="json"),
        as_json=as_json,
        lines=(f"signed: {record.count} entries, head {record.head}", f"  next          give {out} to somebody outside this machine"),
    )


def _entries(site: "Home") -> "list[Entry]":
    """The log, every hash and every field of it checked."""
    from fedrad_client.audit import KIND
    from fedrad_client.site import AUDIT
    from fedrad_common.audit import SITE_EVENTS, check_entries
    from fedrad_common.chain import read

    _ = site.config
    entries = read(site.path / AUDIT, KIND)
    check_entries(SITE_EVENTS, entries, name=AUDIT)
    return entries
