"""`fedrad-site`: what a hospital's IT person types. Imports of torch, opacus and pydicom wait inside the commands that need them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrad_client.cli import cohort, ledger
from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit, run_cli

app = typer.Typer(
    name="fedrad-site",
    help="A hospital's node: its images stay here, its privacy is counted here, nothing runs that it did not approve.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
audit_app = typer.Typer(help="The log of every decision and of every byte that left.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")

ProtocolArgument = Annotated[Path, typer.Argument(help="The protocol's TOML file.")]
SizeOption = Annotated[
    int, typer.Option("--declared-size", "-n", min=1, help="Patients, as you declare them: rounded or padded as you like; public.")
]
app.add_typer(ledger.app, name="ledger")
app.command("privacy-statement")(ledger.privacy_statement)
cohort.register(app)


def main() -> None:
    run_cli(app, "fedrad-site")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The site's name in rosters and reports.")],
    home: HomeOption = HERE,
    local: Annotated[bool, typer.Option("--local", help="For a coordinator on this machine: no enrolment.")] = False,
    coordinator: Annotated[Path | None, typer.Option(help="File with the coordinator's public key (hexadecimal).")] = None,
    epsilon: Annotated[float, typer.Option(min=0.01, help="Privacy ceiling per patient, over the site's lifetime.")] = 10.0,
    delta: Annotated[float, typer.Option(help="At most 1 / (10 × declared size).")] = 1e-5,
    validation_fraction: Annotated[float, typer.Option(help="Share of patients that no protocol ever trains on.")] = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Make a site: settings, keys that never leave it, an empty privacy ledger.

    Example: fedrad-site init --local --name north --home north --coordinator coordinator.pub
    """
    from fedrad_client.config import SiteConfig
    from fedrad_client.site import create_site
    from fedrad_client.site_toml import render
    from fedrad_common.config import parse_toml
    from fedrad_common.errors import FormatError, MisuseError
    from fedrad_common.identity import PublicKey

    if not local:
        raise MisuseError("init: enrolment with a remote coordinator is not part of this release", hint="use --local")
    key = None
    if coordinator is not None:
        if not coordinator.is_file():
            raise MisuseError(f"--coordinator: {coordinator.name}: no such file", hint="ask the coordinator for coordinator.pub")
        try:
            key = PublicKey.load(coordinator)
        except FormatError as error:
            raise MisuseError(f"--coordinator: {coordinator.name}: {error}", hint="ask the coordinator for coordinator.pub") from None
    text = render(name=name, epsilon=epsilon, delta=delta, validation_fraction=validation_fraction)
    config = parse_toml(text.encode(), SiteConfig, name="site.toml")
    made = create_site(home, config, toml=text, coordinator=key)
    facts = {"site": name, "envelope_key": made.envelope_key.public.hex, "epsilon": epsilon, "delta": delta}
    lines = (
        f"site {name} made in {home}",
        f"  ceiling       epsilon {epsilon:g}, delta {delta:g}, for the site's lifetime",
        f"  envelope key  {made.envelope_key.public.id[:16]} (give keys/envelope's public half to the coordinator)",
        "  next          fedrad-site ingest DICOM --labels labels.csv --protocol protocol.toml",
    )
    emit(facts, as_json=as_json, lines=lines)


@app.command()
def ingest(
    source: Annotated[Path, typer.Argument(help="Folder with DICOM files.")],
    protocol: Annotated[Path, typer.Option(help="Whose input geometry and labels to prepare for.")],
    labels: Annotated[Path | None, typer.Option(help="CSV keyed by SOPInstanceUID, SeriesInstanceUID or PatientID.")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Read, de-identify and normalise a folder into a new cohort generation. The folder is not changed.

    Example: fedrad-site ingest /mnt/export --labels labels.csv --protocol chest.toml
    """
    from fedrad_client.intake.verb import ingest_folder

    report = ingest_folder(home, source, protocol=protocol, labels=labels, quiet=as_json)
    emit(report.facts(), as_json=as_json, lines=report.lines())


@app.command()
def preview(
    protocol: ProtocolArgument,
    declared_size: SizeOption,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show exactly what would leave and what it would cost, before you approve. Spends and sends nothing.

    Example: fedrad-site preview chest.toml --declared-size 500
    """
    from fedrad_client.approval import preview as look
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import facts, lines
    from fedrad_client.privacy.ledger import in_force, read_ledger
    from fedrad_client.site import LEDGER, Home

    site = Home(home)
    settings = site.config.privacy
    opening, account, _head = read_ledger(home / LEDGER)
    seen = look(site, in_force(opening, settings), account, read_protocol(protocol), declared_size=declared_size)
    emit(facts(seen), as_json=as_json, lines=lines(seen))


@app.command()
def approve(
    protocol: ProtocolArgument,
    declared_size: SizeOption,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Accept a protocol: its bytes are kept under their hash, and orders for it may be answered from now on.

    Example: fedrad-site approve chest.toml --declared-size 500
    """
    from fedrad_client.approval import approve as accept
    from fedrad_client.approval import read_protocol
    from fedrad_client.preview import facts
    from fedrad_client.site import open_site

    with open_site(home) as site:
        seen = accept(site, read_protocol(protocol), declared_size=declared_size)
    bound = "no bound" if seen.plan.epsilon is None else f"epsilon {seen.plan.epsilon:g}"
    emit(
        facts(seen), as_json=as_json, lines=(f"approved {seen.protocol.name} {seen.protocol.hash[:16]} ({bound})", *_warned(seen.warnings))
    )


@app.command()
def unapprove(
    protocol: Annotated[str, typer.Argument(help="The protocol's hash, or its first digits (`fedrad-site status`).")],
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Take an approval back: its orders are refused from now on. What was spent stays spent.

    Example: fedrad-site unapprove 86bdb4ad
    """
    from fedrad_client.approval import withdraw_approval
    from fedrad_client.site import open_site

    with open_site(home) as site:
        name = withdraw_approval(site, protocol)
    emit({"protocol": name, "approved": False}, as_json=as_json, lines=(f"no longer approved: {name[:16]}",))


@app.command()
def status(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Show the site at a glance: paused or not, cohort, approvals, answers given.

    Example: fedrad-site status --json
    """
    from fedrad_client.site import Home
    from fedrad_client.status import facts

    value = facts(Home(home))
    emit(value, as_json=as_json, lines=[f"{key.replace('_', ' '):<16}{_shown(item)}" for key, item in value.items()])


@app.command()
def start(
    server: Annotated[str | None, typer.Option(help="The coordinator's address for sites, HOST:PORT.")] = None,
    home: HomeOption = HERE,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="Print what the coordinator needs to admit this site, and end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer the coordinator's orders, in the foreground, until SIGTERM. Nothing but approved protocols is answered.

    Example: fedrad-site start --server 127.0.0.1:9092 --home north
    """
    from fedrad_client.node_key import PUBLIC, node_key
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
    from fedrad_client.node import run_node

    run_node(home, server)


@app.command()
def pause(home: HomeOption = HERE) -> None:
    """Answer every order with `paused` from now on.

    Example: fedrad-site pause
    """
    from fedrad_client.site import PAUSED, Home
    from fedrad_common.files import write_atomic

    write_atomic(home / PAUSED, b"") if Home(home).config else None
    typer.echo("paused: every order is answered with 'paused' until `fedrad-site resume`")


@app.command()
def resume(home: HomeOption = HERE) -> None:
    """Answer orders again.

    Example: fedrad-site resume
    """
    from fedrad_client.site import PAUSED, Home

    if Home(home).config:
        (home / PAUSED).unlink(missing_ok=True)
    typer.echo("answering")


@app.command()
def deid(
    explain: Annotated[bool, typer.Option("--explain", help="Print every rule with its paragraph of PS3.15.")] = False,
) -> None:
    """De-identification: what is kept of a DICOM file. Everything not listed does not exist.

    Example: fedrad-site deid --explain
    """
    from fedrad_client.intake.deid import explain as rules
    from fedrad_common.errors import MisuseError

    if not explain:
        raise MisuseError("deid: nothing to do", hint="use --explain; files are de-identified by `fedrad-site ingest`")
    typer.echo(rules())


@audit_app.command("verify")
def audit_verify(home: HomeOption = HERE, as_json: JsonOption = False) -> None:
    """Check both logs from the first entry to the last, and print their heads.

    Example: fedrad-site audit verify
    """
    from fedrad_client.audit import KIND
    from fedrad_client.privacy.ledger import KIND as LEDGER_KIND
    from fedrad_client.site import AUDIT, LEDGER, Home
    from fedrad_common.chain import read

    _ = Home(home).config
    logs = {"audit": read(home / AUDIT, KIND), "ledger": read(home / LEDGER, LEDGER_KIND)}
    value = {name: {"entries": len(entries), "head": entries[-1].hash} for name, entries in logs.items()}
    emit(value, as_json=as_json, lines=[f"{name:<8}{len(entries):>6} entries, head {entries[-1].hash}" for name, entries in logs.items()])


def _warned(warnings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"  warning: {warning}" for warning in warnings)


def _shown(item: Any) -> str:
    return ", ".join(map(str, item)) if isinstance(item, list) else str(item)
