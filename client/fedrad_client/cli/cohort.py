"""`fedrad-site cohort check` and `withdraw`: what to look at before approval, and a patient who leaves.

Names come from stdin or a file, never from the command line.
"""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit
from fedrad_common.errors import FedradError

if TYPE_CHECKING:
    from fedrad_client.cohort.usage import Use
    from fedrad_client.intake.quality.findings import Finding

_LOOK = {"pass": ("PASS", "green"), "warn": ("WARN", "yellow"), "fail": ("FAIL", "red"), "skipped": ("-", "bright_black")}
app = typer.Typer(help="The site's processed data.", no_args_is_help=True)


def register(site: typer.Typer) -> None:
    """Add these verbs to the command line."""
    site.add_typer(app, name="cohort")
    site.command()(withdraw)


@app.callback()
def _cohort() -> None:
    """The site's processed data."""


@app.command()
def check(
    home: HomeOption = HERE,
    generation: Annotated[int | None, typer.Option(min=1, help="Which one; the newest by default.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with the images to look at to this file. It stays here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the data before a protocol is approved: labels, split, copies, orientation, and what a model could learn instead.

    It flags and changes nothing: a person decides. Nothing of it leaves the site; the coordinator learns approval, or silence.

    Exit codes: 0 nothing failed (there may be warnings) · 1 a check failed · 2 misused, or nothing was ingested.

    Example: fedrad-site cohort check --page quality.html --home north
    """
    from fedrad_client.cohort.store import open_cohort
    from fedrad_client.intake.quality.check import examine, facts
    from fedrad_client.intake.quality.page import page as page_of
    from fedrad_client.intake.quality.remembered import remember
    from fedrad_client.intake.quality.subject import Subject
    from fedrad_client.site import Home
    from fedrad_common.files import check_target, write_atomic
    from fedrad_common.progress import progress_bar

    if page is not None:
        check_target(page, option="--page", force=force)
    with progress_bar("reading images", quiet=as_json) as advance:
        subject = Subject.of(open_cohort(Home(home).cohort, generation), progress=advance)
    found = []
    for finding in examine(subject):
        found.append(finding)
        if not as_json:
            for line in _shown(finding):
                typer.echo(line)
    value = facts(subject, found)
    remember(subject.directory, value)
    if page is not None:
        write_atomic(page, page_of(subject, found).encode())
    emit(value, as_json=as_json, lines=(f"{value['pass']} passed, {value['warn']} warnings, {value['fail']} failed",))
    if value["fail"]:
        raise typer.Exit(1)


def _shown(finding: "Finding") -> list[str]:
    word, colour = _LOOK[finding.verdict]
    lines = [f"{typer.style(f'{word:<5}', fg=colour)} {finding.check:<14} {finding.sentence}"]
    if finding.remedy:
        lines.append(f"{'':<21}fix: {finding.remedy}")
    if finding.look:
        named = ", ".join(" and ".join(map(str, group)) for group in finding.look[:5])
        lines.append(f"{'':<21}rows {named}{', …' if len(finding.look) > 5 else ''}")
    return lines


def withdraw(
    named: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    ids: Annotated[Path | None, typer.Option(help="File with the ids; without it they are read from stdin.")] = None,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Keep patients out of training, evaluation and later ingests, from the next order on.

    One Patient ID a line; where the files name an Issuer of Patient ID, that behind it, after a tab.

    Exit codes: 0 withdrawn, also where it was before · 1 failed · 2 misused.

    Example: fedrad-site withdraw --ids withdrawn.txt --home north
    """
    from fedrad_client.intake.verb import withdraw_patients
    from fedrad_common.errors import MisuseError

    if named:  # and not repeated here: it is a patient's
        raise MisuseError("withdraw: an id on the command line stays in the shell's history", hint="give ids on stdin, or with --ids FILE")
    if ids is not None and not ids.is_file():
        raise MisuseError(f"--ids: {ids.name}: no such file", hint="a text file with one Patient ID a line")
    if ids is None and sys.stdin.isatty():
        typer.echo("one Patient ID a line; end with Ctrl-D", err=True)
    done = withdraw_patients(home, sys.stdin.buffer.read() if ids is None else ids.read_bytes())
    unknown = done.given - done.known
    lines = [
        f"withdrawn: {done.given} patients, {done.known} of them with images here, {done.already} of them before; {done.listed} in all",
        "  from now on  no order and no later ingest reads their images; a keyed tombstone of each is kept, to know them again",
        "  stays        what was spent, the declared size, and what was released: models that left are not unlearned",
        *_used(home, done.uses),
        "  images       those of the generations made so far lie there unread: ingest again, and delete older ones when no run needs them",
    ]
    if unknown:
        lines.append(f"  warning: {unknown} are in no generation: check how they are written, and whether their files name an issuer")
    facts = {
        "given": done.given, "known": done.known, "unknown": unknown, "already": done.already, "withdrawn": done.listed,
        "runs": None if done.uses is None else [use.facts() for use in done.uses],
    }  # fmt: skip
    emit(facts, as_json=as_json, lines=lines)


def _used(home: Path, uses: "tuple[Use, ...] | None") -> list[str]:
    """Runs that had used their images, one a line; what those cost stays spent."""
    from fedrad_client.site import Home

    if uses is None:
        return ["  warning: the runs that used their images cannot be listed: `fedrad-site ledger verify` says what is wrong"]
    if not uses:
        return ["  runs         none has used their images"]
    site, known = Home(home), {}
    for name in site.approvals:
        with contextlib.suppress(FedradError):
            known[name] = found[0].name if (found := site.approved(name)) else None
    lines = [f"  {'runs' if place == 0 else '':<11}  {use.line(known.get(use.protocol or ''))}" for place, use in enumerate(uses)]
    return [*lines, f"  {'':<11}  that use stays: what these runs spent is not given back, and their models keep what they learned"]
