"""`fedrad-coordinator start` and `doctor`: the coordinator's processes, and whether all is well with them."""

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (start, doctor):
        app.command()(verb)


def start(home: HomeArgument, as_json: JsonOption = False) -> None:
    """Run the coordinator in the foreground until SIGTERM: its server, and the runs that were launched, one at a time.

    Where it listens stands in HOME/coordinator.toml. Killed and started again, it goes on with open runs by itself.
    On stdout one line, once sites can connect; on stderr what happens.
    Exit codes: 0 ended by SIGTERM or Ctrl-C · 1 the server cannot start, or another one runs · 2 misused.

    Example: fedrad-coordinator start coordinator
    """
    import os
    import sys

    from fedrad_common.files import lock_file
    from fedrad_server.foreground import supervise
    from fedrad_server.home import Home
    from fedrad_server.liveness import patiently, supervisor_lock

    opened = Home.own(home)
    settings = opened.settings

    def ready() -> None:
        ports = opened.superlink.serving
        address = settings.seen_as(ports.public)
        facts = {"address": address, "public": ports.public, "private": ports.private, "pid": os.getpid(), "server_pid": ports.pid}
        emit(facts, as_json=as_json, lines=[f"ready: sites connect to {address}"])
        sys.stdout.flush()

    lock = patiently(lambda: lock_file(supervisor_lock(home), what="the coordinator"))
    try:
        supervise(opened, environment=dict(os.environ), on_ready=ready)
    finally:
        os.close(lock)


def doctor(home: HomeArgument, as_json: JsonOption = False) -> None:
    """Check the coordinator: its processes, its certificate, its disk, and when each site last spoke; what is wrong comes with a remedy.

    Exit codes: 0 all is well · 1 something needs a person · 2 misused.

    Example: fedrad-coordinator doctor coordinator --json
    """
    from datetime import UTC, datetime

    from fedrad_server.standing import examine

    found = examine(home, datetime.now(UTC))
    rows = [{"check": check.name, "ok": check.ok, "found": check.found, "remedy": check.remedy} for check in found]
    lines = []
    for check in found:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
        if not check.ok:
            lines.append(f"      remedy: {check.remedy}")
    emit({"checks": rows, "ok": all(check.ok for check in found)}, as_json=as_json, lines=lines)
    raise typer.Exit(0 if all(check.ok for check in found) else 1)
