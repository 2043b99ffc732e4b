"""What somebody outside counts who sees all that a site sends, beside what the site's ledger says."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np
from answering_site import Question  # type: ignore[import-not-found] # beside this one

from fedrad_client.privacy.account import epsilon_at
from fedrad_client.privacy.ledger import KIND, read_ledger
from fedrad_client.site import LEDGER, Home
from fedrad_common.accounting import GaussianEvent, rdp
from fedrad_common.chain import Entry, read
from fedrad_common.errors import FedradError
from fedrad_common.packing import Vector, vector_hash
from fedrad_common.records import Envelope, Signed


def encode(envelope: Signed, vector: Vector) -> bytes:
    """One answer, as the benchmarks send it through a socket."""
    return envelope.model_dump_json().encode() + b"\n" + vector.tobytes()


@dataclass
class Observer:
    """Distinct payloads are distinct events; the same bytes again are none."""

    home: Home  # whose ledger is compared
    seen: dict[Question, dict[str, Envelope]] = field(default_factory=lambda: defaultdict(dict))  # by payload

    def see(self, content: bytes) -> None:
        signed, payload = content.split(b"\n", 1)
        envelope = Signed.model_validate_json(signed).open(Envelope, self.home.envelope_key.public, what="envelope")
        self.seen[envelope.run, envelope.round, envelope.kind][vector_hash(np.frombuffer(payload, np.float32))] = envelope

    def below(self) -> bool:
        """Does the ledger say less than what left, as a whole or for any one round? One that does not open says nothing."""
        path = self.home.path / LEDGER
        try:
            (opening, account, _), paid = read_ledger(path), paid_answers(read(path, KIND))
        except FedradError:
            return True
        left = [envelope.privacy for payloads in self.seen.values() for envelope in payloads.values() if envelope.kind == "train"]
        divergence = sum(rdp(GaussianEvent(one.noise_multiplier, one.sampling_rate, one.steps), opening.order) for one in left)
        at = {"order": opening.order, "delta": opening.filter_delta}
        as_a_whole = epsilon_at(divergence, **at) > epsilon_at(account.training, **at) * (1 + 1e-9)  # summed in another order
        return as_a_whole or any(len(payloads) > paid[question] for question, payloads in self.seen.items())


def paid_answers(entries: list[Entry]) -> Counter[Question]:
    """How many answers to each question were paid: the first by its run, any other by itself."""
    runs = {entry.body["run"] for entry in entries if entry.type == "run"}
    paid: Counter[Question] = Counter()
    for body in (entry.body for entry in entries if entry.type == "answer"):
        question = body["run"], body["round"], body["kind"]
        if body["cost"] > 0 or body["validation_cost"] > 0 or (body["run"] in runs and not paid[question]):
            paid[question] += 1
    return paid
