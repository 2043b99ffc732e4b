"""`fedrad-coordinator init`: the coordinator's folder and keys."""

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (init,):
        app.command()(verb)


def init(home: HomeArgument) -> None:
    """Make the coordinator's folder and its signing key.

    Example: fedrad-coordinator init coordinator
    """
    from fedrad_server.home import Home

    made = Home.create(home)
    emit({}, as_json=False, lines=[f"made {home}", f"give each site this public key: {made.public.hex}"])
