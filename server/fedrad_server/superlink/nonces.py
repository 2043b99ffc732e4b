"""Each signed request counts once: its nonce is kept for as long as its time would still pass."""

from collections import OrderedDict
from dataclasses import dataclass, field

MOST = 32_768  # of one site, in about two windows: some 130 requests a second


@dataclass
class Nonces:
    """Bounded: only what carries a site's signature comes here, and a site that sends more than `most` is refused until some are old."""

    window: float  # seconds
    most: int = MOST
    _seen: dict[str, OrderedDict[str, float]] = field(default_factory=dict)  # by site: nonce to the time when it can be forgotten

    def take(self, site: str, nonce: str, *, signed_at: float, now: float) -> bool:
        """Whether it is new. `signed_at` is within the window of `now`; both in seconds since 1970."""
        seen = self._seen.setdefault(site, OrderedDict())
        while seen and next(iter(seen.values())) < now:
            seen.popitem(last=False)
        if nonce in seen or len(seen) >= self.most:
            return False
        # By arrival, not by its own time: it goes no earlier than its time ends to pass, and the oldest is always in front.
        seen[nonce] = max(now, signed_at) + self.window
        return True

    def __len__(self) -> int:
        return sum(map(len, self._seen.values()))
