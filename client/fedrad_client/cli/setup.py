"""`fedrad-site init`: a new site."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(init)


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
