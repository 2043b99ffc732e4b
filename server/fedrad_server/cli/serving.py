"""`fedrad-coordinator start`: the server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_server.cli.options import HomeArgument

if TYPE_CHECKING:
    from fedrad_server.superlink.files import SuperLinkFiles


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (start,):
        app.command()(verb)


def start(
    home: HomeArgument,
    listen: Annotated[str, typer.Option(help="Address for sites; port 0 takes the former port, or a free one.")] = "127.0.0.1:0",
) -> None:
    """Run the coordinator's server in the foreground, until SIGTERM.

    Example: fedrad-coordinator start coordinator --listen 127.0.0.1:9092
    """
    from fedrad_common.address import loopback
    from fedrad_common.files import exclusive_lock

    host, port = loopback(listen, what="--listen", least_port=0)
    files = _files(home)
    files.folder.mkdir(mode=0o700, exist_ok=True)
    with exclusive_lock(files.folder / "lock", what="the coordinator's server"):
        from fedrad_server.superlink.serving import run_superlink

        run_superlink(files.folder, host=host, port=port)


def _files(home: Path) -> "SuperLinkFiles":
    from fedrad_server.home import Home
    from fedrad_server.superlink.files import SuperLinkFiles

    Home.open(home)
    return SuperLinkFiles(home / "superlink")
