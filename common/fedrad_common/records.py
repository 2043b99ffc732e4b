"""What travels and what is kept: order, evidence, envelope, receipt, manifest. Frozen, canonical, signed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from fedrad_common.canonical import Sha256, canonical_json, sha256_hex
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import RefusalCode
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.packing import Dtype, Vector
from fedrad_common.protocol import TrainingProtocol

SiteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
RunId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{7,63}$")]
Kind = Literal["train", "evaluate"]
Count = Annotated[int, Field(ge=1, lt=2**63)]


class Order(Section):
    """What the coordinator asks of every site in one round. Signed by the coordinator; carries no parameter of privacy."""

    format: Literal["fedrad-order-1"] = "fedrad-order-1"
    run: RunId
    epoch: Count  # a (re)start of the run's server
    round: Count
    kind: Kind
    protocol: Sha256
    model: Sha256  # of the packed model's bytes as they travel, little-endian
    dtype: Dtype = "float32"  # of the packed model
    length: Count  # of the packed model, in parameters

    @property
    def question(self) -> str:
        """The hash of what is asked, whoever asks again after a restart: the order without its epoch."""
        return sha256_hex(canonical_json(self.model_dump(mode="json", exclude={"epoch"})))


class Privacy(Section):
    """What a site says of its own noise: constants of the run, computed from the declared size at approval."""

    noise_multiplier: Annotated[float, Field(ge=0)]  # sigma over clip norm; 0 is no privacy
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=0, lt=2**63)]  # of this round
    delta: Annotated[float, Field(ge=0, lt=1)]
    marked: bool = False  # an exact or unbounded release: no bound holds for whom it concerns


class Envelope(Section):
    """The signed metadata of one update: all that leaves a site besides the vector itself or a refusal code."""

    format: Literal["fedrad-envelope-2"] = "fedrad-envelope-2"
    site: SiteName
    run: RunId
    epoch: Count  # in which the answer was made; a resent answer keeps it
    round: Count
    kind: Kind
    sequence: Count  # of the site, over all runs
    protocol: Sha256
    model: Sha256  # the model that the answer is to
    manifest: Sha256  # the coordinator's signed manifest that came with the order: what this site was told of the run
    dtype: Dtype = "float32"
    length: Count
    payload: Sha256
    declared_size: Count  # N, typed by the hospital; never a count
    privacy: Privacy
    ledger: Sha256  # head of the site's ledger after the reservation
    audit: Sha256  # head of the site's audit log before the release: a checkpoint that the coordinator holds


class Receipt(Section):
    """The coordinator's word that an update was accepted; a witness of the site's ledger (privacy.md, rule 14)."""

    format: Literal["fedrad-receipt-1"] = "fedrad-receipt-1"
    site: SiteName
    run: RunId
    round: Count
    kind: Kind
    envelope: Sha256
    payload: Sha256
    sequence: Count
    ledger: Sha256


class Sent(Section):
    """A round's models as they travel: of other bytes than the stored ones where the protocol exchanges float16."""

    train: Sha256
    evaluate: Sha256


class RoundManifest(Section):
    """What a round did, signed by the coordinator, chained to the previous one. Round 0 is the initial model."""

    format: Literal["fedrad-manifest-2"] = "fedrad-manifest-2"
    run: RunId
    epoch: Count
    round: Annotated[int, Field(ge=0, lt=2**63)]
    protocol: Sha256
    launch: Sha256  # the run's birth certificate, and with it the roster
    previous: Sha256  # of the previous manifest's bytes; of the protocol for round 0
    model: Sha256  # after this round, in float32: what the next round trains from
    state: Sha256  # the aggregation's state after this round
    released: Sha256  # the model for evaluation: the moving average where the protocol asks for one, else `model`
    sent: Sent  # the same two as orders carry them
    updates: dict[SiteName, Sha256] = {}  # accepted, by payload hash
    missing: dict[SiteName, str] = {}  # of every other site: the refusal code, or "late", or why its answer was not accepted
    events: Sha256  # head of the run's event log: a checkpoint that every site holds

    def of(self, kind: Kind) -> str:
        """The model that an order of this kind builds on, as it travels."""
        return self.sent.train if kind == "train" else self.sent.evaluate


class Launch(Section):
    """A run's birth certificate: the coordinator signs its id once."""

    format: Literal["fedrad-launch-1"] = "fedrad-launch-1"
    run: RunId
    protocol: Sha256
    coordinator: Sha256  # the Ed25519 public key that signs this run, in hex
    roster: dict[SiteName, Sha256]  # each site's Ed25519 public key, in hex
    created: str  # ISO 8601, UTC
    versions: dict[str, str]
    seeded: bool = False  # a simulation with reproducible noise: its numbers hold, its privacy does not


class Refused(Section):
    """A site's only other answer."""

    format: Literal["fedrad-refused-1"] = "fedrad-refused-1"
    code: RefusalCode


R = TypeVar("R", bound=Section)


def built_on(order: "Order | Envelope") -> int:
    """The round whose manifest an order, and the answer to it, builds on: the one before, or the one that is evaluated."""
    return order.round - 1 if order.kind == "train" else order.round


class Signed(Section):
    """A record's exact bytes and the Ed25519 signature over them, both hex-free UTF-8 so that files stay readable."""

    body: str
    signature: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]

    def open(self, record: type[R], key: PublicKey, *, what: str) -> R:
        """Verify, then parse. Raises FormatError on a bad signature or body."""
        key.verify(self.body.encode(), bytes.fromhex(self.signature), what=what)
        return parse_json(self.body.encode(), record, name=what)

    def peek(self, record: type[R], *, what: str) -> R:
        """Parse without verifying: to learn whose key to verify with, or to print."""
        return parse_json(self.body.encode(), record, name=what)

    @property
    def digest(self) -> str:
        return sha256_hex(self.body.encode())


def dtype_of(kind: Kind, protocol: TrainingProtocol) -> Dtype:
    """Of an answer's vector: counts of a histogram always travel whole."""
    return protocol.rounds.dtype if kind == "train" else "float32"


class Evidence(Section):
    """What comes with an order besides the model: how the coordinator shows one site that it shows all sites the same."""

    launch: Signed
    manifests: tuple[Signed, ...]  # consecutive; from what the site's last accepted answer built on, to what this order builds on
    peers: tuple[Signed, ...] = ()  # accepted answers to the round of the last manifest, of the sites that `witnesses` names
    receipt: Signed | None = None  # for this site's last accepted answer of this run
    answer: Signed | None = None  # this site's last answer over all runs, as the coordinator holds it: a witness of its ledger


PEERS = 16  # that one site hears of


def witnesses(site: str, answered: Iterable[str]) -> list[str]:
    """Whose answers a site is shown: of those who answered, the next ones after itself, around in alphabetical order.

    However a coordinator parts the sites that it shows different models to, somewhere in the ring one part meets the other.
    """
    others = sorted(set(answered) - {site})
    after = [name for name in others if name > site]
    return [*after, *(name for name in others if name < site)][:PEERS]


@dataclass(frozen=True)
class Asked:
    """An order as it arrives at a site; nothing of it is verified yet."""

    order: Signed
    model: Vector
    evidence: Evidence


@dataclass(frozen=True)
class Answer:
    """What a site says to one order: an envelope with its vector, or a refusal code; never both, never more."""

    envelope: Signed | None = None
    vector: Vector | None = None
    refusal: RefusalCode | None = None


def sign(record: Section, key: SigningKey) -> Signed:
    body = canonical_json(record.model_dump(mode="json"))
    return Signed(body=body.decode(), signature=key.sign(body).hex())
