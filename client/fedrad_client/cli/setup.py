"""`fedrad-site init`, `request`, `renew` and `leave`: a site begins, shows who it is, changes its node key, and goes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrad_client.cli import questions
from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit

if TYPE_CHECKING:
    from fedrad_client.enrolment import Enrolment
    from fedrad_common.enrolment import OpenedInvitation
    from fedrad_common.identity import PublicKey


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (init, request, renew, leave):
        app.command()(verb)


def init(
    name: Annotated[str | None, typer.Option(help="The site's name in rosters and reports.")] = None,
    home: HomeOption = HERE,
    invitation: Annotated[Path | None, typer.Option(help="The coordinator's invitation.json.")] = None,
    local: Annotated[bool, typer.Option("--local", help="For simulations on this machine: no enrolment.")] = False,
    coordinator: Annotated[Path | None, typer.Option(help="File with the coordinator's public key; an invitation must be of it.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(min=0.01, help="Privacy ceiling per patient, over the site's lifetime.", show_default="10")
    ] = None,
    declared_size: Annotated[
        int | None,
        typer.Option("--declared-size", "-n", min=1, help="The most patients that you will ever declare; delta follows from it."),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="At most 1 / (10 × declared size); fixed for the site's lifetime.", show_default="1e-05")
    ] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of patients that no protocol ever trains on.")] = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Make a site: settings, keys that never leave it, an empty privacy ledger, a request to the coordinator. Asks what is not given.

    Exit codes: 0 made, 1 failed (the invitation was changed on the way), 2 misused; nothing is made unless all is.

    Example: fedrad-site init --invitation invitation.json --name north --declared-size 500 --home north
    """
    from fedrad_client.config import SiteConfig
    from fedrad_client.enrolment import joining, read_invitation
    from fedrad_client.site import create_site
    from fedrad_client.site_toml import render
    from fedrad_common.config import parse_toml
    from fedrad_common.errors import MisuseError

    if local and invitation is not None:
        raise MisuseError("init: --local and --invitation exclude each other", hint="see 'fedrad-site init --help'")
    name = name or questions.ask("--name", "name of this site, such as north")
    key = _public_key(coordinator)
    opened = None if local else read_invitation(invitation or Path(questions.ask("--invitation", "the coordinator's invitation.json")))
    if opened is not None and key not in (None, opened.coordinator):
        raise MisuseError("--coordinator: is another key than the invitation's", hint="ask the coordinator by phone which one is its own")
    epsilon, delta = questions.budget(epsilon, delta, declared_size, ask=not local)
    server, authority = ("", "keys/authority.pem") if opened is None else _where(opened)
    text = render(name=name, epsilon=epsilon, delta=delta, validation_fraction=validation_fraction, server=server, authority=authority)
    config = parse_toml(text.encode(), SiteConfig, name="site.toml")
    enrol = None if opened is None else joining(name, opened)
    made = create_site(home, config, toml=text, coordinator=key, enrol=enrol)
    facts: dict[str, Any] = {"site": name, "envelope_key": made.envelope_key.public.hex, "epsilon": epsilon, "delta": delta}
    lines = [
        f"site {name} made in {home}",
        f"  ceiling       epsilon {epsilon:g}, delta {delta:g}, for the site's lifetime; fits {questions.most(delta):,} declared patients",
        f"  envelope key  {made.envelope_key.public.id[:16]}",
        "  back up       site.toml and keys/; never restore ledger.chain from a backup",
    ]
    if opened is None:
        lines.append("  next          fedrad-site ingest DICOM --labels labels.csv --protocol protocol.toml")
    else:
        shown = _shown(home)
        facts, lines = {**facts, **shown[0]}, [*lines, *shown[1]]
    emit(facts, as_json=as_json, lines=lines)


def request(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Show the request to the coordinator and the six words to read out, again.

    Exit codes: 0 shown, 1 failed, 2 misused.

    Example: fedrad-site request --home north
    """
    facts, lines = _shown(home)
    emit(facts, as_json=as_json, lines=lines)


def renew(
    home: HomeOption = HERE,
    invitation: Annotated[
        Path | None, typer.Option(help="A newer invitation: a new authority, or any coordinator's for a site that has left.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new node key and a request for it, which the envelope key vouches for. With an invitation, also enrol anew after `leave`.

    The ledger stays the one that there is. Exit codes: 0 made, 1 failed, 2 misused.

    Example: fedrad-site renew --home north
    """
    from fedrad_client.enrolment import read_invitation
    from fedrad_client.enrolment import renew as make
    from fedrad_client.site import Home

    site = Home(home)
    opened = read_invitation(invitation) if invitation else None
    configured, back = site.config.coordinator, site.left
    made = make(site, opened)
    lines = [
        f"new node key {made.request.node.id[:16]} for {site.config.site.name}",
        f"  send          {made.path} to the coordinator, who types: fedrad-coordinator admit HOME request.json",
        "  then          restart the node (fedrad-site start): it is let in with the new key only, once that is admitted",
    ]
    if opened is not None and (where := _where(opened)) != (configured.server, configured.authority):
        lines.append(f'  site.toml     under [coordinator] set server = "{where[0]}" and authority = "{where[1]}"')
    when = "" if back else ", if the coordinator revoked this site before"
    lines.append(f"  words         {' '.join(made.words)}: read them to each other by phone{when}")
    if back:
        lines.append("  last          fedrad-site resume")
    emit(_facts(made), as_json=as_json, lines=lines)


def leave(
    home: HomeOption = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Leave: nothing is answered any more, every approval is withdrawn, a signed word is made for the coordinator.

    The ledger must be kept: what was spent stays spent. Exit codes: 0 left, 1 failed or not confirmed, 2 misused.

    Example: fedrad-site leave --yes --home north
    """
    from fedrad_client.enrolment import leave as go
    from fedrad_client.site import Home
    from fedrad_common.errors import FedradError, MisuseError

    site = Home(home)
    name = site.config.site.name
    if not yes:
        if not sys.stdin.isatty():
            raise MisuseError("missing option '--yes'", hint="every approval is withdrawn, and coming back takes an invitation: say --yes")
        if not typer.confirm(f"{name} leaves its coordinator?", err=True):
            raise FedradError("not confirmed: nothing was changed")
    path = go(site)
    lines = (
        f"{name} has left: every order is refused from now on, no approval stands",
        f"  send          {path} to the coordinator, who types: fedrad-coordinator revoke HOME --leave leave.json",
        "  keep          ledger.chain, audit.chain and keys/: what was spent stays spent, with whatever coordinator next",
    )
    emit({"site": name, "leave": str(path), "state": "left"}, as_json=as_json, lines=lines)


def _where(invitation: "OpenedInvitation") -> tuple[str, str]:
    """`server` and `authority` of site.toml."""
    content = invitation.content
    return content.address, "keys/authority.pem" if content.authority else ""


def _public_key(path: Path | None) -> "PublicKey | None":
    from fedrad_common.errors import FormatError, MisuseError
    from fedrad_common.identity import PublicKey

    if path is None:
        return None
    if not path.is_file():
        raise MisuseError(f"--coordinator: {path.name}: no such file", hint="ask the coordinator for coordinator.pub")
    try:
        return PublicKey.load(path)
    except FormatError as error:
        raise MisuseError(f"--coordinator: {path.name}: {error}", hint="ask the coordinator for coordinator.pub") from None


def _shown(home: Path) -> tuple[dict[str, Any], list[str]]:
    from fedrad_client.enrolment import current
    from fedrad_client.site import Home

    made = current(Home(home))
    content = made.request.invitation.content
    return _facts(made), [
        f"  coordinator   {content.address}, key {made.request.invitation.coordinator.id[:16]}",
        f"  request       {made.path}: send it to the coordinator; it holds two public keys and a name, nothing of patients",
        f"  words         {' '.join(made.words)}",
        "  then          phone the coordinator at a number that you know (not one from the mail) and read the words to each other",
        "  next          fedrad-site doctor, ingest, preview, approve, start",
    ]


def _facts(made: "Enrolment") -> dict[str, Any]:
    content = made.request.content
    return {
        "site": content.name,
        "request": str(made.path),
        "words": " ".join(made.words),
        "server": made.request.invitation.content.address,
        "envelope_key": content.envelope,
        "node_key_id": made.request.node.id,
    }
