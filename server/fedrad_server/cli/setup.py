"""`fedrad-coordinator init` and `renew`: the coordinator's folder, keys and certificates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_common.cli import emit
from fedrad_server.cli.options import HomeArgument, JsonOption

if TYPE_CHECKING:
    from fedrad_server.authority import Certificate, Institution

CertificateOption = Annotated[
    Path | None, typer.Option("--certificate", help="The institution's certificate for the server, PEM: its own first, then the chain.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="Its private key, PEM, without a passphrase.")]
AuthorityOption = Annotated[
    Path | None, typer.Option("--authority", help="Who signed it, PEM; without it each site's machine must know who.")
]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (init, renew):
        app.command()(verb)


def init(
    home: HomeArgument,
    host: Annotated[list[str] | None, typer.Option("--host", help="Name or address by which sites reach the server; repeat.")] = None,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT to listen at.", show_default="0.0.0.0:9092 with --host, else this machine only")
    ] = None,
    address: Annotated[str, typer.Option(help="HOST:PORT as sites see it, where that is not the first host and the port.")] = "",
    certificate: CertificateOption = None,
    key: KeyOption = None,
    authority: AuthorityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the coordinator's folder: settings, signing key, certificate authority, server certificate, Control token.

    Without --host it is for this machine alone. Exit codes: 0 made, 1 failed, 2 misused; nothing is made unless all is.

    Example: fedrad-coordinator init coordinator --host fl.example.org
    """
    from fedrad_common.config import validate
    from fedrad_server import lost_secrets
    from fedrad_server.authority import read_certificate
    from fedrad_server.coordinator_toml import LOCAL_HOSTS, LOCAL_LISTEN, OPEN_LISTEN, Settings
    from fedrad_server.home import Home

    chosen = {"hosts": host or LOCAL_HOSTS, "listen": listen or (OPEN_LISTEN if host else LOCAL_LISTEN), "address": address}
    made = Home.create(home, validate(chosen, Settings, name="init"), institution=_institution(certificate, key, authority))
    server, public = read_certificate(home), made.public.hex
    facts = {"home": str(home), "public_key": public, "listen": made.settings.listen, **_facts(server)}
    text = [
        f"made {home}",
        f"  signing key   {made.public.id[:16]}, public half {public}",
        f"  server        listens at {made.settings.listen}; certificate for {', '.join(server.hosts)} until {server.not_after:%Y-%m-%d}",
        f"  authority     {'your own, for ten years' if server.own else 'the one that you brought'}",
        f"back up       {lost_secrets.BACK_UP}",
        "when one of these is lost or stolen",
        *lost_secrets.lines(),
        f"next          fedrad-coordinator start {home}; then for each site: fedrad-coordinator invite {home} --out invitation.json",
    ]
    emit(facts, as_json=as_json, lines=text)


def renew(
    home: HomeArgument,
    new_authority: Annotated[
        bool, typer.Option("--new-authority", help="A new authority, too: its key was lost or stolen. Every site then needs an invitation.")
    ] = False,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    authority: AuthorityOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new server certificate, for the hosts in coordinator.toml, by the same authority: sites need nothing new.

    With an institution's certificate, bring the next one. Exit codes: 0 made, 1 failed, 2 misused.

    Example: fedrad-coordinator renew coordinator
    """
    from fedrad_common.errors import MisuseError
    from fedrad_server.home import Home
    from fedrad_server.renewal import renew_certificate

    institution = _institution(certificate, key, authority)
    if institution and new_authority:
        raise MisuseError("renew: --new-authority and --certificate exclude each other", hint="see 'fedrad-coordinator renew --help'")
    made = renew_certificate(Home.own(home), institution=institution, new_authority=new_authority)
    text = [
        f"server certificate for {', '.join(made.hosts)} until {made.not_after:%Y-%m-%d}",
        "  next          nothing: a running server uses it within a minute",
    ]
    if new_authority:
        text.append("  sites         send each a new invitation (fedrad-coordinator invite); there: fedrad-site renew --invitation FILE")
    emit(_facts(made), as_json=as_json, lines=text)


def _institution(certificate: Path | None, key: Path | None, authority: Path | None) -> "Institution | None":
    from fedrad_common.errors import MisuseError
    from fedrad_server.authority import Institution

    if certificate is None or key is None:
        if certificate or key or authority:
            missing = "--certificate" if certificate is None else "--key"
            raise MisuseError(f"missing option '{missing}'", hint="an institution's certificate comes with its key")
        return None
    return Institution(certificate, key, authority)


def _facts(server: "Certificate") -> dict[str, object]:
    return {"hosts": list(server.hosts), "certificate_ends": server.not_after.isoformat(), "own_authority": server.own}
