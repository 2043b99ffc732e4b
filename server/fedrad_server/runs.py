"""A run on the coordinator's disk: lock, epochs, accepted answers, checkpoints, manifests. A kill at any point loses nothing.

Order of writing: an answer is accepted once its SITE.json is there (SITE.f32 before it); a round is closed once its manifest.json is
there (model, released model and state before it); a round's folder and the run's own folder appear whole, by one rename.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from fedrad_common.chain import Chain, utc_now
from fedrad_common.errors import MisuseError
from fedrad_common.files import fsync_directory, lock_file, write_atomic, write_json
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.models import initial_vector
from fedrad_common.packing import Vector, rounded, vector_hash, wire_bytes
from fedrad_common.protocol import parse_protocol
from fedrad_common.records import Answer, Envelope, Evidence, Kind, Launch, Order, Receipt, RoundManifest, Signed, built_on, sign
from fedrad_server import aggregation, retention
from fedrad_server.acceptance import Question, store
from fedrad_server.aggregation import fold, released
from fedrad_server.audit import ACCEPT_CLOCK
from fedrad_server.checkpoint import write_checkpoint
from fedrad_server.history import RunRecords, finite_initial, last_answers, read_run, stored_envelopes, weighted_updates
from fedrad_server.layout import EVENTS, FOLDERS, RECEIPTS, answers_folder, round_folder, sweep, whole_folder, write_signed
from fedrad_server.showing import Shown
from fedrad_server.versions import versions

__all__ = ["Run", "RunRecords", "read_run"]


class Run:
    """An open run, locked for this process: one epoch."""

    def __init__(self, records: RunRecords, key: SigningKey, *, lock: int, events: Chain, keep_bytes: int) -> None:
        self.directory, self.protocol, self.launch = records.directory, records.protocol, records.launch
        self.key, self.epoch, self.keep_bytes, self.deleted = key, records.epoch + 1, keep_bytes, records.deleted
        self.round, self.state = records.round, records.state(records.round)
        self.shown = Shown(*records.signed)
        self.keys = {site: PublicKey.from_hex(key) for site, key in sorted(records.launch.roster.items())}
        self.sequences: dict[str, int] = {}
        self.declared: dict[str, int] = {}
        self.witnesses = last_answers(self.directory.parent, besides=self.directory, roster=records.launch.roster)
        self.events, self._lock = events, lock
        self._receipts: tuple[int, Chain] | None = None
        for number in range(1, self.round + 2):
            for kind in FOLDERS:
                for answer, envelope in stored_envelopes(self.directory, number, kind, launch=self.launch).values():
                    self._note(answer, envelope)

    @classmethod
    def create(
        cls,
        directory: Path,
        protocol_bytes: bytes,
        *,
        roster: Mapping[str, str],
        key: SigningKey,
        initial: Vector,
        seeded: bool = False,
        run: str | None = None,
    ) -> Self:
        """Launch a run as `make` does, and open its first epoch."""
        cls.make(directory, protocol_bytes, roster=roster, key=key, initial=initial, seeded=seeded, run=run)
        return cls.open(directory, key)

    @classmethod
    def make(
        cls,
        directory: Path,
        protocol_bytes: bytes,
        *,
        roster: Mapping[str, str],
        key: SigningKey,
        initial: Vector,
        seeded: bool = False,
        run: str | None = None,
        also: Callable[[Path, Launch], None] = lambda folder, launch: None,
    ) -> None:
        """Sign a run's id and its roster, and store the initial model as round 0; the folder appears whole or not at all.

        Args:
            protocol_bytes: the TOML document as approved; kept as it is.
            roster: each site's Ed25519 public key, in hex.
            initial: (n_parameters,) float32.
            run: the run's id, for a simulation that must come out the same again; by default a new one.
            also: what else has to be done before the folder appears, in it or elsewhere; what it raises leaves no folder.

        Raises:
            ConfigError: the protocol says something else than it must.
            MisuseError: `directory` is taken, the quorum exceeds the roster, or the initial model is not finite, not the named one or of
                another length than the network that goes on from it.
        """
        protocol, model = parse_protocol(protocol_bytes), finite_initial(initial)
        if protocol.model.initial.model not in (None, vector_hash(model)):
            raise MisuseError(
                "model.initial: the initial model is not the one that the protocol names",
                hint="launch it where that run was finished, or where the public file is",
            )
        if protocol.model.initial.kind == "run" and model.size != (length := initial_vector(protocol).size):
            raise MisuseError(
                f"model.initial: that run released {model.size} numbers, and this protocol's network has {length}",
                hint="name a run of this very network; a part that was trained goes on with the public weights that it began with",
            )
        if protocol.rounds.quorum > len(roster):
            raise MisuseError(
                f"rounds.quorum: {protocol.rounds.quorum} of {len(roster)} sites can never be reached", hint="admit more sites or lower it"
            )
        run = run or f"{re.sub('[^a-z0-9-]', '-', protocol.name)[:40]}-{secrets.token_hex(4)}"
        launch = Launch(
            run=run, protocol=protocol.hash, coordinator=key.public.hex, roster=dict(roster),
            created=utc_now().isoformat(timespec="seconds"), versions=versions(), seeded=seeded,
        )  # fmt: skip
        birth = sign(launch, key)
        with whole_folder(directory) as folder:
            write_atomic(folder / "protocol.toml", protocol_bytes)
            write_atomic(folder / "protocol.json", protocol.canonical())
            with Chain.create(folder / EVENTS, "events", {"run": run}) as events:
                head = events.head
            first = round_folder(folder, 0)
            first.mkdir(parents=True)
            hashes = write_checkpoint(first, protocol, aggregation.initial(protocol.aggregation, model))
            manifest = RoundManifest(
                run=run, epoch=1, round=0, protocol=protocol.hash, launch=birth.digest, previous=protocol.hash, events=head, **hashes
            )
            write_signed(first / "manifest.json", sign(manifest, key))
            fsync_directory(folder / "rounds")
            write_signed(folder / "launch.json", birth)
            also(folder, launch)

    @classmethod
    def open(cls, directory: Path, key: SigningKey, *, keep_bytes: int = retention.KEEP_BYTES) -> Self:
        """Lock the run, verify its last checkpoint and begin a new epoch.

        Args:
            keep_bytes: of updates and models; beyond it the oldest are deleted, and replay begins at a later checkpoint.

        Raises:
            MisuseError: not a run, or launched with another key.
            BusyError: another process holds it.
            FormatError: a record is not what was signed.
        """
        read_run(directory, coordinator=key.public, files=False)  # before the lock: nothing is made in a folder that is no run of ours
        lock = lock_file(directory / "lock", what=f"run {directory.name}")
        events: Chain | None = None
        try:
            sweep(directory)
            records = read_run(directory, coordinator=key.public, files=False)
            events = Chain.open(directory / EVENTS, "events", accept=ACCEPT_CLOCK)
            retention.remove(directory, records.deleted, since=retention.Deleted())  # what a killed process announced and did not do
            run = cls(records, key, lock=lock, events=events, keep_bytes=keep_bytes)
            run.record("epoch", {"epoch": run.epoch, "versions": versions()})
            run._delete_old()
        except BaseException:
            if events is not None:
                events.close()
            os.close(lock)
            raise
        return run

    def close(self) -> None:
        self._close_receipts()
        self.events.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, type: str, body: Mapping[str, Any]) -> None:  # noqa: A002 - the chain's own word
        self.events.append(type, body)

    def happened(self, type: str, number: int) -> bool:  # noqa: A002
        return any(entry.type == type and entry.body.get("round") == number for entry in self.events.entries)

    @property
    def head(self) -> str:
        return self.shown.manifests[-1].digest

    @property
    def finished(self) -> bool:
        return any(entry.type == "finished" for entry in self.events.entries)

    def order(self, kind: Kind) -> tuple[Order, Vector]:
        """What is asked next: train from the last model, or evaluate the last released one."""
        dtype = self.protocol.rounds.dtype
        model = rounded(self.state.model if kind == "train" else released(self.state), dtype)
        number = self.round + 1 if kind == "train" else self.round
        order = Order(
            run=self.launch.run, epoch=self.epoch, round=number, kind=kind, protocol=self.launch.protocol,
            model=vector_hash(model, dtype), dtype=dtype, length=model.size,
        )  # fmt: skip
        return order, model

    def question(self, order: Order, accepted: Mapping[str, str]) -> Question:
        """What answers to `order` are checked against; it looks at `accepted`, and so sees what is added there."""
        manifest = self.shown.manifests[built_on(order)].digest
        return Question(order, manifest, self.protocol, self.keys, self.sequences, self.declared, accepted)

    def evidence(self, sites: Iterable[str], order: Order) -> dict[str, Evidence]:
        """For each of these sites: that it is shown what all are shown."""
        number = built_on(order)
        answers = stored_envelopes(self.directory, number, "train", launch=self.launch) if number else {}
        peers = {site: signed for site, (signed, _) in answers.items()}
        return {site: self.shown.to(site, number, peers=peers, answer=self.witnesses.get(site)) for site in sites}

    def accepted_digests(self, number: int, kind: Kind) -> dict[str, str]:
        stored = stored_envelopes(self.directory, number, kind, launch=self.launch)
        return {site: signed.digest for site, (signed, _) in stored.items()}

    def begin(self, number: int) -> None:
        """Make the round's folder, if it is not there yet; give a receipt for what was accepted just before a kill."""
        folder = round_folder(self.directory, number)
        if not folder.exists():
            with whole_folder(folder) as beside:
                for name in FOLDERS.values():
                    (beside / name).mkdir()
                Chain.create(beside / RECEIPTS, "receipts", {"run": self.launch.run, "round": number}).close()
        if self._receipts is None or self._receipts[0] != number:
            self._close_receipts()
            self._receipts = (number, Chain.open(folder / RECEIPTS, "receipts", accept=ACCEPT_CLOCK))
        given = {entry.body["body"] for entry in self._chain.entries if entry.type == "receipt"}
        for kind in FOLDERS:
            for answer, envelope in stored_envelopes(self.directory, number, kind, launch=self.launch).values():
                receipt = sign(_receipt(answer, envelope), self.key)
                if receipt.body not in given:
                    self._chain.append("receipt", receipt.model_dump(mode="json"))

    def accept(self, answer: Answer, envelope: Envelope) -> Receipt:
        """Store a checked answer and give the receipt; both are on the disk when this returns."""
        assert answer.envelope is not None
        store(answers_folder(self.directory, envelope.round, envelope.kind), answer, envelope)
        self._note(answer.envelope, envelope)
        receipt = _receipt(answer.envelope, envelope)
        self._chain.append("receipt", self.shown.receipts[envelope.site].model_dump(mode="json"))
        return receipt

    def accepted(self, number: int, kind: Kind) -> dict[str, Envelope]:
        return {site: envelope for site, (_, envelope) in stored_envelopes(self.directory, number, kind, launch=self.launch).items()}

    def close_round(self, missing: Mapping[str, str]) -> RoundManifest:
        """Fold what was accepted, write the checkpoint, sign the manifest; `missing` says why the others are not in it."""
        number = self.round + 1
        envelopes = self.accepted(number, "train")
        state = fold(self.protocol.aggregation, self.state, weighted_updates(self.directory, envelopes))
        folder = round_folder(self.directory, number)
        manifest = RoundManifest(
            run=self.launch.run, epoch=self.epoch, round=number, protocol=self.launch.protocol, launch=self.shown.launch.digest,
            previous=self.head, updates={site: envelope.payload for site, envelope in envelopes.items()},
            missing={site: missing.get(site, "late") for site in self.keys if site not in envelopes}, events=self.events.head,
            **write_checkpoint(folder, self.protocol, state),
        )  # fmt: skip
        signed = sign(manifest, self.key)
        write_signed(folder / "manifest.json", signed)
        self.state, self.round = state, number
        self.shown.manifests.append(signed)
        self._delete_old()
        return manifest

    def finish(self) -> None:
        """Put the released model where people look for it."""
        result = self.directory / "result"
        result.mkdir(exist_ok=True)
        model = released(self.state)
        write_atomic(result / "model.f32", wire_bytes(model))
        write_json(
            result / "result.json",
            {
                "format": "fedrad-result-1", "run": self.launch.run, "protocol": self.launch.protocol, "rounds": self.round,
                "model": vector_hash(model), "length": model.size, "manifest": self.head, "seeded": self.launch.seeded,
            },
        )  # fmt: skip
        self.record("finished", {"round": self.round, "model": vector_hash(model)})

    @property
    def _chain(self) -> Chain:
        assert self._receipts is not None, "begin comes first"
        return self._receipts[1]

    def _close_receipts(self) -> None:
        if self._receipts is not None:
            self._receipts[1].close()
            self._receipts = None

    def _note(self, answer: Signed, envelope: Envelope) -> None:
        self.sequences[envelope.site] = max(self.sequences.get(envelope.site, 0), envelope.sequence)
        self.shown.accepted(envelope, sign(_receipt(answer, envelope), self.key))
        self.declared.setdefault(envelope.site, envelope.declared_size)
        held = self.witnesses.get(envelope.site)
        if held is None or held.peek(Envelope, what="envelope").sequence < envelope.sequence:
            self.witnesses[envelope.site] = answer

    def _delete_old(self) -> None:
        """The event first: a file that is gone was either announced, or lost."""
        deleted, since = retention.plan(self.directory, self.round, self.deleted, keep_bytes=self.keep_bytes), self.deleted
        if deleted != since:
            self.record("deleted", deleted.event())
            self.deleted = deleted
            retention.remove(self.directory, deleted, since=since)


def _receipt(answer: Signed, envelope: Envelope) -> Receipt:
    return Receipt(
        site=envelope.site, run=envelope.run, round=envelope.round, kind=envelope.kind, envelope=answer.digest,
        payload=envelope.payload, sequence=envelope.sequence, ledger=envelope.ledger,
    )  # fmt: skip
