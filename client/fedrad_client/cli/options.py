"""Options that several of `fedrad-site`'s commands share."""

from pathlib import Path
from typing import Annotated

import typer

HomeOption = Annotated[Path, typer.Option("--home", envvar="FEDRAD_SITE", help="The site's folder.", show_default=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
HERE = Path("site")
