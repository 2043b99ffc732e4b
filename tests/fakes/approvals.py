"""A person who said yes to more runs than the ceiling holds, where a test wants to see what the ceiling does."""

from fedrad_client.grants import Approval, write_approval
from fedrad_client.site import Site


def for_many_runs(site: Site, protocol: str, *, runs: int = 1000) -> None:
    """As if it had been approved for so many, since the ledger was opened."""
    write_approval(site.home.path / "approved" / protocol, Approval(runs=runs, since=0))
