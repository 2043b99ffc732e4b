"""What it costs somebody who is a patient at more than one site: each ledger holds its own ceiling, and nobody sees both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedrad_common.accounting.events import GaussianEvent, check_delta
from fedrad_common.accounting.prv import epsilon_prv
from fedrad_common.errors import MisuseError


@dataclass(frozen=True)
class SiteAccount:
    """One site's ceiling and what its ledger has charged so far."""

    epsilon: float  # the ledger's ceiling
    delta: float  # the ledger's constant
    events: tuple[GaussianEvent, ...]
    numeric_delta: float = 0.0  # the part of delta that is set aside for the noise's arithmetic


@dataclass(frozen=True)
class Together:
    """What somebody known at all the sites bears at most, at the sum of their deltas."""

    ceiling: float  # epsilon that holds whatever happens: the sum of the sites' ceilings
    planned: float  # epsilon of all charged events, as if they had been fixed in advance (PRV, upper)
    delta: float


def at_several_sites(accounts: Sequence[SiteAccount]) -> Together:
    """Both bounds for somebody who is a patient at each of these sites.

    (epsilon, delta) guarantees add up, also when the sites' releases interleave and each is chosen after all earlier ones (Vadhan and
    Wang 2021, concurrent composition); that is the promise. The union of the events is what it comes to if all had been planned.

    Raises:
        MisuseError: no site, a ceiling that is not above 0, or deltas that add up to 1 or more.
    """
    delta = math.fsum(account.delta for account in accounts)
    for account in accounts:
        check_delta(account.delta)
        if not account.epsilon > 0:
            raise MisuseError(f"accounting: a site's ceiling of epsilon {account.epsilon} is not above 0")
    check_delta(delta)
    left = math.fsum(account.delta - account.numeric_delta for account in accounts)
    events = [event for account in accounts for event in account.events]
    return Together(ceiling=math.fsum(account.epsilon for account in accounts), planned=epsilon_prv(events, left), delta=delta)
