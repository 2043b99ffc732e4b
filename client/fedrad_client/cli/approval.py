"""`fedrad-site preview`, `approve` and `unapprove`: a person's yes."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit

ProtocolArgument = Annotated[Path, typer.Argument(help="The protocol's TOML file.")]
SizeOption = Annotated[
    int, typer.Option("--declared-size", "-n", min=1, help="Patients, as you declare them: rounded or padded as you like; public.")
]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (preview, approve, unapprove):
        app.command()(verb)


def preview(
    protocol: ProtocolArgument,
    declared_size: SizeOption,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show exactly what would leave and what it would cost, before you approve. Spends and sends nothing.

    Example: fedrad-site preview chest.toml --declared-size 500
    """
    from fedrad_client.approval import preview as look
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import facts, lines
    from fedrad_client.privacy.ledger import in_force, read_ledger
    from fedrad_client.site import LEDGER, Home

    site = Home(home)
    settings = site.config.privacy
    opening, account, _head = read_ledger(home / LEDGER)
    seen = look(site, in_force(opening, settings), account, read_protocol(protocol), declared_size=declared_size)
    emit(facts(seen), as_json=as_json, lines=lines(seen))


def approve(
    protocol: ProtocolArgument,
    declared_size: SizeOption,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Accept a protocol: its bytes are kept under their hash, and orders for it may be answered from now on.

    Example: fedrad-site approve chest.toml --declared-size 500
    """
    from fedrad_client.approval import approve as accept
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import facts
    from fedrad_client.site import open_site

    with open_site(home) as site:
        seen = accept(site, read_protocol(protocol), declared_size=declared_size)
    bound = "no bound" if seen.plan.epsilon is None else f"epsilon {seen.plan.epsilon:g}"
    emit(
        facts(seen), as_json=as_json, lines=(f"approved {seen.protocol.name} {seen.protocol.hash[:16]} ({bound})", *_warned(seen.warnings))
    )


def unapprove(
    protocol: Annotated[str, typer.Argument(help="The protocol's hash, or its first digits (`fedrad-site status`).")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Take an approval back: its orders are refused from now on. What was spent stays spent.

    Example: fedrad-site unapprove 86bdb4ad
    """
    from fedrad_client.approval import withdraw_approval
    from fedrad_client.site import open_site

    with open_site(home) as site:
        name = withdraw_approval(site, protocol)
    emit({"protocol": name, "approved": False}, as_json=as_json, lines=(f"no longer approved: {name[:16]}",))


def _warned(warnings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"  warning: {warning}" for warning in warnings)
