"""A coordinator that shows two models, goes back in time or forgets a site is noticed by the next order, and gets no answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedrad_client.answer import answer
from fedrad_client.approval import approve
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import Site
from fedrad_common.identity import SigningKey
from fedrad_common.packing import vector_hash
from fedrad_common.records import Answer, Asked, Envelope, Launch, Order, RoundManifest, Sent, Signed, sign, witnesses
from fedrad_server.runs import Run

NAMES = ("ankara", "bergen", "cadiz")
MODEL = np.zeros(16, np.float32)


def work(job, model):
    return np.random.default_rng(list(job.secret)).normal(size=16).astype(np.float32)


@dataclass
class Federation:
    """Real sites and a real run; a test is the coordinator, and may lie."""

    sites: dict[str, Site]
    key: SigningKey
    run: Run
    answers: dict[str, Answer] = field(default_factory=dict)

    def asked(self, site: str) -> Asked:
        """What an honest coordinator sends next."""
        order, model = self.run.order("train")
        return Asked(sign(order, self.key), model, self.run.evidence([site], order)[site])

    def ask(self, site: str, asked: Asked | None = None) -> Answer:
        self.answers[site] = answer(self.sites[site], asked or self.asked(site), work=work)
        return self.answers[site]

    def close(self, *, without: tuple[str, ...] = ()) -> None:
        """Count what was answered, without one of the coordinator's own checks."""
        order, _ = self.run.order("train")
        self.run.begin(order.round)
        for site, given in self.answers.items():
            if given.envelope is not None and site not in without:
                self.run.accept(given, given.envelope.peek(Envelope, what="envelope"))
        self.run.close_round({})
        self.answers = {}

    def round(self) -> None:
        for name in self.sites:
            assert self.ask(name).envelope is not None, self.reason(name)
        self.close()

    def reason(self, site: str) -> str:
        said = self.sites[site].audit.entries[-1].body
        return str(said.get("reason", said.get("code", "")))

    def refuses(self, site: str, asked: Asked, reason: str) -> None:
        before = read_ledger(self.sites[site].home.path / "ledger.chain")[1]
        assert self.ask(site, asked) == Answer(refusal="policy")
        assert self.reason(site) == reason
        assert read_ledger(self.sites[site].home.path / "ledger.chain")[1] == before, "something was spent"

    def changed(self, asked: Asked, **fields: object) -> Asked:
        return Asked(asked.order, asked.model, asked.evidence.model_copy(update=fields))

    def forged(self, asked: Asked, forge: Callable[[RoundManifest], RoundManifest], *, index: int = -1) -> Asked:
        """One manifest replaced, those after it linked anew, all well signed."""
        links = list(asked.evidence.manifests)
        index %= len(links)
        for position in range(index, len(links)):
            manifest = links[position].peek(RoundManifest, what="manifest")
            linked = {"previous": links[position - 1].digest} if position > index else {}
            manifest = (forge(manifest) if position == index else manifest).model_copy(update=linked)
            links[position] = sign(manifest, self.key)
        return self.changed(asked, manifests=tuple(links))

    def with_model(self, asked: Asked, model: np.ndarray) -> Asked:
        """Another model, with an order and a last manifest that name it."""
        hashed = vector_hash(model)
        order = asked.order.peek(Order, what="order").model_copy(update={"model": hashed})
        sent = {"model": hashed, "released": hashed, "sent": Sent(train=hashed, evaluate=hashed)}
        shown = self.forged(asked, lambda manifest: manifest.model_copy(update=sent))
        return Asked(sign(order, self.key), model, shown.evidence)


@pytest.fixture
def federation(make_site, coordinator, protocol_bytes: bytes, tmp_path: Path) -> Iterator[Federation]:
    sites = {name: Site(make_site(name)) for name in NAMES}
    for site in sites.values():
        approve(site, protocol_bytes, declared_size=60)
    roster = {name: site.key.public.hex for name, site in sites.items()}
    with Run.create(tmp_path / "run", protocol_bytes, roster=roster, key=coordinator, initial=MODEL) as run:
        yield Federation(sites, coordinator, run)
    for site in sites.values():
        site.close()


def test_an_honest_run_is_answered_to_its_end_though_sites_come_and_go(federation: Federation) -> None:
    federation.round()
    for name in ("ankara", "bergen"):
        assert federation.ask(name).envelope is not None
    federation.close()
    federation.round()

    assert [sorted(manifest.peek(RoundManifest, what="").updates) for manifest in federation.run.shown.manifests[1:]] == [
        [*NAMES],
        ["ankara", "bergen"],
        [*NAMES],
    ]


def test_a_site_that_answered_in_vain_answers_again(federation: Federation) -> None:
    federation.round()
    for name in NAMES:
        federation.ask(name)
    federation.close(without=("cadiz",))

    assert federation.ask("cadiz").envelope is not None


def show_cadiz_another_model(federation: Federation) -> None:
    for name in ("ankara", "bergen"):
        federation.ask(name)
    assert federation.ask("cadiz", federation.with_model(federation.asked("cadiz"), MODEL + 1)).envelope is not None
    federation.close()


@pytest.mark.parametrize("site", ["ankara", "bergen"])
def test_two_models_are_noticed_by_those_who_see_the_others_answer(federation: Federation, site: str) -> None:
    show_cadiz_another_model(federation)

    federation.refuses(site, federation.asked(site), "two-models")


def test_two_models_are_noticed_by_the_one_who_was_shown_another(federation: Federation) -> None:
    show_cadiz_another_model(federation)

    federation.refuses("cadiz", federation.asked("cadiz"), "two-models")


def test_without_the_check_two_models_go_unnoticed(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: the attack works where nobody looks at the evidence."""
    show_cadiz_another_model(federation)
    monkeypatch.setattr("fedrad_client.answer.check_evidence", lambda site, order, asked: asked.evidence.manifests[-1].digest)

    assert [federation.ask(name).refusal for name in NAMES] == [None, None, None]


def test_an_older_round_is_noticed(federation: Federation) -> None:
    federation.round()
    first = federation.asked("ankara")
    federation.round()
    federation.ask("ankara")

    federation.refuses("ankara", first, "back-in-time")


def test_a_past_that_is_told_anew_is_noticed(federation: Federation) -> None:
    federation.round()
    federation.round()
    asked = federation.asked("bergen")

    federation.refuses("bergen", federation.forged(asked, lambda m: m.model_copy(update={"epoch": 7}), index=0), "two-models")


def without_cadiz(manifest: RoundManifest, **missing: str) -> RoundManifest:
    updates = {name: payload for name, payload in manifest.updates.items() if name != "cadiz"}
    return manifest.model_copy(update={"updates": updates, "missing": missing})


@pytest.mark.parametrize("missing", [{}, {"cadiz": "late"}], ids=["in-silence", "as-late-though-it-has-a-receipt"])
def test_a_site_that_is_forgotten_notices(federation: Federation, missing: dict[str, str]) -> None:
    federation.round()
    asked = federation.forged(federation.asked("cadiz"), lambda manifest: without_cadiz(manifest, **missing))

    federation.refuses("cadiz", asked, "forgotten")


def test_an_answer_that_was_neither_counted_nor_reported_is_noticed_without_a_receipt(federation: Federation) -> None:
    for name in NAMES:
        federation.ask(name)
    federation.close(without=("cadiz",))
    asked = federation.forged(federation.asked("cadiz"), without_cadiz)

    federation.refuses("cadiz", asked, "forgotten")


def test_an_answer_that_the_site_never_gave_is_noticed(federation: Federation) -> None:
    for name in ("ankara", "bergen"):
        federation.ask(name)
    federation.close()
    asked = federation.asked("cadiz")
    invented = federation.forged(asked, lambda m: m.model_copy(update={"updates": {**m.updates, "cadiz": "f" * 64}}))

    federation.refuses("cadiz", invented, "invented")


Lie = Callable[[Federation, Asked], Asked]
LIES: dict[str, Lie] = {
    "no manifest": lambda f, a: f.changed(a, manifests=()),
    "only the last manifest": lambda f, a: f.changed(a, manifests=a.evidence.manifests[-1:]),
    "a gap": lambda f, a: f.changed(a, manifests=(a.evidence.manifests[0], a.evidence.manifests[-1])),
    "not from what it was shown": lambda f, a: f.changed(a, manifests=a.evidence.manifests[1:]),
    "not to the end": lambda f, a: f.changed(a, manifests=a.evidence.manifests[:-1]),
    "no peers": lambda f, a: f.changed(a, peers=()),
    "one peer fewer": lambda f, a: f.changed(a, peers=a.evidence.peers[1:]),
    "the same peer twice": lambda f, a: f.changed(a, peers=a.evidence.peers[:1] * 2),
    "a manifest with another model": lambda f, a: f.forged(a, _updated(sent=Sent(train="e" * 64, evaluate="e" * 64))),
    "a manifest that sends what it does not name": lambda f, a: f.forged(a, _updated(model="e" * 64)),
    "a payload that no peer signed": lambda f, a: f.forged(a, _updated(updates={"ankara": "e" * 64, "bergen": "e" * 64})),
    "somebody else's manifest": lambda f, a: f.changed(a, manifests=(*a.evidence.manifests[:-1], _resigned(a.evidence.manifests[-1]))),
    "somebody else's launch": lambda f, a: f.changed(a, launch=_resigned(a.evidence.launch)),
    "another launch": lambda f, a: f.changed(a, launch=_launch(f, a, created="later")),
    "another run's launch": lambda f, a: f.changed(a, launch=_launch(f, a, run="run-0badcafe")),
}  # fmt: skip


def _updated(**fields: object) -> Callable[[RoundManifest], RoundManifest]:
    return lambda manifest: manifest.model_copy(update=fields)


def _resigned(signed: Signed) -> Signed:
    return Signed(body=signed.body, signature=SigningKey.generate().sign(signed.body.encode()).hex())


def _launch(federation: Federation, asked: Asked, **changes: object) -> Signed:
    return sign(asked.evidence.launch.peek(Launch, what="launch").model_copy(update=changes), federation.key)


@pytest.mark.parametrize("lie", LIES)
def test_evidence_that_is_not_whole_gets_no_answer(federation: Federation, lie: str) -> None:
    federation.round()
    for name in NAMES[:2]:
        federation.ask(name)
    federation.close()  # cadiz has to be shown three manifests now
    assert len(federation.asked("cadiz").evidence.manifests) == 3

    federation.refuses("cadiz", LIES[lie](federation, federation.asked("cadiz")), "evidence")
    assert federation.ask("cadiz").envelope is not None, "the honest order is answered all the same"


def test_a_run_without_this_sites_key_gets_no_answer(federation: Federation) -> None:
    asked = federation.asked("ankara")
    launch = asked.evidence.launch.peek(Launch, what="launch")
    other = sign(launch.model_copy(update={"roster": {**launch.roster, "ankara": SigningKey.generate().public.hex}}), federation.key)

    federation.refuses("ankara", federation.changed(asked, launch=other), "not-in-roster")


def test_however_sites_are_parted_somebody_is_shown_the_other_part() -> None:
    names = [f"s{number:02}" for number in range(40)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        part = set(rng.choice(names, size=rng.integers(1, 40), replace=False).tolist())
        meets = [name for name in names if any((other in part) != (name in part) for other in witnesses(name, names))]
        assert meets


def test_half_precision_is_shown_and_answered_to_the_bit(make_site, coordinator, protocol_bytes: bytes, tmp_path: Path) -> None:
    content = protocol_bytes.replace(b"quorum = 1", b'quorum = 1\ndtype = "float16"')
    site = Site(make_site("ankara"))
    approve(site, content, declared_size=60)
    model = np.linspace(-1, 1, 16, dtype=np.float32)
    with Run.create(tmp_path / "run", content, roster={"ankara": site.key.public.hex}, key=coordinator, initial=model) as run:
        federation = Federation({"ankara": site}, coordinator, run)
        federation.round()
        federation.round()
        order, shown = run.order("train")
        assert order.dtype == "float16"
        assert np.array_equal(shown, shown.astype(np.float16).astype(np.float32))
        assert not np.array_equal(shown, run.state.model), "the coordinator's own model keeps all its bits"
    site.close()
    updates = sorted((tmp_path / "run").glob("rounds/*/updates/*.f16"))
    assert [path.stat().st_size for path in updates] == [32, 32]


def test_models_that_round_alike_do_not_share_one_hash(federation: Federation) -> None:
    """An order that calls float32 numbers float16: each site could get its own, and all would sign the same hash."""
    asked = federation.asked("ankara")
    order = asked.order.peek(Order, what="order")
    halved = vector_hash(MODEL, "float16")
    hidden = np.full(16, 1e-9, np.float32)
    assert vector_hash(hidden, "float16") == halved, "nothing would be hidden"
    sent = Sent(train=halved, evaluate=halved)
    shown = federation.forged(asked, lambda manifest: manifest.model_copy(update={"sent": sent})).evidence
    as_half = sign(order.model_copy(update={"model": halved, "dtype": "float16"}), federation.key)

    federation.refuses("ankara", Asked(as_half, hidden, shown), "other-model")
    federation.refuses("ankara", Asked(as_half, MODEL, shown), "other-model")  # the protocol says float32


def test_evidence_of_a_peer_is_its_own_signature_not_the_coordinators_word(federation: Federation) -> None:
    federation.round()
    asked = federation.asked("ankara")
    forged = sign(asked.evidence.peers[0].peek(Envelope, what="peer"), federation.key)

    federation.refuses("ankara", federation.changed(asked, peers=(forged, *asked.evidence.peers[1:])), "evidence")
