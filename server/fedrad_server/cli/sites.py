"""`fedrad-coordinator admit`, `revoke` and `sites`: who takes part."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption, NameArgument


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (admit, revoke, sites):
        app.command()(verb)


def admit(
    home: HomeArgument,
    name: NameArgument,
    node_key: Annotated[Path, typer.Option(help="The site's keys/node.pub: who may connect.")],
    envelope_key: Annotated[str, typer.Option(help="The site's public envelope key, in hex: who signs its updates.")],
    as_json: JsonOption = False,
) -> None:
    """Let a site in: its node may connect, and its updates count. Ask the site for both keys in person.

    Example: fedrad-coordinator admit coordinator north --node-key north.pub --envelope-key 3f…
    """
    from fedrad_server.admission import admit_site

    admit_site(home, name, node_key=node_key, envelope_key=envelope_key)
    emit({"site": name}, as_json=as_json, lines=[f"admitted {name}"])


def revoke(home: HomeArgument, name: NameArgument, as_json: JsonOption = False) -> None:
    """Shut a site out, at once. What it gave to closed rounds stays.

    Example: fedrad-coordinator revoke coordinator north
    """
    from fedrad_server.admission import revoke_site

    revoke_site(home, name)
    emit({"site": name}, as_json=as_json, lines=[f"revoked {name}"])


def sites(home: HomeArgument, as_json: JsonOption = False) -> None:
    """List the admitted sites and the ids of their keys.

    Example: fedrad-coordinator sites coordinator --json
    """
    from fedrad_common.identity import PublicKey
    from fedrad_server.home import Home

    rows = [{"site": name, "key": PublicKey.from_hex(key).id} for name, key in Home.open(home).roster.items()]
    lines = [f"{row['site']:32}  key {row['key'][:16]}" for row in rows] or ["no sites yet"]
    emit({"sites": rows}, as_json=as_json, lines=lines)
