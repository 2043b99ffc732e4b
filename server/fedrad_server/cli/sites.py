"""`fedrad-coordinator invite`, `admit`, `revoke` and `sites`: who takes part."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption

if TYPE_CHECKING:
    from fedrad_server.admission import Application


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (invite, admit, revoke, sites):
        app.command()(verb)


def invite(
    home: HomeArgument,
    out: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("invitation.json"),
    force: Annotated[bool, typer.Option("--force", help="Replace an older invitation there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an invitation for sites: your public key, the server's address, whose certificates to believe. It holds no secret.

    Exit codes: 0 written, 1 failed, 2 misused.

    Example: fedrad-coordinator invite coordinator --out invitation.json
    """
    from fedrad_common import __version__
    from fedrad_server.admission import invite as write
    from fedrad_server.home import Home

    made = write(Home.own(home), out, version=__version__, force=force)
    facts = {"invitation": str(out), "address": made.address, "coordinator": made.coordinator}
    lines = [f"wrote {out}: sites will connect to {made.address}", "  next          send it to the sites; each answers with a request.json"]
    emit(facts, as_json=as_json, lines=lines)


def admit(
    home: HomeArgument,
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The site's enrolment/request.json.")],
    words: Annotated[str | None, typer.Option("--words", help="The six words that the site read out, in quotes.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a site in, once both of you have read the same six words: phone it at a number that you know, not one from the mail.

    A site that is admitted already and has a new node key needs no words: its envelope key vouches for it. Exit codes: 0 admitted,
    1 failed (the words differ, a signature does not fit), 2 misused.

    Example: fedrad-coordinator admit coordinator request.json --words "abandon ability able about above absent"
    """
    from fedrad_server.admission import admit as let_in
    from fedrad_server.admission import examine, moved
    from fedrad_server.home import Home

    opened = Home.own(home)
    found = examine(opened, request)
    if not found.renewal:
        _compare(found, words)
    waiting = let_in(opened, found)
    facts: dict[str, Any] = {"site": found.name, "renewed": found.renewal, "server_knows": not waiting}
    lines = [f"{'new node key of' if found.renewal else 'admitted'} {found.name}"]
    if waiting:
        lines.append(f"  {waiting}: the site may connect as soon as it runs")
    if moved(opened, found):
        invited = found.request.invitation.content.address
        lines.append(f"  warning: this site was invited to {invited}; it must set coordinator.server in its site.toml")
    emit(facts, as_json=as_json, lines=lines)


def revoke(
    home: HomeArgument,
    name: Annotated[str | None, typer.Argument(metavar="[SITE]", help="The site's name; none with --leave.")] = None,
    leave: Annotated[Path | None, typer.Option("--leave", help="The enrolment/leave.json of a site that leaves.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Shut a site out from its next request on. What it gave to closed rounds stays. Exit codes: 0 done, 1 failed, 2 misused.

    Example: fedrad-coordinator revoke coordinator north
    """
    from fedrad_common.errors import MisuseError
    from fedrad_server.admission import leaving
    from fedrad_server.admission import revoke as shut_out
    from fedrad_server.home import Home

    opened = Home.own(home)
    if (name is None) == (leave is None):
        raise MisuseError("revoke: name either a site or --leave FILE", hint="see 'fedrad-coordinator revoke --help'")
    site = leaving(opened, leave) if leave is not None else str(name)
    waiting = shut_out(opened, site)
    lines = [f"revoked {site}", *([f"  {waiting}: Flower's node goes as soon as it runs"] if waiting else [])]
    emit({"site": site, "server_knows": not waiting}, as_json=as_json, lines=lines)


def sites(home: HomeArgument, as_json: JsonOption = False) -> None:
    """List the admitted sites: ids of their keys, since when, last contact. Exit codes: 0 done, 1 failed, 2 misused.

    Example: fedrad-coordinator sites coordinator --json
    """
    from fedrad_common.identity import PublicKey
    from fedrad_server.contacts import ages
    from fedrad_server.home import Home

    opened = Home.open(home)
    since = ages(home / "superlink", time.time())
    rows = [
        {
            "site": name,
            "key": PublicKey.from_hex(member.envelope).id,
            "node": member.node_key.id,
            "admitted": member.admitted,
            "last_contact_seconds": round(since[name], 1) if name in since else None,
        }
        for name, member in opened.members.items()
    ]
    lines = [_row(row) for row in rows] or ["no sites yet"]
    emit({"sites": rows}, as_json=as_json, lines=lines)


def _compare(found: "Application", words: str | None) -> None:
    """A person's yes. Raises FedradError when the words differ, MisuseError when nobody is there to compare them."""
    from fedrad_common.enrolment import same_words
    from fedrad_common.errors import FedradError, MisuseError

    said, asked = words, words is None
    if asked:
        if not sys.stdin.isatty():
            raise MisuseError("missing option '--words'", hint="ask the site by phone for its six words: fedrad-site request")
        typer.echo(f"{found.name} must read these words to you: {' '.join(found.request.words)}", err=True)
        said = typer.prompt("do they match? type them, or yes", err=True)
    if same_words(str(said), found.request.words) or (asked and str(said).strip().lower() in ("y", "yes")):
        return
    raise FedradError(
        f"{found.name}: the words differ: nothing was admitted",
        hint="somebody changed the invitation or the request on the way, or one of you has an older file: send both anew, on another way",
    )


def _row(row: dict[str, Any]) -> str:
    age = row["last_contact_seconds"]
    contact = "no contact yet" if age is None else f"last contact {age:.0f} s ago"
    return f"{row['site']:32}  key {row['key'][:16]}  node {row['node'][:16]}  admitted {row['admitted']}  {contact}"
