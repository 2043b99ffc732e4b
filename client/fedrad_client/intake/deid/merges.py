"""Who a file's patient is, once the site's merge table was asked: two IDs of one person make one pseudonym, one date shift, one split."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedrad_client.cohort.merged import Merge, Table
from fedrad_client.intake.codes import Quarantined
from fedrad_client.intake.deid.keys import PseudonymKeys
from fedrad_client.intake.deid.subject import Subject
from fedrad_common.errors import FormatError, MisuseError

_NONCE = 12  # bytes


@dataclass(frozen=True)
class Merges:
    """The table, ready to be asked. `keys` are always the cohort's: the table is one for all projects."""

    rows: Mapping[str, Merge] = field(default_factory=dict)  # by alias
    apart: frozenset[str] = frozenset()  # persons of both parts

    @classmethod
    def of(cls, table: Table, keys: PseudonymKeys) -> "Merges":
        """Raises MisuseError: the table was made with another pseudonym key."""
        if table.key not in (None, keys.id):
            raise MisuseError("cohort: merged.jsonl was made with another pseudonym key", hint="restore keys/pseudonym.key from the backup")
        return cls({row.alias: row for row in table.merges}, frozenset(row.person for row in table.merges if row.apart))

    def person(self, who: Subject, keys: PseudonymKeys) -> Subject:
        """The identity that stays. Raises Quarantined: the person's IDs stood in training and in validation."""
        found = self.resolve(who, keys)
        if self.apart and found.pseudonym(keys) in self.apart:
            raise Quarantined("two-parts")
        return found

    def resolve(self, who: Subject, keys: PseudonymKeys) -> Subject:
        """The same, whatever stands against using the images."""
        if not self.rows:
            return who
        row = self.rows.get(who.pseudonym(keys))
        return unseal(row, keys) if row else who


def seal(who: Subject, alias: str, keys: PseudonymKeys) -> str:
    nonce = os.urandom(_NONCE)
    return (nonce + AESGCM(keys.merge).encrypt(nonce, who.identity, alias.encode())).hex()


def unseal(row: Merge, keys: PseudonymKeys) -> Subject:
    """Raises FormatError: the row was changed, or is another site's."""
    try:
        content = bytes.fromhex(row.sealed)
        who = Subject(*json.loads(AESGCM(keys.merge).decrypt(content[:_NONCE], content[_NONCE:], row.alias.encode())))
        if who.pseudonym(keys) == row.person:
            return who
    except (InvalidTag, ValueError, TypeError):
        pass
    raise FormatError("cohort: merged.jsonl: a row was changed", hint="restore it from the backup: it says who is one person")
