"""`fedrad-coordinator start`, `admit`, `revoke` and `launch`: the verbs that speak to Flower, which is imported only inside them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_common.cli import emit

if TYPE_CHECKING:
    from fedrad_server.superlink_files import SuperLinkFiles

HomeArgument = Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's folder.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The site's name in rosters and reports.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON for a program.")]


def add_deployment(app: typer.Typer) -> None:
    """Register the verbs with the coordinator's command line."""
    for command in (start, admit, revoke, launch):
        app.command()(command)


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
        from fedrad_server.superlink import run_superlink

        run_superlink(files.folder, host=host, port=port)


def admit(
    home: HomeArgument,
    name: NameArgument,
    node_key: Annotated[Path, typer.Option(help="The site's keys/node.pub: who may connect.")],
    envelope_key: Annotated[str, typer.Option(help="The site's public envelope key, in hex: who signs its updates.")],
    as_json: Json = False,
) -> None:
    """Let a site in: its node may connect, and its updates count. Ask the site for both keys in person.

    Example: fedrad-coordinator admit coordinator north --node-key north.pub --envelope-key 3f…
    """
    from fedrad_server.admission import admit_site

    admit_site(home, name, node_key=node_key, envelope_key=envelope_key)
    emit({"site": name}, as_json=as_json, lines=[f"admitted {name}"])


def revoke(home: HomeArgument, name: NameArgument, as_json: Json = False) -> None:
    """Shut a site out, at once. What it gave to closed rounds stays.

    Example: fedrad-coordinator revoke coordinator north
    """
    from fedrad_server.admission import revoke_site

    revoke_site(home, name)
    emit({"site": name}, as_json=as_json, lines=[f"revoked {name}"])


def launch(
    home: HomeArgument,
    protocol: Annotated[Path | None, typer.Argument(metavar="[PROTOCOL]", help="The protocol's TOML file; none with --resume.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's folder below HOME/runs; the protocol's name by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run --name.")] = False,
    as_json: Json = False,
) -> None:
    """Train: ask the admitted sites, round by round, until the run is finished or paused. Sites that did not approve stay silent.

    Example: fedrad-coordinator launch coordinator chest.toml --name chest-1
    """
    from fedrad_common.errors import MisuseError
    from fedrad_common.files import exclusive_lock
    from fedrad_server.launching import check, open_run, say

    if resume == (protocol is not None) or (resume and name is None):
        raise MisuseError(
            "launch: name either a protocol, or a run with --resume --name RUN", hint="see 'fedrad-coordinator launch --help'"
        )
    check(home, protocol, name)
    files = _files(home)
    _ = files.serving
    with exclusive_lock(home / "launch.lock", what="launch"), open_run(home, protocol, name) as run:
        from fedrad_server.app.task import play_run

        outcome = play_run(run, files, progress=say if sys.stderr.isatty() or not as_json else lambda number, site, what: None)
        facts = {"run": run.launch.run, "folder": run.directory.name, "outcome": outcome.value, "round": run.round}
    emit(facts, as_json=as_json, lines=[f"{outcome.value} after round {facts['round']}: {run.directory}"])
    raise typer.Exit(0 if outcome.value == "finished" else 1)


def _files(home: Path) -> "SuperLinkFiles":
    from fedrad_server.home import Home
    from fedrad_server.superlink_files import SuperLinkFiles

    Home.open(home)
    return SuperLinkFiles(home / "superlink")
