"""`fedrad-site merge`: a person says which IDs are one patient's. What was trained and spent before stays as it was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedrad_client import audit
from fedrad_client.cohort.merged import Merge, Table, read_table, write_table
from fedrad_client.cohort.split import part_of
from fedrad_client.cohort.withdrawal import check_tombstones, ever_ingested, tombstones, withdraw
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.merges import Merges, seal
from fedrad_client.intake.deid.subject import Subject, identified, is_placeholder
from fedrad_client.privacy.ledger import read_ledger
from fedrad_client.site import AUDIT, LEDGER, Home
from fedrad_common.chain import Chain, Entry
from fedrad_common.errors import MisuseError

HINT = "one Patient ID a line, perhaps a tab and its issuer; a blank line between two people"


@dataclass(frozen=True)
class Merging:
    """What one call did, in people and IDs. Counts stay at the site."""

    people: int  # given
    merged: int  # ids that are another's from now on
    already: int  # people given whose ids were one before
    apart: int  # people, of those given, who stood in training and in validation
    withdrawn: int  # people, of those given, one of whose ids was withdrawn: now all of them are
    listed: int  # ids in the table by now


def parse_people(text: bytes) -> list[list[Subject]]:
    """Raises MisuseError, which quotes nothing: no text, no people, or a person with fewer than two IDs."""
    try:
        blocks: list[list[Subject]] = [[]]
        for line in text.decode("utf-8-sig").splitlines():
            if line.strip():
                blocks[-1].append(identified(*line.split("\t", 1)))
            elif blocks[-1]:
                blocks.append([])
    except UnicodeDecodeError:
        raise MisuseError("merge: the ids are not UTF-8 text", hint=HINT) from None
    people = [block for block in blocks if block]
    if not people or any(len({who.identity for who in person}) < 2 for person in people):
        raise MisuseError("merge: no people given, or one with fewer than two ids", hint=HINT)
    if any(is_placeholder(who.patient_id) for person in people for who in person):
        raise MisuseError(
            "merge: one of the ids names nobody (blank, or as UNKNOWN)", hint="files without an id are set aside; merge real ones"
        )
    return people


@dataclass(frozen=True)
class Merger:
    """How people are put together; a pure value."""

    keys: PseudonymKeys
    fraction: float  # of patients that validate
    used: Callable[[str], bool]  # may images under this pseudonym have been trained on, or validated with?

    def join(self, table: Table, person: Sequence[Subject]) -> tuple[Table, Subject]:
        """The table with all IDs of `person` as one, and the identity that stays.

        Of the IDs that were used, else of all, the first stays: what was trained on goes on being trained on, and so with validation.
        """
        asked = Merges.of(table, self.keys)
        roots = {who.identity: who for who in (asked.resolve(each, self.keys) for each in person)}
        used = [who for who in roots.values() if self.used(who.pseudonym(self.keys))]
        stays = (used or list(roots.values()))[0]
        names = {who.pseudonym(self.keys) for who in roots.values()}
        parts = {part_of(who.identity, key=self.keys.split, fraction=self.fraction) for who in used}
        apart = len(parts) > 1 or bool(names & asked.apart)
        mine = {row.alias for row in table.merges if row.person in names} | names - {stays.pseudonym(self.keys)}
        rows = [self._row(alias, stays, apart=apart) for alias in mine]
        return replace(table, key=self.keys.id, merges=(*(row for row in table.merges if row.alias not in mine), *rows)), stays

    def _row(self, alias: str, stays: Subject, *, apart: bool) -> Merge:
        return Merge(alias, stays.pseudonym(self.keys), apart, seal(stays, alias, self.keys))


def merge_patients(home_path: Path, text: bytes) -> Merging:
    """Make the IDs of each block one person, from the next order and the next ingest on.

    Raises:
        MisuseError: see `parse_people`. BusyError: an answer is being made. FedradError: the disk is full; nothing changed.
    """
    home = Home(home_path)
    people = parse_people(text)
    keys = PseudonymKeys.from_secret(home.pseudonym_secret)
    with Chain.open(home.path / AUDIT, audit.KIND) as log:
        check_tombstones(home.cohort, log.entries)
        opening, _, _ = read_ledger(home.path / LEDGER)
        merger = Merger(keys, opening.validation_fraction, _used(home.cohort, log.entries))
        before = table = read_table(home.cohort)
        gone, stayed = tombstones(home.cohort), []
        for person in people:
            table, stays = merger.join(table, person)
            stayed.append(stays.pseudonym(keys))
        lost = _withdrawn(people, stayed, gone, keys)
        # Before the table: a patient who withdrew stays out under whatever name, also after a power cut in between.
        if lost - gone:
            done = withdraw(home.cohort, lost, key=keys.id)
            audit.record(log, "withdraw", patients=done.given - done.already, listed=done.listed)
        merged = len({row.alias for row in table.merges} - {row.alias for row in before.merges})
        if {(row.alias, row.person, row.apart) for row in table.merges} != {(row.alias, row.person, row.apart) for row in before.merges}:
            write_table(home.cohort, table)
            audit.record(log, "merge", ids=merged, listed=len(table.merges))
    known = Merges.of(before, keys)
    already = sum(len({known.resolve(who, keys).identity for who in person}) == 1 for person in people)
    apart = len(set(stayed) & Merges.of(table, keys).apart)
    return Merging(len(people), merged, already, apart, len(set(stayed) & lost), len(table.merges))


def _withdrawn(people: list[list[Subject]], stayed: list[str], gone: frozenset[str], keys: PseudonymKeys) -> set[str]:
    """Pseudonyms that stay of people of whom any ID was withdrawn."""
    return {name for person, name in zip(people, stayed, strict=True) if name in gone or any(who.pseudonym(keys) in gone for who in person)}


def _used(cohort: Path, log: Sequence[Entry]) -> Callable[[str], bool]:
    """An ID was never used only where every generation that the log names is still there, and none of them holds it."""
    made = {entry.body["generation"] for entry in log if entry.type == "ingest"}
    there = {int(path.name) for path in cohort.iterdir() if path.name.isdecimal()} if cohort.is_dir() else set()
    if made - there:
        return lambda _: True
    held = frozenset(ever_ingested(cohort))
    return held.__contains__
