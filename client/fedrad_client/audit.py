"""The site's audit log: every decision, and every byte that left, by hash. A closed list of events without free text."""

from typing import Any, Literal

from fedrad_common.chain import Chain, Entry

KIND = "audit"
# approve, withdraw-approval: a person accepted a protocol, or took that back
# refuse: an order was answered with a code · release: these bytes may leave from now on
# resend: the same bytes again · ingest: a new cohort generation · pause, resume: by a person
# recover: a lost ledger was replaced, under a new identity · clock: a person accepted the clock
# withdraw: so many patients left the cohort, and so many are out of it now
Event = Literal["approve", "withdraw-approval", "refuse", "release", "resend", "ingest", "pause", "resume", "recover", "clock", "withdraw"]


def record(chain: Chain, event: Event, **facts: str | int | float | bool | None) -> Entry:
    body: dict[str, Any] = dict(facts)
    return chain.append(event, body)
