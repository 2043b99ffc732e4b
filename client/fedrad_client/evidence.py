"""Does the coordinator show every site the same? What comes with an order is checked against what this site saw and sent before.

Nothing here is taken on the coordinator's word alone. Manifests are a chain, and this site noted the links that it built on; other sites'
answers name the link that they built on, under their own signatures; and what this site released is in its own audit log. So a coordinator
that shows two models, goes back in time or forgets a site is noticed at the next order, and gets no answer.
"""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from fedrad_client.policy import refuse
from fedrad_client.site import Site
from fedrad_common.chain import Entry
from fedrad_common.config import Section
from fedrad_common.errors import FormatError
from fedrad_common.identity import PublicKey
from fedrad_common.records import Asked, Envelope, Evidence, Launch, Order, Receipt, RoundManifest, Signed, built_on, witnesses

R = TypeVar("R", bound=Section)
_CACHED = 32 * 1024  # characters: of a run of 150 sites; what is larger is read each time, for the coordinator chooses how much comes


def check_evidence(site: Site, order: Order, asked: Asked) -> str:
    """The digest of the manifest that the order builds on, for the envelope to name.

    Raises:
        Refusal: the evidence is not whole, or contradicts itself, other sites' signatures or this site's own log.
    """
    assert site.coordinator is not None
    try:
        launch = _launch(site, order, asked.evidence.launch)
        history = _history(order, asked.evidence, site.coordinator)
        _check_peers(site, order, asked.evidence.peers, history=history, launch=launch)
        _check_receipt(site, asked.evidence.receipt, history, site.coordinator)
    except FormatError:
        refuse("evidence")
    _check_memory(site, order, history, asked.evidence.manifests)
    return asked.evidence.manifests[-1].digest


def _launch(site: Site, order: Order, signed: Signed) -> Launch:
    assert site.coordinator is not None
    launch = _opened(signed, Launch, site.coordinator)
    if (launch.run, launch.protocol) != (order.run, order.protocol):
        raise FormatError("launch: is of another run")
    if launch.roster.get(site.name) != site.key.public.hex:
        refuse("not-in-roster")
    return launch


def _history(order: Order, evidence: Evidence, coordinator: PublicKey) -> dict[int, RoundManifest]:
    """The manifests by round: consecutive, linked, of this run and launch, and the last one names the very model that came."""
    manifests = [_opened(signed, RoundManifest, coordinator) for signed in evidence.manifests]
    if not manifests:
        raise FormatError("manifests: there are none")
    first = manifests[0].round
    for index, manifest in enumerate(manifests):
        before = order.protocol if manifest.round == 0 else evidence.manifests[index - 1].digest if index else manifest.previous
        expected = (order.run, order.protocol, evidence.launch.digest, first + index, before)
        if (manifest.run, manifest.protocol, manifest.launch, manifest.round, manifest.previous) != expected:
            raise FormatError("manifests: do not follow each other")
    last = manifests[-1]
    if last.round != built_on(order) or last.of(order.kind) != order.model:
        raise FormatError("manifests: the last one is not what the order builds on")
    if order.dtype == "float32" and (last.model, last.released) != (last.sent.train, last.sent.evaluate):
        raise FormatError("manifests: the last one sends other models than it names")
    if last.round and len(manifests) < 2:
        raise FormatError("manifests: the one before the last is missing")
    return {manifest.round: manifest for manifest in manifests}


def _check_peers(site: Site, order: Order, peers: Sequence[Signed], *, history: dict[int, RoundManifest], launch: Launch) -> None:
    """Did the sites whose answers made the last model build on what this site was shown?"""
    last = history[built_on(order)]
    wanted = witnesses(site.name, last.updates)
    if not last.round:
        return
    before = history[last.round - 1]
    named = []
    for signed in peers:
        name = signed.peek(Envelope, what="peer").site
        envelope = _opened(signed, Envelope, PublicKey.from_hex(launch.roster.get(name, "")))
        if (envelope.run, envelope.round, envelope.kind, envelope.payload) != (order.run, last.round, "train", last.updates.get(name)):
            raise FormatError("peers: an answer is not the one that the manifest counts")
        if envelope.model != before.sent.train or envelope.manifest != last.previous:
            refuse("two-models")
        named.append(name)
    if named != wanted:
        raise FormatError("peers: not those that this site must be shown")


def _check_receipt(site: Site, signed: Signed | None, history: dict[int, RoundManifest], coordinator: PublicKey) -> None:
    if signed is None:
        return
    receipt = _opened(signed, Receipt, coordinator)
    manifest = history.get(receipt.round)
    if receipt.site == site.name and receipt.kind == "train" and manifest and manifest.updates.get(site.name) != receipt.payload:
        refuse("forgotten")


def _check_memory(site: Site, order: Order, history: dict[int, RoundManifest], signed: Sequence[Signed]) -> None:
    """Against this site's own log: what it built on, and what it released."""
    shown = dict(zip(history, signed, strict=True))
    released = [(entry, _known(entry)) for entry in site.audit.entries if entry.type == "release" and entry.body["run"] == order.run]
    newest = max((known for _, known in released), default=min(history))
    if newest > built_on(order):
        refuse("back-in-time")
    if newest < min(history):
        refuse("evidence")  # it must reach back to what this site was shown last
    mine = {int(entry.body["round"]) for entry, _ in released if entry.body["kind"] == "train"}
    if any(site.name in manifest.updates and number not in mine for number, manifest in history.items()):
        refuse("invented")
    for entry, known in released:
        if known < min(history):  # compared when it was new
            continue
        number, kind = int(entry.body["round"]), entry.body["kind"]
        if shown[known].digest != entry.body["manifest"]:
            refuse("two-models")
        manifest = history.get(number)
        if kind == "train" and manifest is not None:
            counted = manifest.updates.get(site.name)
            if counted not in (None, entry.body["payload"]) or (counted is None and site.name not in manifest.missing):
                refuse("forgotten")


def _known(release: Entry) -> int:
    """The round of the manifest that a released answer built on."""
    number = int(release.body["round"])
    return number - 1 if release.body["kind"] == "train" else number


def _opened(signed: Signed, record: type[R], key: PublicKey) -> R:
    """Raises FormatError when it is not signed with `key`, or no such record."""
    if len(signed.body) > _CACHED:
        return signed.open(record, key, what=record.__name__.lower())
    return cast("R", _verified(signed, record, key))


@functools.lru_cache(maxsize=512)  # a manifest comes with many orders, and in a simulation to many sites
def _verified(signed: Signed, record: type[Section], key: PublicKey) -> Any:
    return signed.open(record, key, what=record.__name__.lower())
