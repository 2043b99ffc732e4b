"""Somebody who is a patient at two hospitals: what both ledgers come to, from what `fedrad-site ledger --json` prints at each."""

import json
import math
from typing import Any

from fedrad_common.accounting import GaussianEvent, SiteAccount, at_several_sites
from fedrad_common.errors import FormatError, MisuseError


def read_facts(content: bytes, *, name: str) -> dict[str, Any]:
    """Raises FormatError: not what `fedrad-site ledger --json` prints."""
    try:
        value = json.loads(content)
        site_account(value)
    except (ValueError, KeyError, TypeError, MisuseError):
        raise FormatError(f"{name}: is no printed ledger", hint="ask the other site for `fedrad-site ledger --json`") from None
    return dict(value)


def site_account(facts: dict[str, Any]) -> SiteAccount:
    ceiling = facts["ceiling"]
    events = (GaussianEvent(run["noise_multiplier"], run["sampling_rate"], run["steps"] + run["steps_again"]) for run in facts["runs"])
    return SiteAccount(
        epsilon=ceiling["epsilon"] + ceiling["earlier_epsilon"],
        delta=ceiling["delta"] + ceiling["earlier_delta"],
        events=tuple(events),
        numeric_delta=ceiling["numeric_delta"],
    )


def together(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Facts of two ledgers to one bound; `planned` is None where there is none, or where a lost ledger's events are unknown."""
    if own["identity"] == other["identity"]:
        raise MisuseError("both ledgers are of the same site", hint="name the other hospital's")
    sums = at_several_sites([site_account(own), site_account(other)])
    known = all(facts["bound"] and not facts["ceiling"]["earlier_epsilon"] for facts in (own, other))
    planned = sums.planned if known and not math.isinf(sums.planned) else None
    return {"sites": [own["site"], other["site"]], "ceiling": sums.ceiling, "planned": planned, "delta": sums.delta}
