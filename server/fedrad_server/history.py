"""A run as its records tell it, read-only and verified: what replay, report, status and evaluation go by."""

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrad_common import chain
from fedrad_common.canonical import sha256_hex
from fedrad_common.chain import Entry
from fedrad_common.config import parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.identity import PublicKey
from fedrad_common.packing import Vector
from fedrad_common.protocol import TrainingProtocol, parse_stored
from fedrad_common.records import Envelope, Kind, Launch, Receipt, RoundManifest, Signed
from fedrad_server.aggregation import State, decode_state
from fedrad_server.layout import (
    EVENTS,
    FOLDERS,
    RECEIPTS,
    answers_folder,
    is_run,
    map_vector,
    read_signed,
    read_vector,
    read_whole,
    round_folder,
    vector_file,
)
from fedrad_server.retention import Deleted
from fedrad_server.robust import Update

_BACKUP = "restore it from a backup"


@dataclass(frozen=True)
class RunRecords:
    """Signatures of launch and manifests are verified; files are verified against them as they are read."""

    directory: Path
    protocol: TrainingProtocol
    launch: Launch
    manifests: tuple[RoundManifest, ...]  # index is the round; 0 is the initial model
    signed: tuple[Signed, ...]  # the launch, then each manifest, as they were signed
    events: tuple[Entry, ...]

    @property
    def head(self) -> str:
        """The last manifest's digest: what the next one names as `previous`."""
        return self.signed[-1].digest

    @property
    def coordinator(self) -> PublicKey:
        return PublicKey.from_hex(self.launch.coordinator)

    @property
    def round(self) -> int:
        """The last one that was closed."""
        return len(self.manifests) - 1

    @property
    def epoch(self) -> int:
        return sum(entry.type == "epoch" for entry in self.events)

    @property
    def finished(self) -> bool:
        return any(entry.type == "finished" for entry in self.events)

    @property
    def paused(self) -> str:
        """Why the run stands still since its last epoch; empty when it does not."""
        last = next((entry for entry in reversed(self.events) if entry.type in ("paused", "epoch")), None)
        return str(last.body["reason"]) if last is not None and last.type == "paused" else ""

    @functools.cached_property
    def deleted(self) -> Deleted:
        """What is gone of old rounds, as the events announced it."""
        last = next((entry for entry in reversed(self.events) if entry.type == "deleted"), None)
        return Deleted.from_event(last.body) if last else Deleted()

    def model(self, number: int) -> Vector:
        self._is_kept(number)
        return read_vector(round_folder(self.directory, number) / "model.f32", self.manifests[number].model)

    def released(self, number: int) -> Vector:
        """(n_parameters,) float32: the model for evaluation after round `number`."""
        self._is_kept(number)
        manifest = self.manifests[number]
        name = "model.f32" if manifest.released == manifest.model else "released.f32"
        return read_vector(round_folder(self.directory, number) / name, manifest.released)

    def state(self, number: int) -> State:
        self._is_kept(number)
        path = round_folder(self.directory, number) / "state.npz"
        content = read_whole(path)
        if sha256_hex(content) != self.manifests[number].state:
            raise FormatError(f"{path.parent.name}/state.npz: is damaged: not the bytes that were signed", hint=_BACKUP)
        return decode_state(content, self.model(number), what=f"{path.parent.name}/state.npz")

    def _is_kept(self, number: int) -> None:
        if number < self.deleted.before:
            raise MisuseError(
                f"round {number}: its model was deleted to bound the run's disk",
                hint=f"those of round {self.deleted.before} and later are kept",
            )

    def envelopes(self, number: int, kind: Kind) -> dict[str, Envelope]:
        """Accepted answers of one round in site order, each signature verified; for a closed round, exactly those of its manifest.

        Raises:
            FormatError: one is missing, changed, or not the one that the manifest names.
        """
        found = stored_envelopes(self.directory, number, kind, launch=self.launch)
        envelopes = {site: envelope for site, (_, envelope) in found.items()}
        if kind == "train" and number <= self.round:
            signed = self.manifests[number].updates
            wrong = sorted(
                site for site in signed.keys() | envelopes.keys() if site not in envelopes or envelopes[site].payload != signed.get(site)
            )
            if wrong:
                raise FormatError(f"round {number}: update of {wrong[0]}: is not the one in the signed manifest", hint=_BACKUP)
        return envelopes

    def update(self, envelope: Envelope) -> Vector:
        """The stored vector of one accepted answer: the difference, or the flattened histograms."""
        return read_update(self.directory, envelope)

    def histograms(self, number: int) -> dict[str, Vector]:
        """By site, (n_labels, 2, 32) float32: validation patients by label, class and score bin after round `number`."""
        shape = (len(self.protocol.task.labels), 2, self.protocol.evaluation.bins)
        return {site: self.update(envelope).reshape(shape) for site, envelope in self.envelopes(number, "evaluate").items()}

    def receipts(self, number: int) -> list[Receipt]:
        path = round_folder(self.directory, number) / RECEIPTS
        entries = [entry for entry in chain.read(path, "receipts") if entry.type == "receipt"] if number else []
        return [Signed.model_validate(entry.body).open(Receipt, self.coordinator, what="receipt") for entry in entries]


def read_run(directory: Path, *, coordinator: PublicKey | None = None, files: bool = True) -> RunRecords:
    """Read and verify a run's records; nothing is locked or changed, so a running one may be read too.

    Args:
        coordinator: whose run it must be; without it the key that the launch names is believed.
        files: verify every model, state and stored answer too; else only when they are read.

    Raises:
        MisuseError: not a run's directory, or another coordinator's.
        FormatError: a record or a file is not what was signed.
    """
    if not is_run(directory):
        raise MisuseError(f"{directory.name}: is no run", hint="name a folder that holds launch.json, such as HOME/runs/NAME")
    signed = read_signed(directory / "launch.json")
    launch = signed.peek(Launch, what="launch.json")
    if coordinator is not None and launch.coordinator != coordinator.hex:
        raise MisuseError(f"{directory.name}: was launched by another coordinator", hint="use the key that launched it")
    signed.open(Launch, PublicKey.from_hex(launch.coordinator), what="launch.json")
    protocol = parse_stored(read_whole(directory / "protocol.toml"))
    if protocol.hash != launch.protocol or sha256_hex(read_whole(directory / "protocol.json")) != launch.protocol:
        raise FormatError("protocol.toml: is not the protocol that was launched", hint=_BACKUP)
    manifests, links = _read_manifests(directory, launch, signed.digest)
    records = RunRecords(directory, protocol, launch, manifests, (signed, *links), tuple(chain.read(directory / EVENTS, "events")))
    if files:
        _verify_files(records)
    return records


def stored_envelopes(run: Path, number: int, kind: Kind, *, launch: Launch) -> dict[str, tuple[Signed, Envelope]]:
    """What was accepted in one round, closed or open, in site order."""
    found = {}
    for path in sorted(answers_folder(run, number, kind).glob("[!.]*.json"), key=lambda path: path.stem):
        site, signed = path.stem, read_signed(path)
        if site not in launch.roster:
            raise FormatError(f"round {number}: {path.name}: is no site of this run", hint="it was not put there by fedrad: remove it")
        what = f"round {number}: update of {site}"
        envelope = signed.open(Envelope, PublicKey.from_hex(launch.roster[site]), what=what)
        if (envelope.site, envelope.run, envelope.round, envelope.kind) != (site, launch.run, number, kind):
            raise FormatError(f"{what}: answers another order", hint=_BACKUP)
        found[site] = (signed, envelope)
    return found


def last_answers(runs: Path, *, besides: Path, roster: Mapping[str, str]) -> dict[str, Signed]:
    """Each site's newest answer in the other runs of a coordinator: sequence numbers go over all runs of a site.

    A courtesy to the sites: a run that cannot be read is passed over, its own `status` says what is wrong with it.
    """
    newest: dict[str, tuple[int, Signed]] = {}
    for path in sorted(runs.glob("[!.]*/launch.json")):
        if path.parent == besides:
            continue
        try:
            found = _newest_answers(path.parent, read_signed(path).peek(Launch, what="launch.json"))
        except FormatError:
            continue
        for signed, envelope, key in found:
            if roster.get(envelope.site) == key and envelope.sequence > newest.get(envelope.site, (0, signed))[0]:
                newest[envelope.site] = (envelope.sequence, signed)
    return {site: signed for site, (_, signed) in newest.items()}


def _newest_answers(run: Path, launch: Launch) -> list[tuple[Signed, Envelope, str]]:
    """Of each site that answered, those of its last round, with the key they are signed by; from the newest round back."""
    found: dict[str, list[tuple[Signed, Envelope, str]]] = {}
    for number in sorted((int(folder.name) for folder in (run / "rounds").glob("[0-9]*")), reverse=True):
        stored = [answer for kind in FOLDERS for answer in stored_envelopes(run, number, kind, launch=launch).values()]
        for site in {envelope.site for _, envelope in stored} - found.keys():
            found[site] = [(signed, envelope, launch.roster[site]) for signed, envelope in stored if envelope.site == site]
        if len(found) == len(launch.roster):
            break
    return [answer for answers in found.values() for answer in answers]


def read_update(run: Path, envelope: Envelope) -> Vector:
    """Raises FormatError when the stored vector is missing or not the one that its site signed."""
    path = vector_file(answers_folder(run, envelope.round, envelope.kind), envelope)
    return read_vector(path, envelope.payload, length=envelope.length, dtype=envelope.dtype)


def weighted_updates(run: Path, envelopes: Mapping[str, Envelope]) -> Iterator[tuple[Update, float]]:
    """(difference, weight) in site order, each verified against its envelope, and mapped: all of them may be held, none is in memory."""
    for _, envelope in sorted(envelopes.items()):
        path = vector_file(answers_folder(run, envelope.round, envelope.kind), envelope)
        yield map_vector(path, envelope.payload, length=envelope.length, dtype=envelope.dtype), float(envelope.declared_size)


def _read_manifests(directory: Path, launch: Launch, birth: str) -> tuple[tuple[RoundManifest, ...], list[Signed]]:
    manifests, links = list[RoundManifest](), list[Signed]()
    previous, key = launch.protocol, PublicKey.from_hex(launch.coordinator)
    # Before the first one is read: a round that its coordinator closes meanwhile leaves no gap.
    known = max((int(path.parent.name) for path in (directory / "rounds").glob("[0-9]*/manifest.json")), default=0)
    while (path := round_folder(directory, len(manifests)) / "manifest.json").is_file():
        what = f"round {len(manifests)}: manifest.json"
        signed = parse_json(path.read_bytes(), Signed, name=what)
        manifest = signed.open(RoundManifest, key, what=what)
        found = manifest.run, manifest.round, manifest.protocol, manifest.launch, manifest.previous
        if found != (launch.run, len(manifests), launch.protocol, birth, previous):
            raise FormatError(f"{what}: does not follow the manifest before it", hint="restore the whole run from one backup")
        manifests.append(manifest)
        links.append(signed)
        previous = signed.digest
    if len(manifests) <= known:
        raise FormatError(f"round {len(manifests)}: manifest.json: is missing", hint="restore the whole run from one backup")
    return tuple(manifests), links


def _verify_files(records: RunRecords) -> None:
    for number in range(records.round + 1):
        if number >= records.deleted.before:
            records.state(number)
            records.released(number)
        for kind in FOLDERS:
            envelopes = records.envelopes(number, kind)
            for receipt in records.receipts(number):
                if receipt.kind == kind and (receipt.site not in envelopes or envelopes[receipt.site].payload != receipt.payload):
                    raise FormatError(f"round {number}: {receipt.site}: an answer is not the one that its receipt names", hint=_BACKUP)
            for envelope in envelopes.values():
                if kind == "evaluate" or number > records.deleted.through:
                    records.update(envelope)


def finite_initial(model: Vector) -> Vector:
    """Raises MisuseError when the initial model is not one flat, finite float32 vector."""
    if model.dtype != np.float32 or model.ndim != 1 or not model.size or not math.isfinite(float(np.abs(model).max())):
        raise MisuseError("initial model: not a flat vector of finite float32 numbers", hint="pack it with fedrad_common.packing.pack")
    return model
