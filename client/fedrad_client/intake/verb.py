"""`fedrad-site ingest` and `withdraw`: the site's own keys and split applied to a folder or to names, and one line in the audit log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrad_client import audit
from fedrad_client.cohort.withdrawal import Withdrawal, check_tombstones, withdraw
from fedrad_client.intake.deid.rules import PseudonymKeys, identified
from fedrad_client.intake.ingest import Intake, ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import AUDIT, LEDGER, Home
from fedrad_common.chain import Chain, read
from fedrad_common.errors import MisuseError
from fedrad_common.profiles import profile
from fedrad_common.progress import progress_bar
from fedrad_common.protocol import load_protocol


@dataclass(frozen=True)
class IngestReport:
    """What a person is told. Counts only; all of it stays here."""

    intake: Intake

    def facts(self) -> dict[str, Any]:
        done = self.intake
        return {
            "generation": done.generation,
            "changed": done.changed,
            "files": done.n_files,
            "images": done.n_images,
            "patients": done.n_patients,
            "quarantined": dict(done.counts),
            "warnings": list(done.warnings),
        }

    def lines(self) -> list[str]:
        done = self.intake
        state = "new" if done.changed else "unchanged"
        rows = [
            f"cohort generation {done.generation} ({state}): {done.n_images} images of {done.n_patients} patients from {done.n_files} files"
        ]
        rows += [f"  set aside  {count:>6}  {code}" for code, count in sorted(done.counts.items())]
        return rows + [f"  warning: {warning}" for warning in done.warnings]


def ingest_folder(home_path: Path, source: Path, *, protocol: Path, labels: Path | None, quiet: bool) -> IngestReport:
    """Make a new cohort generation for the geometry and labels of `protocol`.

    Raises:
        ConfigError: the protocol is malformed. MisuseError: no usable input; the old generation stays current.
        FormatError: the list of withdrawn patients is not what the audit log says.
    """
    home = Home(home_path)
    config = home.config
    wanted = load_protocol(protocol)
    if labels is None:
        raise MisuseError("--labels: none given", hint=f"give a CSV with a key column and {', '.join(wanted.task.labels)}")
    check_tombstones(home.cohort, read(home.path / AUDIT, audit.KIND))
    opening, _, _ = read_ledger(home.path / LEDGER)
    with progress_bar("reading DICOM", quiet=quiet) as advance:
        done = ingest(
            source,
            labels,
            cohort=home.cohort,
            geometry=Geometry(profile(wanted.input.profile), wanted.input.height, wanted.input.width),
            label_names=wanted.task.labels,
            keys=PseudonymKeys.from_secret(home.pseudonym_secret),
            # From the ledger, not from site.toml: who validates was fixed for the site's lifetime.
            validation_fraction=opening.validation_fraction,
            progress=advance,
            workers=config.resources.workers,
        )
    with Chain.open(home.path / AUDIT, audit.KIND) as log:
        # By what the log holds, not by what changed: after a full disk the same command again sets it right.
        if not any(entry.type == "ingest" and entry.body["generation"] == done.generation for entry in log.entries):
            audit.record(log, "ingest", generation=done.generation)
    return IngestReport(done)


def withdraw_patients(home_path: Path, names: bytes) -> Withdrawal:
    """Keep patients out of every later order and ingest. Waits for no answer: one that is being made holds the audit log.

    Args:
        names: UTF-8 text, one Patient ID a line; where its files name an Issuer of Patient ID, that behind it, after a tab.

    Raises:
        MisuseError: no name, or no text. BusyError: an answer is being made. FedradError: the disk is full; try again.
    """
    home = Home(home_path)
    try:
        lines = [line for line in names.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise MisuseError("withdraw: the ids are not UTF-8 text", hint="one Patient ID a line") from None
    keys = PseudonymKeys.from_secret(home.pseudonym_secret)
    people = [identified(*line.split("\t", 1)) for line in lines]
    if not people or not all(who.patient_id for who in people):
        raise MisuseError("withdraw: no id given, or a line without one", hint="one Patient ID a line, perhaps a tab and its issuer")
    with Chain.open(home.path / AUDIT, audit.KIND) as log:
        done = withdraw(home.cohort, {who.pseudonym(keys) for who in people}, key=keys.id)
        audit.record(log, "withdraw", patients=done.given - done.already, listed=done.listed)
    return done
