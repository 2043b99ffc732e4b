"""What each secret of the coordinator is for, and what to do when it is lost or stolen: one table, printed by `init` and in the README."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Secret:
    file: str
    purpose: str
    lost: str
    stolen: str


SECRETS = (
    Secret(
        "keys/coordinator.key",
        "signs invitations, orders, receipts and manifests",
        "nothing can be signed any more: make a new home with init, and every site enrols anew; finished runs stay verifiable",
        "whoever has it can give orders, within each site's policy and ceiling: tell every site to pause, then as when lost",
    ),
    Secret(
        "keys/authority.key",
        "signs the server's certificate (with the institution's certificate there is none)",
        "the server goes on until its certificate ends; before that: renew --new-authority, and a new invitation for every site",
        "whoever has it can pose as the server, not as a site, and cannot sign an order: renew --new-authority at once",
    ),
    Secret(
        "keys/server.key",
        "the server's own key",
        "renew; sites need nothing",
        "as the authority's key: there is no list of revoked certificates",
    ),
    Secret(
        "superlink/token, superlink/secret",
        "let the coordinator's own programs speak with its server, on this machine only",
        "stop, delete the file, start: a new one is made",
        "the same",
    ),
)  # fmt: skip
PLACES = ("keys/", "coordinator.toml", "roster.json", "audit.chain", "audit.chain.mark", "runs/")
BACK_UP = f"{', '.join(PLACES[:-1])} and {PLACES[-1]}, to where only you can read them"


def lines() -> list[str]:
    """For a person at a terminal."""
    found = []
    for secret in SECRETS:
        found += [f"  {secret.file}: {secret.purpose}", f"    lost    {secret.lost}", f"    stolen  {secret.stolen}"]
    return found


def markdown() -> str:
    """The same, as a table for the README."""
    rows = ["| secret | what it is for | lost | stolen |", "|---|---|---|---|"]
    rows += [f"| `{secret.file}` | {secret.purpose} | {secret.lost} | {secret.stolen} |" for secret in SECRETS]
    return "\n".join(rows)
