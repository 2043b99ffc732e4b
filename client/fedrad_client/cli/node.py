"""`fedrad-site start`, `status`, `pause` and `resume`: the node."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedrad_client.cli.options import HERE, AnyHomeOption, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (start, status, pause, resume):
        app.command()(verb)


def start(
    server: Annotated[str | None, typer.Option(help="HOST:PORT instead of the one in site.toml; its certificate is checked alike.")] = None,
    home: HomeOption = HERE,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print the public keys of this site, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer the coordinator's orders, in the foreground, until SIGTERM. Nothing but approved protocols is answered.

    Exit codes: 0 ended by SIGTERM or Ctrl-C · 1 failed (another node serves this site) · 2 misused (settings, a missing key). A coordinator
    that is away, or has not admitted this site yet, is no failure: the node says so, and tries again.

    Example: fedrad-site start --home north
    """
    from fedrad_client.enrolment import connecting_key
    from fedrad_client.node.key import PUBLIC
    from fedrad_client.site import Home

    site = Home(home)
    if show_keys:
        name, envelope = site.config.site.name, site.envelope_key.public.hex
        connecting_key(home)
        keys = {"site": name, "node_key": str(home / PUBLIC), "envelope_key": envelope}
        emit(keys, as_json=as_json, lines=(f"node key      {home / PUBLIC}", f"envelope key  {envelope}"))
        return
    from fedrad_client.node.service import run_node

    run_node(home, server)


def status(home: AnyHomeOption = HERE, as_json: JsonOption = False) -> None:
    """Show the site at a glance: does it answer, its contact with the coordinator, cohort, approvals, answers, the last refusal.

    "Healthy" is a round trip with the coordinator in the last 9 seconds.

    Exit codes: 0 whatever it shows · 1 a log of the site is damaged · 2 there is no site here.

    Example: fedrad-site status --json
    """
    from fedrad_client.site import Home
    from fedrad_client.status import facts, lines

    value = facts(Home(home))
    emit(value, as_json=as_json, lines=lines(value))


def pause(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Answer every order with `paused` from now on.

    Exit codes: 0 paused (also if it was), 1 failed, or paused without an entry in the audit log, 2 misused.

    Example: fedrad-site pause
    """
    from fedrad_client.site import PAUSED, Home
    from fedrad_common.files import write_atomic

    if Home(home).config and not (home / PAUSED).exists():
        write_atomic(home / PAUSED, b"")  # first: a log that takes no entry keeps nobody from pausing
        _noted(home, "pause")
    emit({"state": "paused"}, as_json=as_json, lines=["paused: every order is answered with 'paused' until `fedrad-site resume`"])


def resume(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Answer orders again.

    Exit codes: 0 answering, 1 failed or still paused by the hospital's own pause file, 2 misused.

    Example: fedrad-site resume
    """
    from fedrad_client.site import PAUSED, Home
    from fedrad_common.errors import FedradError

    site = Home(home)
    if site.config and site.left:
        raise FedradError("this site has left", hint="to take part again, with the same ledger: fedrad-site renew --invitation FILE")
    if (home / PAUSED).exists():
        _noted(home, "resume")
        (home / PAUSED).unlink(missing_ok=True)
    if site.paused:
        named = site.config.policy.pause_file
        raise FedradError(f"still paused: the file {named!r} is there", hint="remove it, or have the program remove it that made it")
    emit({"state": "answering"}, as_json=as_json, lines=["answering"])


def _noted(home: Path, event: Literal["pause", "resume"]) -> None:
    from fedrad_client import audit

    audit.note(home, event)
