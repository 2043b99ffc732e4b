"""What must be true of a run that was disturbed, and of a site's ledger, looked at from outside. Each trouble is one line."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedrad_client.privacy.account import epsilon_at
from fedrad_client.privacy.ledger import KIND, read_ledger
from fedrad_client.site import LEDGER, Home
from fedrad_common import chain
from fedrad_common.accounting import GaussianEvent, rdp
from fedrad_common.chain import Entry
from fedrad_common.errors import FedradError
from fedrad_common.identity import PublicKey
from fedrad_common.records import Envelope, Kind, Launch
from fedrad_server.history import RunRecords, read_run, stored_envelopes
from fedrad_server.layout import FOLDERS, read_signed
from fedrad_server.replay import replay

Question = tuple[str, int, Kind]  # run, round


def run_troubles(run: Path, *, quorum: int) -> Iterator[str]:
    """Finished; its model is what `replay` folds; and of each round, one receipt for each update that the manifest counts, and no other."""
    try:
        records = read_run(run)  # verifies every signature, and every file that is still there
    except FedradError as error:
        yield f"{run.name}: {error}"
        return
    if not records.finished or records.round != records.protocol.privacy.rounds:
        yield f"{run.name}: not finished, after round {records.round}"
    found = replay(run)
    if not found.equal:
        yield f"{run.name}: differs from its replay in round {found.first_difference}: {found.reason}"
    if records.finished and not np.array_equal(np.fromfile(run / "result" / "model.f32", "<f4"), records.released(records.round)):
        yield f"{run.name}: the result is not the last round's model"
    for number in range(1, records.round + 1):
        yield from _round_troubles(records, number, quorum)


def _round_troubles(records: RunRecords, number: int, quorum: int) -> Iterator[str]:
    counted = records.manifests[number].updates
    given = [(receipt.site, receipt.payload) for receipt in records.receipts(number) if receipt.kind == "train"]
    if sorted(given) != sorted(counted.items()):
        sites = ", ".join(sorted(site for site, _ in given))
        yield f"{records.directory.name}: round {number}: receipts for {sites}, counted {', '.join(sorted(counted))}"
    if len(counted) < quorum:
        yield f"{records.directory.name}: round {number}: {len(counted)} updates, a quorum is {quorum}"


def ledger_troubles(site: Path, runs: Iterable[Path]) -> Iterator[str]:
    """Does a site's ledger hold less than what left it? What left: what its audit log let go, and what the coordinator holds.

    Each distinct answer must have a reservation of its own, whose place in the ledger it names, and all of them together may not cost
    more than the ledger says was spent.
    """
    home = Home(site)
    try:
        (opening, account, _), paid = read_ledger(site / LEDGER), chain.read(site / LEDGER, KIND)
        audit = chain.read(site / "audit.chain", "audit")
    except FedradError as error:
        yield f"{site.name}: {error}"
        return
    left, held = left_site(audit), held_by_coordinator(home, runs)
    for digest, envelope in held.items():
        if digest not in left:
            yield f"{site.name}: round {envelope.round}: the coordinator holds an answer that the audit log does not name"
    sequences = [envelope.sequence for envelope in held.values()]
    if len(set(sequences)) < len(sequences):
        yield f"{site.name}: two answers were paid by one reservation"
    heads = {entry.hash for entry in paid if entry.type == "answer"}
    asked: dict[Question, set[str]] = defaultdict(set)
    for digest, body in left.items():
        asked[body["run"], body["round"], body["kind"]].add(digest)
        if body["ledger"] not in heads:
            yield f"{site.name}: round {body['round']}: an answer left whose reservation the ledger does not hold"
    reserved = paid_answers(paid)
    for question, digests in asked.items():
        if len(digests) > reserved.get(question, 0):
            yield f"{site.name}: round {question[1]}: {len(digests)} answers left, {reserved.get(question, 0)} were paid"
    event = next(iter(envelope.privacy for envelope in held.values()), None)
    if event is not None:  # constants of the one protocol: the same in every answer
        one = rdp(GaussianEvent(event.noise_multiplier, event.sampling_rate, event.steps), opening.order)
        spent, cost = (epsilon_at(value, order=opening.order, delta=opening.filter_delta) for value in (account.training, one * len(left)))
        if cost > spent * (1 + 1e-9):  # summed in another order
            yield f"{site.name}: {len(left)} answers cost {cost:.3f}, the ledger says {spent:.3f}"


def left_site(audit: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """By the envelope's digest: what a site's audit log says of every answer that it let go, or meant to."""
    return {entry.body["envelope"]: entry.body for entry in audit if entry.type in ("release", "resend")}


def held_by_coordinator(home: Home, runs: Iterable[Path]) -> dict[str, Envelope]:
    """By digest, each of a site's answers in the runs' folders; its signature is verified."""
    found, name = {}, home.config.site.name
    for run in runs:
        launch = read_signed(run / "launch.json").peek(Launch, what="launch.json")
        assert PublicKey.from_hex(launch.roster[name]).hex == home.envelope_key.public.hex
        for folder in sorted((run / "rounds").glob("[0-9]*")):
            for kind in FOLDERS:
                stored = stored_envelopes(run, int(folder.name), kind, launch=launch).get(name)
                if stored is not None:
                    found[stored[0].digest] = stored[1]
    return found


def paid_answers(entries: Iterable[Entry]) -> dict[Question, int]:
    """How many answers to each question a ledger paid for: the first by its run, any other by itself."""
    paid: dict[Question, int] = defaultdict(int)
    runs = set()
    for entry in entries:
        body = entry.body
        if entry.type == "run":
            runs.add(body["run"])
        elif entry.type == "answer":
            question: Question = body["run"], body["round"], body["kind"]
            by_run = body["run"] in runs and not paid[question]
            paid[question] += by_run or body["cost"] > 0 or body["validation_cost"] > 0
    return paid
