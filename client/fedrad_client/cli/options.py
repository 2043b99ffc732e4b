"""Options that several of `fedrad-site`'s commands share."""

from pathlib import Path
from typing import Annotated

import typer

from fedrad_common.files import check_account


def _own(home: Path) -> Path:
    """Raises MisuseError: the site is another account's, and what this one wrote, were it root, the node could not open."""
    if (home / "site.toml").is_file():
        check_account(home)
    return home


HomeOption = Annotated[Path, typer.Option("--home", envvar="FEDRAD_SITE", help="The site's folder.", show_default=True, callback=_own)]
AnyHomeOption = Annotated[Path, typer.Option("--home", envvar="FEDRAD_SITE", help="The site's folder.", show_default=True)]  # only looks
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
HERE = Path("site")
