"""Whether what lies in the coordinator's home is sound: whose it is, settings, keys, certificate, audit log."""

import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fedrad_common.audit import COORDINATOR_EVENTS, check_entries
from fedrad_common.chain import read
from fedrad_common.errors import FedradError
from fedrad_server.audit import ACCEPT_CLOCK, AUDIT, KIND
from fedrad_server.authority import AUTHORITY_KEY, SERVER, SERVER_KEY, authority_text, own_authority, read_certificate, was_own
from fedrad_server.handshake import refusal
from fedrad_server.home import Home

_FEW_DAYS = 30  # before a certificate's end, a person is told
_BEHIND = timedelta(minutes=1)  # by which two looks at a sound clock may differ
_FOLDERS = (".", "keys", "superlink", "runs")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    found: str
    remedy: str = ""


def guarded(name: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """What `look` finds; where it cannot look, that is what is found: one trouble never hides another."""
    try:
        return list(look())
    except FedradError as error:
        return [Check(name, False, str(error), error.hint or "look at the coordinator's log")]
    except (OSError, ValueError) as error:
        found = f"cannot be looked at ({type(error).__name__})"
        return [Check(name, False, found, "run this as the account that the coordinator runs as; or restore the file from the backup")]


def owner(home: Path) -> Iterator[Check]:
    """Files that another account left, were it root, are ones that the coordinator cannot open."""
    whose, we = _owner(home), os.geteuid()
    if whose != we:
        remedy = f"run every command as its account: sudo -u '#{whose}' fedrad-coordinator doctor {home}"
        yield Check("owner", False, f"belongs to account {whose}, and this is account {we}", remedy)
        return
    foreign = sorted(str(path.relative_to(home)) for path in _files(home) if _owner(path) != whose)
    more = f" and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
    said = f"belong to another account: {', '.join(foreign[:_MOST_NAMED])}{more}" if foreign else "all files belong to this account"
    yield Check("owner", not foreign, said, f"as root: chown -R '#{whose}' {home}")


def settings(home: Home) -> Iterator[Check]:
    yield Check("settings", True, f"listens at {home.settings.listen} for {', '.join(home.settings.hosts)}")


def keys(home: Home) -> Iterator[Check]:
    remedy = f"restore keys/ from the backup, and: chmod 600 {home.directory}/keys/*.key"
    try:
        fits = home.key.public == home.public
    except (FedradError, OSError, ValueError) as error:
        said = str(error) if isinstance(error, FedradError) else f"a key cannot be read ({type(error).__name__})"
        yield Check("keys", False, said, remedy)
        return
    open_ones = sorted(path.name for path in (home.directory / "keys").glob("*.key") if path.stat().st_mode & 0o077)
    if open_ones:
        yield Check("keys", False, f"others may read {', '.join(open_ones)}", remedy)
        return
    yield Check("keys", fits, "for this account only" if fits else "coordinator.pub is not the public half of coordinator.key", remedy)


def certificate(home: Home, now: datetime) -> Iterator[Check]:
    """As a site would see it, by each of the server's names."""
    remedy = _next_certificate(home.directory)
    try:
        days = read_certificate(home.directory).days_left(now)
        why = "" if days < 0 else _why_refused(home)
    except FedradError as error:
        yield Check("certificate", False, str(error), remedy)
        return
    said = why or (f"has expired {-days} days ago" if days < 0 else f"holds for {days} more days")
    yield Check("certificate", days >= _FEW_DAYS and not why, said, remedy)


def authority(home: Home) -> Iterator[Check]:
    """Of our own, where there is one: the next certificate needs it."""
    if not (home.directory / AUTHORITY_KEY).exists():
        if was_own(home.directory):
            yield Check("authority", False, f"{AUTHORITY_KEY}: is lost", _next_certificate(home.directory))
        return
    try:
        own_authority(home.directory)
    except FedradError as error:
        anew = f"{error.hint}; or make a new one: fedrad-coordinator renew {home.directory} --new-authority, and invite each site anew"
        yield Check("authority", False, str(error), anew)
        return
    yield Check("authority", True, "its key and its certificate fit")


def audit_log(home: Path, now: datetime) -> Iterator[Check]:
    entries = read(home / AUDIT, KIND)
    check_entries(COORDINATOR_EVENTS, entries, name=AUDIT)
    yield Check("audit log", True, f"whole, {len(entries)} entries")
    behind = datetime.fromisoformat(entries[-1].at) - now
    said = "not behind the audit log" if behind <= _BEHIND else f"{behind.total_seconds() / 60:.0f} min behind the audit log's last entry"
    word = ACCEPT_CLOCK.replace("HOME", str(home))
    yield Check("clock", behind <= _BEHIND, said, f"set the clock (timedatectl); if it is right now and was wrong before: {word}")


def _why_refused(home: Home) -> str:
    try:
        for host in home.settings.hosts:
            why = refusal(home.directory / SERVER, home.directory / SERVER_KEY, host=host, authority=authority_text(home.directory))
            if why:
                return f"sites that connect to {host} refuse it: it {why}"
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return f"{SERVER_KEY} is not its key"
        return f"{SERVER}, {SERVER_KEY} or the authority's certificate cannot be used ({type(error).__name__})"
    return ""


def _next_certificate(home: Path) -> str:
    renew = f"fedrad-coordinator renew {home}"
    if (home / AUTHORITY_KEY).exists():
        return f"{renew}; a running server uses it within a minute"
    if was_own(home):
        return f"restore {AUTHORITY_KEY} from the backup; if it is lost: {renew} --new-authority, and invite each site anew"
    return f"bring the institution's next one: {renew} --certificate FILE --key FILE; a running server uses it within a minute"


def _files(home: Path) -> Iterator[Path]:
    for name in _FOLDERS:
        folder = home / name
        if folder.is_dir():
            yield from folder.iterdir()


def _owner(path: Path) -> int:
    return path.lstat().st_uid
