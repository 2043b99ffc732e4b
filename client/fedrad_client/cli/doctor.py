"""`fedrad-site doctor`, `support-bundle` and `firewall-sheet`: what a hospital's IT needs before anybody has to be asked."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_client.cli.options import HERE, AnyHomeOption, JsonOption
from fedrad_common.cli import emit

if TYPE_CHECKING:
    from fedrad_client.doctor import Finding, Subject

ServerOption = Annotated[str | None, typer.Option(help="HOST:PORT of the coordinator, instead of the one in site.toml.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")]
_LOOK = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red"), "skipped": ("-", "bright_black")}


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(doctor)
    app.command("support-bundle")(support_bundle)
    app.command("firewall-sheet")(firewall_sheet)


def doctor(home: AnyHomeOption = HERE, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Check this machine, this site and the way to the coordinator; each fault comes with its remedy. Changes nothing.

    Exit codes: 0 nothing failed (there may be warnings) · 1 a check failed · 2 there is no such folder.

    Example: fedrad-site doctor --home north
    """
    from fedrad_client.doctor import as_json as value_of
    from fedrad_client.doctor import examine

    subject = _subject(home, server)
    found = []
    for finding in examine(subject):
        found.append(finding)
        if not as_json:
            for line in _shown(finding):
                typer.echo(line)
    value = value_of(found)
    emit(value, as_json=as_json, lines=(f"{value['ok']} in order, {value['warn']} warnings, {value['fail']} failed",))
    if value["fail"]:
        raise typer.Exit(1)


def support_bundle(
    home: AnyHomeOption = HERE,
    out: Annotated[Path, typer.Option(help="The zip file to write.")] = Path("fedrad-support.zip"),
    show: Annotated[bool, typer.Option("--show", help="Print all that would be in it, and write nothing.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a zip for whoever helps: versions, checks, counts and codes. No patient data, no keys, no UIDs, no paths outside the site.

    Exit codes: 0 written, or shown · 1 failed · 2 misused.

    Example: fedrad-site support-bundle --show --home north
    """
    from fedrad_client.support import contents, pack
    from fedrad_common.files import check_target, write_atomic

    if not show:
        check_target(out, option="--out", force=force)
    files = contents(_subject(home, None))
    table = [f"{len(content):>8} bytes  {name}" for name, content in files.items()]
    if show:
        texts = [line for name, content in files.items() for line in ("", f"--- {name}", *content.decode().splitlines())]
        emit({name: content.decode() for name, content in files.items()}, as_json=as_json, lines=[*table, *texts])
        return
    write_atomic(out, pack(files))
    value = {"file": out.name, "contents": {name: len(content) for name, content in files.items()}}
    emit(value, as_json=as_json, lines=[*table, f"written to {out}; look at it with --show before you send it"])


def firewall_sheet(
    home: AnyHomeOption = HERE,
    html: Annotated[Path | None, typer.Option(help="Write it as a page for printing to this file.")] = None,
    server: ServerOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what the firewall must let through, and nothing else: one host, one port, outbound.

    Exit codes: 0 printed · 1 failed · 2 misused, or no coordinator is named yet.

    Example: fedrad-site firewall-sheet --html firewall.html --home north
    """
    from fedrad_client.doctor.firewall import facts, lines, page
    from fedrad_client.site import Home
    from fedrad_common.files import check_target, write_atomic

    if html is not None:
        check_target(html, option="--html", force=force)
    value = facts(Home(home), server=server)
    if html is not None:
        write_atomic(html, page(value).encode())
    emit(value, as_json=as_json, lines=lines(value))


def _subject(home: Path, server: str | None) -> "Subject":
    from fedrad_client.doctor import Subject
    from fedrad_common.errors import MisuseError

    if not home.is_dir():
        raise MisuseError(f"{home.name}: no such folder", hint="name the site's folder with --home, or make one: fedrad-site init")
    if not os.access(home, os.R_OK | os.X_OK):
        raise MisuseError(
            f"{home.name}: this account may not look into it", hint="run it as the service's account: sudo -u fedrad fedrad-site doctor"
        )
    return Subject(home, server)


def _shown(finding: "Finding") -> list[str]:
    word, colour = _LOOK[finding.verdict]
    lines = [f"{typer.style(f'{word:<5}', fg=colour)} {finding.check:<14} {finding.sentence}"]
    return [*lines, f"{'':<21}remedy: {finding.remedy}"] if finding.remedy else lines
