"""`fedrad-coordinator`: the coordinator's own verbs. Heavy libraries are imported by the verb that needs them, never here."""

from typing import NoReturn

import typer

from fedrad_common.cli import run_cli
from fedrad_server.cli import audit, records, runs, serving, setup, sites, watching, weights

app = typer.Typer(
    name="fedrad-coordinator",
    help="Launch and watch training runs across hospitals. It holds no patient data.",
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
for verbs in (setup, sites, serving, runs, watching, records, weights, audit):
    verbs.register(app)


def main() -> NoReturn:
    run_cli(app, "fedrad-coordinator")
