"""`fedrad-site start`, `status`, `pause` and `resume`: the node."""

from typing import Annotated, Any

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (start, status, pause, resume):
        app.command()(verb)


def start(
    server: Annotated[str | None, typer.Option(help="The coordinator's address for sites, HOST:PORT.")] = None,
    home: HomeOption = HERE,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print what the coordinator needs to admit this site, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer the coordinator's orders, in the foreground, until SIGTERM. Nothing but approved protocols is answered.

    Example: fedrad-site start --server 127.0.0.1:9092 --home north
    """
    from fedrad_client.node.key import PUBLIC, node_key
    from fedrad_client.site import Home
    from fedrad_common.errors import MisuseError

    site = Home(home)
    if show_keys:
        name, envelope = site.config.site.name, site.envelope_key.public.hex
        node_key(home)
        keys = {"site": name, "node_key": str(home / PUBLIC), "envelope_key": envelope}
        emit(keys, as_json=as_json, lines=(f"node key      {home / PUBLIC}", f"envelope key  {envelope}"))
        return
    if server is None:
        raise MisuseError("start: --server is missing", hint="fedrad-site start --server 127.0.0.1:PORT")
    from fedrad_client.node.service import run_node

    run_node(home, server)


def status(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Show the site at a glance: paused or not, cohort, approvals, answers given.

    Example: fedrad-site status --json
    """
    from fedrad_client.site import Home
    from fedrad_client.status import facts

    value = facts(Home(home))
    emit(value, as_json=as_json, lines=[f"{key.replace('_', ' '):<16}{_shown(item)}" for key, item in value.items()])


def pause(home: HomeOption = HERE) -> None:
    """Answer every order with `paused` from now on.

    Example: fedrad-site pause
    """
    from fedrad_client.site import PAUSED, Home
    from fedrad_common.files import write_atomic

    write_atomic(home / PAUSED, b"") if Home(home).config else None
    typer.echo("paused: every order is answered with 'paused' until `fedrad-site resume`")


def resume(home: HomeOption = HERE) -> None:
    """Answer orders again.

    Example: fedrad-site resume
    """
    from fedrad_client.site import PAUSED, Home

    if Home(home).config:
        (home / PAUSED).unlink(missing_ok=True)
    typer.echo("answering")


def _shown(item: Any) -> str:
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)
