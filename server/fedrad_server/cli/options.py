"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

HomeArgument = Annotated[Path, typer.Argument(metavar="HOME", help="The coordinator's folder.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as coordinator/runs/pneumonia.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The site's name in rosters and reports.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON for a program.")]
