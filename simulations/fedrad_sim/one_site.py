"""A coordinator's side of one order to the only site of a run, without a run directory: for benchmarks and tests of a single site."""

from pathlib import Path

from fedrad_client.site import AUDIT, Home
from fedrad_common import chain
from fedrad_common.identity import SigningKey
from fedrad_common.packing import Vector
from fedrad_common.records import Asked, Evidence, Launch, Order, RoundManifest, Sent, Signed, built_on, sign


def asked(
    order: Order, model: Vector, key: SigningKey, home: Path, *, signer: SigningKey | None = None, answer: Signed | None = None
) -> Asked:
    """The order with honest evidence for the only site of its run; the same run always gets the same manifests.

    Args:
        key: the coordinator's.
        signer: who signs the order instead.
        answer: the site's last one, as the coordinator holds it.
    """
    return Asked(sign(order, signer or key), model, evidence(order, key, home, answer=answer))


def evidence(order: Order, key: SigningKey, home: Path, *, answer: Signed | None = None) -> Evidence:
    site = Home(home)
    name, public = site.config.site.name, site.envelope_key.public.hex
    launch = sign(
        Launch(run=order.run, protocol=order.protocol, coordinator=key.public.hex, roster={name: public}, created="", versions={}), key
    )
    counted = {
        entry.body["round"]: entry.body["payload"]
        for entry in chain.read(home / AUDIT, "audit")
        if entry.type == "release" and (entry.body["run"], entry.body["kind"]) == (order.run, "train")
    }
    manifests: list[Signed] = []
    for number in range(built_on(order) + 1):
        updates = {name: counted[number]} if number in counted else {}
        manifest = RoundManifest(
            run=order.run, epoch=1, round=number, protocol=order.protocol, launch=launch.digest,
            previous=manifests[-1].digest if manifests else order.protocol, model=order.model, released=order.model, state="0" * 64,
            sent=Sent(train=order.model, evaluate=order.model), updates=updates, missing={} if updates else {name: "late"}, events="0" * 64,
        )  # fmt: skip
        manifests.append(sign(manifest, key))
    return Evidence(launch=launch, manifests=tuple(manifests), answer=answer)
