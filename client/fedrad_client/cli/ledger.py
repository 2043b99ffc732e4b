"""`fedrad-site ledger` and `privacy-statement`: the privacy account as a person, a program or a data-protection officer reads it."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit

ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the page that is there.")]
app = typer.Typer(invoke_without_command=True)


@app.callback()
def show(
    context: typer.Context,
    home: HomeOption = HERE,
    html: Annotated[Path | None, typer.Option(help="Write a page with a drawing to this file.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the privacy account: ceiling, what is reserved, what is left, run by run.

    Exit codes: 0 shown · 1 the ledger is missing, damaged or shortened · 2 misused, or site.toml is looser than the ledger.

    Example: fedrad-site ledger --home north
    """
    if context.invoked_subcommand is not None:
        context.obj = home
        return
    from fedrad_client.privacy.account import opening_of
    from fedrad_client.privacy.ledger import KIND, in_force
    from fedrad_client.privacy.overview import facts, lines
    from fedrad_client.site import LEDGER, Home
    from fedrad_common.chain import read
    from fedrad_common.files import check_target, write_atomic

    if html is not None:
        check_target(html, option="--html", force=force)
    config = Home(home).config
    entries = read(home / LEDGER, KIND)
    opening = in_force(opening_of(entries[0]), config.privacy)
    if html is not None:
        from fedrad_client.privacy.ledger_page import ledger_page

        write_atomic(html, ledger_page(opening, entries).encode())
    emit(facts(opening, entries) if as_json else {}, as_json=as_json, lines=() if as_json else lines(opening, entries))


@app.command()
def verify(
    context: typer.Context,
    home: HomeOption = HERE,
    head: Annotated[str | None, typer.Option(help="A head that somebody wrote down earlier.")] = None,
    witness: Annotated[list[Path] | None, typer.Option(help="A receipt, an envelope or a manifest.json of the coordinator's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the ledger from its first entry, against the audit log, and against any witness that you hold.

    Exit codes: 0 whole, and every witness agrees · 1 damaged, shortened, contradicted, or in use · 2 misused.

    Example: fedrad-site ledger verify --witness receipt.json --home north
    """
    from fedrad_client.recovery import LOST
    from fedrad_client.site import open_site
    from fedrad_client.witness import check_file, check_head

    place = _place(context, home)
    said = []
    with open_site(place) as site:
        entries = site.ledger.chain.entries
        if head is not None:
            said.append(check_head(site.ledger, head, lost=place / LOST))
        for path in witness or ():
            said.append(check_file(site, path, lost=place / LOST))
        value = {
            "entries": len(entries),
            "head": entries[-1].hash,
            "releases": sum(entry.type == "release" for entry in site.audit.entries),
            "witnesses": said,
        }
    lines = [f"ledger  {value['entries']:>6} entries, head {value['head']}", f"audit   {value['releases']:>6} releases, each of them paid"]
    emit(value, as_json=as_json, lines=[*lines, *(f"witness {text}" for text in said)])


@app.command("with")
def with_other(
    context: typer.Context,
    other: Annotated[Path, typer.Argument(help="What `fedrad-site ledger --json` printed at the other hospital.")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """What somebody bears who is a patient here and at another hospital.

    Exit codes: 0 shown · 1 one of the two cannot be read · 2 misused.

    Example: fedrad-site ledger with south-ledger.json --home north
    """
    from fedrad_client.privacy.account import opening_of
    from fedrad_client.privacy.ledger import KIND, in_force
    from fedrad_client.privacy.overview import facts
    from fedrad_client.privacy.together import read_facts, together
    from fedrad_client.site import LEDGER, Home
    from fedrad_common.chain import read
    from fedrad_common.errors import MisuseError

    if not other.is_file():
        raise MisuseError(f"{other.name}: no such file", hint="ask the other site for `fedrad-site ledger --json`")
    place = _place(context, home)
    entries = read(place / LEDGER, KIND)
    own = facts(in_force(opening_of(entries[0]), Home(place).config.privacy), entries)
    value = together(own, read_facts(other.read_bytes(), name=other.name))
    planned = "no bound is known" if value["planned"] is None else f"epsilon {value['planned']:.3f}"
    lines = (
        f"a patient of {value['sites'][0]} and {value['sites'][1]}, at delta {value['delta']:.3g}",
        f"  ceiling     epsilon {value['ceiling']:g} holds whatever happens: the sum of both",
        f"  in advance  {planned} if all that both reserved had been fixed in advance (PRV, upper)",
    )
    emit(value, as_json=as_json, lines=lines)


@app.command()
def recover(
    context: typer.Context,
    home: HomeOption = HERE,
    assume_spent: Annotated[
        bool, typer.Option("--assume-spent", help="The lost ledger's whole ceiling counts as spent; a new identity begins.")
    ] = False,
    new_ceiling: Annotated[
        float | None, typer.Option(min=0.01, help="Epsilon that the new identity may spend on top; without it, nothing.")
    ] = None,
    accept_clock: Annotated[bool, typer.Option("--accept-clock", help="Go on from the clock as it is now.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Go on after a ledger was lost or contradicted, or after the clock was wrong. A person decides; nothing is given back.

    Exit codes: 0 done · 1 failed, or a program of this site is running · 2 misused; nothing was changed.

    Example: fedrad-site ledger recover --assume-spent --home north
    """
    from fedrad_client import recovery
    from fedrad_client.site import Home
    from fedrad_common.errors import MisuseError

    if assume_spent == accept_clock:
        raise MisuseError("ledger recover: nothing chosen, or too much", hint="use either --assume-spent or --accept-clock")
    if accept_clock and new_ceiling is not None:
        raise MisuseError("--new-ceiling: goes with --assume-spent only", hint="accepting the clock changes no ceiling")
    site = Home(_place(context, home))
    if accept_clock:
        logs = recovery.accept_clock(site)
        emit({"logs": list(logs)}, as_json=as_json, lines=[f"{name}: goes on from the clock as it is now" for name in logs])
        return
    done = recovery.recover(site, new_ceiling=new_ceiling)
    nothing = "orders are refused; a person may allow more: recover --assume-spent --new-ceiling EPSILON"
    allowed = f"epsilon {done.epsilon:g} may be spent on top" if done.epsilon else "nothing more may be spent"
    lines = (
        f"epsilon {done.earlier_epsilon:g} of the lost ledger is assumed spent; {allowed}",
        f"  new identity  {done.identity}",
        f"  set aside     {done.kept}: keep it",
        f"  next          {'enrol anew (fedrad-site request) and approve each protocol anew' if done.epsilon else nothing}",
    )
    emit(vars(done), as_json=as_json, lines=lines)


def privacy_statement(
    home: HomeOption = HERE,
    html: Annotated[Path | None, typer.Option(help="Write it as a page, to be read or printed, to this file.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what this site promises its patients, with its own figures, for a data-protection officer to sign.

    Exit codes: 0 printed, or written · 1 failed · 2 misused.

    Example: fedrad-site privacy-statement --html statement.html --home north
    """
    from fedrad_client.privacy.statement import facts, lines, statement_page
    from fedrad_client.site import Home
    from fedrad_common.files import check_target, write_atomic

    if html is not None:
        check_target(html, option="--html", force=force)
    value = facts(Home(home))
    if html is not None:
        write_atomic(html, statement_page(value).encode())
        emit({"page": str(html)}, as_json=as_json, lines=(f"written: {html}",))
        return
    emit(value, as_json=as_json, lines=lines(value))


def _place(context: typer.Context, home: Path) -> Path:
    """`ledger --home north verify` and `ledger verify --home north` are the same."""
    return context.obj if home == HERE and isinstance(context.obj, Path) else home
