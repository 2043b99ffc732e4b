"""`fedrad-site audit`: the log of every decision and of every byte that left."""

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    verbs = typer.Typer(help="The log of every decision and of every byte that left.", no_args_is_help=True)
    verbs.command("verify")(audit_verify)
    app.add_typer(verbs, name="audit")


def audit_verify(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Check both logs from the first entry to the last, and print their heads.

    Example: fedrad-site audit verify
    """
    from fedrad_client.audit import KIND
    from fedrad_client.privacy.ledger import KIND as LEDGER_KIND
    from fedrad_client.site import AUDIT, LEDGER, Home
    from fedrad_common.chain import read

    _ = Home(home).config
    logs = {"audit": read(home / AUDIT, KIND), "ledger": read(home / LEDGER, LEDGER_KIND)}
    value = {name: {"entries": len(entries), "head": entries[-1].hash} for name, entries in logs.items()}
    emit(value, as_json=as_json, lines=[f"{name:<8}{len(entries):>6} entries, head {entries[-1].hash}" for name, entries in logs.items()])
