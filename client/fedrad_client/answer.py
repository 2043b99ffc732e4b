"""The one order of operations of a site: verify → witness → evidence → policy → outbox → reserve → work → seal → audit → release.

The simulation and every deployment run this very function. Nothing leaves a site but what it returns: a sealed envelope with its
vector, or one code of a closed list (privacy.md, rules 9 and 10).
"""

import logging
import os
from collections.abc import Callable
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedrad_client import audit
from fedrad_client.evidence import check_evidence
from fedrad_client.policy import REASONS, check_order, refuse
from fedrad_client.privacy.ledger import covers
from fedrad_client.privacy.plan import Plan
from fedrad_client.site import Site
from fedrad_client.witness import seen_by_coordinator
from fedrad_client.work import Job, Work
from fedrad_common.canonical import canonical_json, sha256_hex
from fedrad_common.errors import BudgetError, DiskError, FedradError, FormatError, Refusal, RefusalCode, SyncError
from fedrad_common.packing import BYTES, Vector, holds, rounded, vector_hash
from fedrad_common.protocol import TrainingProtocol
from fedrad_common.records import Answer, Asked, Envelope, Order, Privacy, Signed, dtype_of, sign
from fedrad_common.weights import keeps

log = logging.getLogger(__name__)
Entropy = Callable[[int], bytes]


def answer(site: Site, asked: Asked, *, work: Work, entropy: Entropy = os.urandom) -> Answer:
    """Answer one order.

    Args:
        asked: the coordinator's order, the packed model that it names by its hash, and the evidence that came with it.
        work: what trains or evaluates; gets no key and no ledger.
        entropy: 32 fresh bytes a reservation. Only a simulation may pass anything but the operating system's.
    """
    order: Order | None = None
    try:
        order, model = verify(site, asked), asked.model
        check_witness(site, asked.evidence.answer)
        protocol, plan = approved(site, order)
        if order.dtype != protocol.rounds.dtype:
            refuse("other-model")
        manifest = check_evidence(site, order, asked)
        grant = site.grant(order.protocol)
        check_order(order, protocol, plan, site.config.policy, tainted=site.ledger.tainted, now=site.now(), grant=grant)
        if model.size != plan.n_parameters or not np.isfinite(model).all():
            refuse("malformed-model")  # before anything is spent: it could never be answered
        sealed = site.outbox.get(order.question)
        if sealed is not None:
            return resend(site, order, sealed)
        check_withdrawals(site)
        check_weights(site, protocol)
        fresh = entropy(32)
        sequence = reserve(site, order, protocol, plan, fresh=fresh)
        vector = run_work(site, order, protocol, plan, model=model, work=work, fresh=fresh)
        return release(site, order, seal(site, order, plan, vector, sequence=sequence, protocol=protocol, manifest=manifest), vector)
    except Refusal as refusal:
        return refused(site, order, code=refusal.code, reason=refusal.hint)
    except BudgetError:
        return refused(site, order, code="budget", reason="budget")
    except FormatError:
        return refused(site, order, code="version", reason="version")
    except SyncError:
        raise  # ends the process: what its ledger holds, only opening it anew can tell
    except DiskError:
        return refused(site, order, code="disk", reason="disk")
    except FedradError:
        return refused(site, order, code="internal", reason="work-failed")


def verify(site: Site, asked: Asked) -> Order:
    """Is it our coordinator's, for this model, from the newest epoch? Raises Refusal."""
    if site.coordinator is None:
        refuse("not-signed")
    try:
        order = asked.order.open(Order, site.coordinator, what="order")
    except FormatError:
        refuse("not-signed")
    if asked.model.shape != (order.length,) or vector_hash(asked.model, order.dtype) != order.model:
        refuse("other-model")
    if not holds(asked.model, order.dtype):  # else each site could be sent another one, and all would have this hash
        refuse("other-model")
    if order.epoch < site.epochs.get(order.run, 1):
        refuse("stale-epoch")
    return order


def check_witness(site: Site, witness: Signed | None) -> None:
    """Does somebody hold an answer that this ledger does not know? Then it is a restored or cloned one, and nothing leaves any more."""
    seen = seen_by_coordinator(site, witness)
    if seen is not None and not site.ledger.account.contradicted:
        site.ledger.contradict(run=seen.run, round=seen.round, sequence=seen.sequence, head=seen.head)
    if site.ledger.account.contradicted:
        refuse("contradicted")


def approved(site: Site, order: Order) -> tuple[TrainingProtocol, Plan]:
    if site.home.paused:
        refuse("paused")
    found = site.approved(order.protocol)
    if found is None:
        refuse("not-approved")
    return found


def check_withdrawals(site: Site) -> None:
    """Nobody who withdrew is worked on, even where their list was lost; before anything is spent."""
    from fedrad_client.cohort.withdrawal import check_tombstones

    try:
        check_tombstones(site.cohort, site.audit.entries)
    except FormatError:
        refuse("withdrawals-lost")


def check_weights(site: Site, protocol: TrainingProtocol) -> None:
    """What is not trained must be here, and be the file that was approved, before anything is spent. The work looks again by itself."""
    model = protocol.model
    if model.trains != "all" and model.initial.kind == "public" and not keeps(site.home.path, model.initial):
        refuse("weights-lost")


def reserve(site: Site, order: Order, protocol: TrainingProtocol, plan: Plan, *, fresh: bytes) -> int:
    """Charge before work: a crash may cost budget, it may never leak an unpaid update. Returns the sequence number."""
    for entry in site.audit.entries:
        body = entry.body
        if entry.type == "release" and (body["run"], body["round"], body["kind"]) == (order.run, order.round, order.kind):
            refuse("answered")
    begun = site.ledger.run(order.run)
    if begun is None:
        site.ledger.reserve_run(order.run, protocol=protocol, plan=plan, generation=fitting_generation(site, protocol))
    elif not covers(begun, protocol, plan):
        refuse("other-run")  # what was reserved pays for that protocol and plan alone
    # The ledger names the fresh bytes by their hash: known to nobody, and never the same for two reservations.
    commitment = sha256_hex(b"fedrad-reservation-1" + fresh)
    return site.ledger.reserve_answer(order, protocol=protocol, plan=plan, commitment=commitment)


def fitting_generation(site: Site, protocol: TrainingProtocol) -> int:
    """The newest cohort generation that fits: a run is pinned to the one that there was at its first order."""
    from fedrad_client.cohort.store import newest_fitting

    return newest_fitting(site.cohort, protocol)


def run_work(site: Site, order: Order, protocol: TrainingProtocol, plan: Plan, *, model: Vector, work: Work, fresh: bytes) -> Vector:
    generation = site.ledger.generation_of(order.run)
    assert generation is not None
    job = Job(
        protocol=protocol,
        kind=order.kind,
        round=order.round,
        plan=plan,
        secret=stream_key(fresh, order, generation),
        cohort=site.cohort,
        generation=generation,
        resources=site.config.resources,
        home=site.home.path,
    )
    vector = np.ascontiguousarray(work(job, model), dtype="<f4")
    if order.kind == "train":
        vector = rounded(vector, protocol.rounds.dtype)  # after the noise: its privacy stays what it is
    if not np.isfinite(vector).all():
        refuse("work-failed")
    return vector


def stream_key(fresh: bytes, order: Order, generation: int) -> bytes:
    """The 32-byte key of one reservation's randomness: a cloned machine sends the same bytes or independent noise (rule 9)."""
    context = [order.run, order.round, order.kind, order.protocol, order.model, generation]
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fedrad-stream-1" + canonical_json(context)).derive(fresh)


def seal(
    site: Site, order: Order, plan: Plan, vector: Vector, *, sequence: int, protocol: TrainingProtocol, manifest: str
) -> Signed:  # fmt: skip
    dtype = dtype_of(order.kind, protocol)
    envelope = Envelope(
        site=site.name,
        run=order.run,
        epoch=order.epoch,
        round=order.round,
        kind=order.kind,
        sequence=sequence,
        protocol=order.protocol,
        model=order.model,
        manifest=manifest,
        dtype=dtype,
        length=vector.size,
        payload=vector_hash(vector, dtype),
        declared_size=plan.declared_size,
        privacy=spent(order, plan, protocol),
        ledger=site.ledger.chain.head,
        audit=site.audit.head,
    )
    return sign(envelope, site.key)


def spent(order: Order, plan: Plan, protocol: TrainingProtocol) -> Privacy:
    """What the envelope says of its own noise: constants of the plan, nothing of the data."""
    if order.kind == "evaluate":
        # A model that was trained here without bound taints what is computed from it, noise or not (privacy.md, rule 12).
        marked = plan.evaluation == "exact" or plan.noise_multiplier == 0
        return Privacy(noise_multiplier=plan.evaluation_noise, sampling_rate=1.0, steps=1, delta=plan.delta, marked=marked)
    return Privacy(
        noise_multiplier=plan.noise_multiplier,
        sampling_rate=plan.sampling_rate,
        steps=protocol.privacy.steps_per_round,
        delta=plan.delta,
        marked=plan.noise_multiplier == 0,
    )


def release(site: Site, order: Order, envelope: Signed, vector: Vector) -> Answer:
    """Seal into the outbox, then write the release intent; after that only these bytes ever answer this question."""
    site.outbox.put(order.question, envelope, vector)
    given = leave(site, order, Answer(envelope=envelope, vector=vector), event="release")
    drop_old(site, order)
    return given


def drop_old(site: Site, order: Order) -> None:
    """Of a run, keep the answers of this round and the one before: the evidence that came with the order shows that older ones are closed.

    An order that asks for one of them again goes back in time, and is refused: there is never a second answer.
    """
    for entry in site.audit.entries:
        body = entry.body
        if entry.type == "release" and body["run"] == order.run and body["round"] < order.round - 1:
            site.outbox.drop(body["question"])


def resend(site: Site, order: Order, sealed: Answer) -> Answer:
    """The same bytes again, for free. Sealed by a process that died before it could say so, they are released now."""
    known = any(entry.type == "release" and entry.body["question"] == order.question for entry in site.audit.entries)
    return leave(site, order, sealed, event="resend" if known else "release")


def leave(site: Site, order: Order, given: Answer, *, event: Literal["release", "resend"]) -> Answer:
    """Name every byte in the audit log, then let it go."""
    assert given.envelope is not None
    assert given.vector is not None
    envelope = given.envelope.peek(Envelope, what="envelope")
    audit.record(
        site.audit,
        event,
        run=order.run,
        epoch=order.epoch,
        round=order.round,
        kind=order.kind,
        question=order.question,
        envelope=given.envelope.digest,
        payload=envelope.payload,
        bytes=BYTES[envelope.dtype] * envelope.length,
        ledger=envelope.ledger,
        manifest=envelope.manifest,
    )
    site.epochs[order.run] = order.epoch
    return given


def refused(site: Site, order: Order | None, *, code: RefusalCode, reason: str) -> Answer:
    """Say no with a code. The reason stays in the audit log and the node's; a full disk must not turn a refusal into silence."""
    log.info("refused: %s", REASONS[reason][1])
    try:
        known: dict[str, str | int] = {} if order is None else {"run": order.run, "round": order.round, "question": order.question}
        audit.refusals.record(site.audit, code=code, reason=reason, **known)
    except SyncError:
        raise
    except FedradError:
        pass
    return Answer(refusal=code)
