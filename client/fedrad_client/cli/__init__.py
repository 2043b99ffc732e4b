"""`fedrad-site`: what a hospital's IT person types. Imports of torch, opacus and pydicom wait inside the commands that need them."""

import typer

from fedrad_client.cli import acquire, approval, audit, cohort, deid, doctor, intake, ledger, node, review, setup
from fedrad_common.cli import run_cli

app = typer.Typer(
    name="fedrad-site",
    help="A hospital's node: its images stay here, its privacy is counted here, nothing runs that it did not approve.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for verbs in (setup, acquire, intake, review, deid, approval, node):
    verbs.register(app)
app.add_typer(ledger.app, name="ledger")
app.command("privacy-statement")(ledger.privacy_statement)
cohort.register(app)
audit.register(app)
doctor.register(app)


def main() -> None:
    run_cli(app, "fedrad-site")
