"""`fedrad-site review`: text in pictures, and what becomes of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrad_client.cli.options import HERE, HomeOption, JsonOption
from fedrad_common.cli import emit
from fedrad_common.errors import MisuseError

if TYPE_CHECKING:
    from fedrad_client.intake.burnin.boxes import Box
    from fedrad_client.intake.burnin.rules import Decision


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command()(review)


def review(
    ids: Annotated[list[str] | None, typer.Argument(help="Of the pictures that are decided about, as listed.", show_default=False)] = None,
    release: Annotated[bool, typer.Option("--release", help="They name nobody: take them in as they are.")] = False,
    mask: Annotated[bool, typer.Option("--mask", help="Blank what was found, or each --box, and take them in.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Never take them in.")] = False,
    box: Annotated[list[str] | None, typer.Option(metavar="TOP,LEFT,BOTTOM,RIGHT", help="Blank this; may be repeated.")] = None,
    like: Annotated[bool, typer.Option("--like", help="Also all that wait from the same device, with text at the same place.")] = False,
    rule: Annotated[bool, typer.Option("--rule", help="From now on for all that come from the same device, of the same size.")] = False,
    show: Annotated[str | None, typer.Option(metavar="ID", help="Print where the picture of one lies, for a viewer.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with all pictures that wait.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page's file.")] = False,
    home: HomeOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """List the pictures that were held back because of text in them, look at them, and decide. A verdict counts with the next ingest.

    Exit codes: 0 done; also where nothing waits · 1 failed · 2 misused, or no such picture.

    Example: fedrad-site review 3fa94c01 --mask --like --rule --home north
    """
    from fedrad_client.intake.burnin import review as verbs
    from fedrad_client.site import Home

    site = Home(home)
    _ = site.config  # no site here is said first
    said: dict[Decision, bool] = {"release": release, "mask": mask, "reject": reject}
    verdicts = [verdict for verdict, given in said.items() if given]
    if len(verdicts) > 1 or bool(verdicts) != bool(ids):
        raise MisuseError("review: ids and one of --release, --mask, --reject belong together", hint="`fedrad-site review` lists the ids")
    if not verdicts and (box or like or rule):
        raise MisuseError("review: --box, --like and --rule belong to a verdict", hint="say --mask or --release as well")
    if verdicts:
        done = verbs.decide(site, ids or (), verdicts[0], boxes=[_box(text) for text in box or ()], like=like, rule=rule)
        emit(vars(done), as_json=as_json, lines=done.lines())
    elif show is not None:
        path = verbs.shown(site, show)
        emit({"picture": str(path)}, as_json=as_json, lines=[str(path)])
    else:
        _list(site.path, page, force=force, as_json=as_json)


def _list(home: Path, page: Path | None, *, force: bool, as_json: bool) -> None:
    from fedrad_client.intake.burnin import page as pages
    from fedrad_client.intake.burnin import review as verbs
    from fedrad_client.site import Home
    from fedrad_common.files import check_target, write_atomic

    found = verbs.listing(Home(home))
    if page is not None:
        check_target(page, option="--page", force=force)
        write_atomic(page, pages.page(home).encode())
    emit(found.facts(), as_json=as_json, lines=[*found.lines(), *([f"wrote {page}"] if page else [])])


def _box(text: str) -> "Box":
    from fedrad_client.intake.burnin.boxes import Box

    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise MisuseError("--box: is not TOP,LEFT,BOTTOM,RIGHT", hint="four whole numbers, in pixels of the picture") from None
    return Box(top, left, bottom, right)
