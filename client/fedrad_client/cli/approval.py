"""`fedrad-site preview`, `approve` and `unapprove`: a person's yes."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit

if TYPE_CHECKING:
    from fedrad_client.approval import Preview

ProtocolArgument = Annotated[Path, typer.Argument(help="The protocol's TOML file.")]
SizeOption = Annotated[
    int | None,
    typer.Option("--declared-size", "-n", min=1, help="Patients, as you declare them: rounded or padded; public. site.toml may fix it."),
]
RunsOption = Annotated[int | None, typer.Option("--runs", min=1, help="How many runs of it, in all; 1 by default.")]
RunOption = Annotated[str | None, typer.Option("--run", help="The id of one run, on top of those that --runs allows.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (preview, approve, unapprove, weights):
        app.command()(verb)


def preview(
    protocol: ProtocolArgument,
    declared_size: SizeOption = None,
    runs: RunsOption = None,
    run: RunOption = None,
    weights: Annotated[Path | None, typer.Option(help="The public file that it starts from, if you fetched it: is it that one?")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show exactly what would leave and what it would cost, before you approve. Spends and sends nothing.

    Exit codes: 0 shown, also where it cannot be approved · 1 failed · 2 misused.

    Example: fedrad-site preview chest.toml --declared-size 500 --home north
    """
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import facts, lines

    content = read_protocol(protocol)
    seen = _look(home, content, declared_size, runs=runs, run=run)
    if weights is not None:
        from fedrad_common.weights import check_public

        check_public(seen.protocol, weights)
        typer.echo(f"{weights.name}: is the file that the protocol names, and gives the weights that it starts from", err=True)
    emit(facts(seen), as_json=as_json, lines=lines(seen))


def approve(
    protocol: ProtocolArgument,
    declared_size: SizeOption = None,
    runs: RunsOption = None,
    run: RunOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing, on a terminal either.")] = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Accept a protocol for one run, or as many as you say: its bytes are kept under their hash, and its orders answered.

    On a terminal you are shown the preview and asked. Exit codes: 0 approved · 1 failed, or you said no · 2 misused, or not acceptable.

    Example: fedrad-site approve chest.toml --declared-size 500 --runs 2 --home north
    """
    from fedrad_client.approval import approve as accept
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import approved_for, changed, facts
    from fedrad_client.site import open_site

    content = read_protocol(protocol)
    if sys.stdin.isatty() and not yes:
        _ask(_look(home, content, declared_size, runs=runs, run=run))  # the very bytes that are approved: the file may change
    with open_site(home) as site:
        seen = accept(site, content, declared_size=declared_size, runs=runs, run=run)
    bound = "no bound" if seen.plan.epsilon is None else f"epsilon {seen.plan.epsilon:g} a run"
    lines = (
        f"approved {seen.protocol.name} {seen.protocol.hash[:16]} ({bound})",
        f"  for           {approved_for(seen)}",
        *(f"  {line}" for line in changed(seen)),
        *(f"  warning: {warning}" for warning in seen.warnings),
    )
    emit(facts(seen), as_json=as_json, lines=lines)


def weights(
    protocol: ProtocolArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The safetensors file, fetched by you from where the protocol says.")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Keep the public weights that a protocol starts from, after comparing their hash, names and shapes with what it says.

    Exit codes: 0 kept in HOME/weights · 1 failed · 2 misused, or another file.

    Example: fedrad-site weights chest.toml chest.safetensors --home north
    """
    from fedrad_client.site import Home
    from fedrad_common.protocol import load_protocol
    from fedrad_common.weights import check_public, keep_file

    wanted, site = load_protocol(protocol), Home(home).config.site.name
    initial = wanted.model.initial
    check_public(wanted, file)
    keep_file(home, file, initial)
    lines = (
        f"kept at {site}: {file.name}, SHA-256 {initial.weights}",
        f"  source        {initial.source}, says the protocol; nothing proves that but you",
    )
    emit({"weights": initial.weights, "source": initial.source}, as_json=as_json, lines=lines)


def unapprove(
    protocol: Annotated[str, typer.Argument(help="The protocol's hash, or its first digits (`fedrad-site status`).")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Take an approval back: its orders are refused from now on. What was spent stays spent.

    Exit codes: 0 taken back · 1 failed · 2 misused.

    Example: fedrad-site unapprove 86bdb4ad --home north
    """
    from fedrad_client.approval import withdraw_approval
    from fedrad_client.site import open_site

    with open_site(home) as site:
        name = withdraw_approval(site, protocol)
    emit({"protocol": name, "approved": False}, as_json=as_json, lines=(f"no longer approved: {name[:16]}",))


def _look(home: Path, content: bytes, declared_size: int | None, *, runs: int | None, run: str | None) -> "Preview":
    from fedrad_client.approval import preview as look
    from fedrad_client.privacy.ledger import in_force, read_ledger
    from fedrad_client.site import LEDGER, Home

    site = Home(home)
    settings = site.config.privacy
    opening, account, _ = read_ledger(home / LEDGER)
    return look(site, in_force(opening, settings), account, content, declared_size=declared_size, runs=runs, run=run)


def _ask(seen: "Preview") -> None:
    """A person's own yes. Raises FedradError where they say anything else."""
    from fedrad_client.preview import approved_for, lines
    from fedrad_common.errors import FedradError

    for line in lines(seen):
        typer.echo(line, err=True)
    if not seen.obstacles and not typer.confirm(f"approve it for {approved_for(seen)}?", err=True):
        raise FedradError("approve: you said no", hint="nothing was approved")
