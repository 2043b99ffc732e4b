"""A signed head of an audit log, for somebody else to keep: against it a shortened or rewritten log is noticed.

Whoever holds the machine can make a whole chain anew, every hash of it right. Only a head that lies elsewhere shows that.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from fedrad_common.canonical import Sha256
from fedrad_common.chain import Chain, Entry
from fedrad_common.config import Section, parse_json
from fedrad_common.errors import ChainError, FormatError, MisuseError
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.records import Signed, SiteName, sign

_HINT = "keep the log and the checkpoint as they are; the log is an older copy, or it was made anew: ask who had access to this machine"


class Checkpoint(Section):
    """What a log was at some time, signed with the envelope key of a site or the key of the coordinator."""

    format: Literal["fedrad-checkpoint-1"] = "fedrad-checkpoint-1"
    side: Literal["site", "coordinator"]
    name: SiteName  # of the site; "coordinator" of the other side
    head: Sha256
    count: Annotated[int, Field(ge=1)]  # of entries, up to that head
    at: Annotated[str, StringConstraints(pattern=r"^[0-9T:+-]{20,32}$")]  # ISO 8601, UTC: of the last of them


def checkpoint(chain: Chain, *, side: Literal["site", "coordinator"], name: str, key: SigningKey) -> Signed:
    """Sign the log as it is now."""
    record = Checkpoint(side=side, name=name, head=chain.head, count=len(chain.entries), at=chain.entries[-1].at)
    return sign(record, key)


def check_checkpoint(entries: Sequence[Entry], path: Path, *, keys: Iterable[PublicKey], log: str) -> str:
    """Compare a log with a signed head that was kept elsewhere. Says what it proved.

    Args:
        keys: that this side has signed with; a site that lost its ledger has had several.
        log: the log's name, for messages.

    Raises:
        MisuseError: no such file. FormatError: no checkpoint, or signed by nobody of this side.
        ChainError: the log does not have that entry: it was shortened or rewritten.
    """
    if not path.is_file():
        raise MisuseError(f"{path.name}: no such file", hint="name the file that `audit checkpoint --out` wrote")
    signed = parse_json(path.read_bytes(), Signed, name=path.name)
    found = _verified(signed, keys, path.name)
    if len(entries) < found.count:
        raise ChainError(f"{log}: has {len(entries)} entries, and had {found.count} when {path.name} was signed", hint=_HINT)
    if entries[found.count - 1].hash != found.head:
        raise ChainError(f"{log}: entry {found.count - 1} is not the one that {path.name} was signed for", hint=_HINT)
    return f"{path.name}: the log has all {found.count} entries that were signed at {found.at}"


def check_head(entries: Sequence[Entry], head: str, *, log: str) -> str:
    """Compare a log with a head that somebody holds, as in an envelope. Raises ChainError where it was never the log's."""
    wanted = head.strip().lower()
    for entry in entries:
        if entry.hash == wanted:
            return f"the head that was given is entry {entry.number}"
    raise ChainError(f"{log}: never had the head that was given", hint=_HINT)


def _verified(signed: Signed, keys: Iterable[PublicKey], name: str) -> Checkpoint:
    failure = FormatError(f"{name}: was not signed here", hint="name a checkpoint of this log, with the key that signed it in place")
    for key in keys:
        try:
            return signed.open(Checkpoint, key, what=name)
        except FormatError as error:
            failure = error
    raise failure
