"""From a run's directory to what the report draws; the only place here that reads a run."""

from pathlib import Path

import numpy as np

from fedrad_common import chain
from fedrad_common.config import parse_json
from fedrad_common.errors import FormatError, MisuseError
from fedrad_common.records import Envelope
from fedrad_server.history import RunRecords, read_run
from fedrad_server.layout import RECEIPTS, answers_folder, round_folder
from fedrad_server.report.comparison import Comparison
from fedrad_server.report.inputs import Head, Release, ReportInput


def read_input(run: Path, *, comparison: Path | None = None) -> ReportInput:
    """Verify and gather a run's records. Models and updates are not read: only envelopes and histograms.

    Args:
        comparison: a simulation's arms; by default the run's own `result/comparison.json`, if there is one.

    Raises:
        MisuseError: `run` is no run, or `comparison` is missing.
        FormatError: a record is not what was signed, or the comparison is of another format.
    """
    records = read_run(run, files=False)
    envelopes: list[Envelope] = []
    metadata: dict[str, int] = {}
    for number in range(1, records.round + 2):  # the round that is open, too
        for kind in ("train", "evaluate"):
            for site, envelope in records.envelopes(number, kind).items():
                envelopes.append(envelope)
                metadata[site] = metadata.get(site, 0) + (answers_folder(run, number, kind) / f"{site}.json").stat().st_size
    return ReportInput(
        protocol=records.protocol,
        launch=records.launch,
        state=_state(records),
        manifests=records.manifests,
        digests=(*(manifest.previous for manifest in records.manifests[1:]), records.head),
        envelopes=tuple(envelopes),
        releases=tuple(_release(records, envelope) for envelope in envelopes if envelope.kind == "evaluate"),
        heads=_heads(records),
        comparison=_read_comparison(run, comparison),
        envelope_bytes=metadata,
    )


def _release(records: RunRecords, envelope: Envelope) -> Release:
    shape = (len(records.protocol.task.labels), 2, records.protocol.evaluation.bins)
    if envelope.length != np.prod(shape):
        raise FormatError(f"round {envelope.round}: histogram of {envelope.site}: {envelope.length} numbers, expected {np.prod(shape)}")
    counts = records.update(envelope).astype(np.float64).reshape(shape)
    return Release(envelope.site, envelope.round, counts, envelope.privacy.noise_multiplier, envelope.privacy.marked)


def _state(records: RunRecords) -> str:
    asked = records.protocol.privacy.rounds
    if records.finished:
        return "complete"
    if records.paused:
        return f"paused after round {records.round} of {asked} ({records.paused})"
    return f"open, {records.round} of {asked} rounds closed"


def _heads(records: RunRecords) -> tuple[Head, ...]:
    """The manifests' own chain first, then the logs'."""
    heads = [Head("manifests", len(records.manifests), records.head)]
    if records.events:
        heads.append(Head("events", len(records.events), records.events[-1].hash))
    last = round_folder(records.directory, records.round) / RECEIPTS
    if last.is_file():
        entries = chain.read(last, "receipts")
        heads.append(Head(f"receipts of round {records.round}", len(entries), entries[-1].hash))
    return tuple(heads)


def _read_comparison(run: Path, given: Path | None) -> Comparison | None:
    path = given or run / "result" / "comparison.json"
    if not path.is_file():
        if given is not None:
            raise MisuseError(f"{given.name}: no such file", hint="name a comparison.json that a simulation wrote")
        return None
    return parse_json(path.read_bytes(), Comparison, name=path.name)
