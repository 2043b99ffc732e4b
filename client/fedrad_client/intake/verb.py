"""`fedrad-site ingest` and `withdraw`: the site's own keys and split applied to a folder or to names, and one line in the audit log."""

import contextlib
from dataclasses import replace
from pathlib import Path

from fedrad_client import audit
from fedrad_client.cohort.merged import read_table
from fedrad_client.cohort.usage import uses
from fedrad_client.cohort.withdrawal import Withdrawal, check_tombstones, withdraw
from fedrad_client.intake.acquire.inbox import INBOX
from fedrad_client.intake.burnin import queue
from fedrad_client.intake.burnin.rules import read_rules
from fedrad_client.intake.deid.merges import Merges
from fedrad_client.intake.deid.rules import PseudonymKeys, Subject, identified
from fedrad_client.intake.ingest import ingest
from fedrad_client.intake.pixels.image import Geometry
from fedrad_client.intake.report import IngestReport, StatesReport
from fedrad_client.intake.states import contents, counts, erase
from fedrad_client.privacy.ledger import KIND, read_ledger
from fedrad_client.site import AUDIT, LEDGER, Home
from fedrad_common.chain import Chain, read
from fedrad_common.errors import FedradError, MisuseError
from fedrad_common.progress import progress_bar
from fedrad_common.protocol import load_protocol


def ingest_folder(home_path: Path, source: Path | None, *, protocol: Path, labels: Path | None, quiet: bool) -> IngestReport:
    """Make a new cohort generation for the geometry and labels of `protocol`.

    Args:
        source: a folder; None: the site's inbox.

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
            source or _inbox(home),
            labels,
            cohort=home.cohort,
            geometry=Geometry.of(wanted.input),
            label_names=wanted.task.labels,
            keys=PseudonymKeys.from_secret(home.pseudonym_secret),
            # From the ledger, not from site.toml: who validates was fixed for the site's lifetime.
            validation_fraction=opening.validation_fraction,
            burn=read_rules(home.path),
            review=home.path,
            progress=advance,
            workers=config.resources.workers,
        )
    with Chain.open(home.path / AUDIT, audit.KIND) as log:
        # By what the log holds, not by what changed: after a full disk the same command again sets it right.
        if not any(entry.type == "ingest" and entry.body["generation"] == done.generation for entry in log.entries):
            audit.record(log, "ingest", generation=done.generation)
    return IngestReport(done)


def _inbox(home: Home) -> Path:
    """Raises MisuseError: nothing was received yet."""
    if not (home.path / INBOX).is_dir():
        raise MisuseError("inbox: nothing was received yet", hint="name the folder that holds the DICOM files")
    return home.path / INBOX


def states_of(home_path: Path) -> StatesReport:
    """Where every file stands. In the inbox, a file's name is the SHA-256 of its content."""
    home = Home(home_path)
    met = contents(home.cohort)
    inbox = home.path / INBOX
    names = (path.stem for path in inbox.iterdir() if not path.name.startswith(".")) if inbox.is_dir() else ()
    return StatesReport(counts(home.cohort), sum(name not in met for name in names))


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
        merges = Merges.of(read_table(home.cohort), keys)
        done = withdraw(home.cohort, {merges.resolve(who, keys).pseudonym(keys) for who in people}, key=keys.id)
        audit.record(log, "withdraw", patients=done.given - done.already, listed=done.listed)
    names_of = [_names(who, merges, keys) for who in people]
    every = frozenset[str]().union(*names_of)
    queue.forget(home.path, every)
    erase(home.cohort, every)
    with contextlib.suppress(FedradError):  # a damaged ledger is no reason to keep a patient
        done = replace(done, uses=tuple(uses(names_of, directory=home.cohort, ledger=read(home.path / LEDGER, KIND), log=log.entries)))
    return done


def _names(who: Subject, merges: Merges, keys: PseudonymKeys) -> frozenset[str]:
    """All pseudonyms of a person: also those under which their images stood before a merge."""
    stays = merges.resolve(who, keys).pseudonym(keys)
    return frozenset((stays, who.pseudonym(keys), *(row.alias for row in merges.rows.values() if row.person == stays)))
