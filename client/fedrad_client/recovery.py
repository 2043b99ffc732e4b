"""A lost or contradicted ledger, and a clock that went back: what a person may do, and what it costs. Nothing here gives budget back.

A new ledger is a new site identity (privacy.md, rule 1): a new envelope key, and the lost ledger's whole ceiling counted as spent.
"""

import contextlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from fedrad_client import audit
from fedrad_client.config import Budget
from fedrad_client.privacy.account import UNKNOWN, Opening, account_of, opening_of
from fedrad_client.privacy.ledger import KIND, Ledger
from fedrad_client.site import AUDIT, LEDGER, Home, opening
from fedrad_common.chain import Chain, read
from fedrad_common.chain_format import entry_at
from fedrad_common.errors import ChainError, FedradError, MisuseError
from fedrad_common.files import exclusive_lock, fsync_directory, new_folder
from fedrad_common.identity import SigningKey

LOST = "lost"  # folder of the site's home: what was set aside, never deleted
_PREPARED = ".recovered"
# The key before the ledger: a site whose ledger is missing refuses, whatever else is there.
_MOVED_IN = (("envelope.key", "keys/envelope.key"), (f"{LEDGER}.mark", f"{LEDGER}.mark"), (LEDGER, LEDGER))
# Approvals too: a plan was computed for the ceiling that is gone, and a person decides anew.
_SET_ASIDE = (LEDGER, f"{LEDGER}.mark", "outbox", "approved", "keys/envelope.key")


@dataclass(frozen=True)
class Recovered:
    identity: str  # public envelope key, in hex: to be admitted anew
    earlier_epsilon: float  # assumed spent, over all ledgers that were lost
    epsilon: float  # what the new ledger allows on top; 0 where no new ceiling was typed
    delta: float  # of both together
    kept: str  # where the old files lie, relative to the site's home


def recover(home: Home, *, new_ceiling: float | None) -> Recovered:
    """Set ledger, key, outbox and approvals aside and open a new ledger under a new identity. A crash on the way: run it again.

    Args:
        new_ceiling: epsilon that the new identity may spend on top of what is assumed spent; None allows nothing.

    Raises:
        BusyError: a program of this site is running. MisuseError: the site's settings ask for more. In both, nothing was changed.
    """
    config = home.config
    if new_ceiling is not None and new_ceiling < config.privacy.epsilon:
        raise MisuseError(
            f"--new-ceiling: {new_ceiling:g} is below what site.toml asks for: epsilon = {config.privacy.epsilon:g}",
            hint="lower privacy.epsilon in site.toml first",
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive_lock(home.path / f"{LEDGER}.lock", what=LEDGER))
        log, whole = _audit_log(home, stack)
        lost = _lost(home, config.privacy, log)
        unbounded = _unbounded(home, log) if whole else (*_unbounded(home, log), UNKNOWN)
        key = SigningKey.generate()
        budget = config.privacy.model_copy(update={"epsilon": new_ceiling or config.privacy.epsilon})
        first = opening(config.site.name, budget, identity=key.public.id)
        # Without a new ceiling the new ledger begins as spent: its own ceiling stands for that part of what was lost.
        own = first.ceilings if new_ceiling is None else dict.fromkeys(lost, 0.0)
        first = replace(
            first,
            validation_fraction=_fraction(home, config.privacy),
            earlier_epsilon=max(0.0, lost["epsilon"] - own["epsilon"]),
            earlier_delta=max(0.0, lost["delta"] - own["delta"]),
            earlier_validation_epsilon=max(0.0, lost["validation_epsilon"] - own["validation_epsilon"]),
            earlier_unbounded=unbounded,
        )
        with new_folder(home.path / _PREPARED) as folder:
            key.save(folder / "envelope.key")
            _new_ledger(folder / LEDGER, first, spent=new_ceiling is None)
        # Before anything moves: what was released until now was paid by the ledger that is set aside.
        audit.record(log, "recover", identity=key.public.id, **first.ceilings)
        kept = _set_aside(home.path)
        _move_in(home.path)
    allowed = 0.0 if new_ceiling is None else min(new_ceiling, config.privacy.epsilon)
    return Recovered(key.public.hex, lost["epsilon"], allowed, first.earlier_delta + first.delta, kept)


def accept_clock(home: Home) -> tuple[str, ...]:
    """Go on from the clock as it is now, though entries are later: a person says that theirs was wrong. Returns the logs it was said in.

    A log that is damaged is passed over: it wants another word.

    Raises:
        BusyError: a program of this site is running. ChainError: both logs are damaged.
    """
    said, broken = [], []
    for name, kind in ((LEDGER, KIND), (AUDIT, audit.KIND)):
        try:
            with Chain.open(home.path / name, kind) as chain:
                chain.append("clock", {"before": chain.entries[-1].at})
                said.append(name)
        except ChainError as error:
            broken.append(error)
    if not said:
        raise broken[0]
    return tuple(said)


def _audit_log(home: Home, stack: contextlib.ExitStack) -> tuple[Chain, bool]:
    """The audit log, and whether it is the one that there was: a damaged one is set aside beside the ledger, and a new one begun."""
    path = home.path / AUDIT
    try:
        return stack.enter_context(Chain.open(path, audit.KIND)), True
    except ChainError:
        with exclusive_lock(home.path / f"{AUDIT}.lock", what=AUDIT):
            folder = _lost_folder(home.path)
            for name in (AUDIT, f"{AUDIT}.mark"):
                if (home.path / name).exists():
                    (home.path / name).rename(folder / name)
        return stack.enter_context(Chain.create(path, audit.KIND, {"site": home.config.site.name})), False


def _lost(home: Home, budget: Budget, log: Chain) -> dict[str, float]:
    """What every ledger so far may have spent, at most: as its own opening, the audit log and the older lost ones say.

    The settings count only where nothing else is left: a ceiling may have been tightened since it was spent.
    """
    paths = [home.path / LEDGER, *sorted((home.path / LOST).glob(f"*/{LEDGER}"))]
    # A clone has spent from the same ceiling once more, and nobody here can see how much of it.
    twice = 2.0 if _is_contradicted(home.path / LEDGER) else 1.0
    known = [opened.ceilings for path in paths if (opened := _readable_opening(path)) is not None]
    known += [entry.body for entry in log.entries if "earlier_epsilon" in entry.body]
    names = ("epsilon", "delta", "validation_epsilon")
    settings = {name: float(getattr(budget, name)) for name in names}
    if not known:
        return settings
    gone = _readable_opening(home.path / LEDGER) is None and not any("earlier_epsilon" in entry.body for entry in log.entries)
    # Nothing tells of the ledger that is lost now, though of older ones: its ceiling is not among those known.
    extra = settings if gone else dict.fromkeys(names, 0.0)
    return {name: max(twice * body[name] + body[f"earlier_{name}"] for body in known) + extra[name] for name in names}


def _is_contradicted(path: Path) -> bool:
    try:
        return account_of(read(path, KIND)).contradicted
    except ChainError:
        return False


def _readable_opening(path: Path) -> Opening | None:
    """The first entry of a ledger that may be damaged behind it; None where it is not the bytes that its hash says."""
    try:
        found = entry_at(0, path.read_bytes(), before=[], kind=KIND)
        return None if found is None else opening_of(found[0])
    except (OSError, ChainError):
        return None


def _unbounded(home: Home, log: Chain) -> tuple[str, ...]:
    """Protocols without privacy that were ever approved here: what was trained stays trained, whatever ledger is lost."""
    said = {entry.body["protocol"] for entry in log.entries if entry.type == "approve" and entry.body["epsilon"] is None}
    kept = {name for name in home.approvals if (found := home.approved(name)) is not None and found[1].noise_multiplier == 0}
    older = _readable_opening(home.path / LEDGER)
    return tuple(sorted(said | kept | set(older.earlier_unbounded if older else ())))


def _fraction(home: Home, budget: Budget) -> float:
    """Who validates never changes: what the lost ledger says comes first, then the cohort's own record, then the settings."""
    from fedrad_client.cohort.draft import current_manifest

    found = _readable_opening(home.path / LEDGER)
    if found is not None:
        return found.validation_fraction
    try:
        before = current_manifest(home.cohort)
    except FedradError:
        before = None
    return before.validation_fraction if before else budget.validation_fraction


def _new_ledger(path: Path, first: Opening, *, spent: bool) -> None:
    ledger = Ledger.create(path, first)
    try:
        if spent:
            body = {"cost": first.budget, "numeric_delta": first.numeric_delta, "validation_cost": first.validation_budget}
            ledger.chain.append("assumed", body)
    finally:
        ledger.close()


def _lost_folder(home: Path) -> Path:
    number = 1 + max((int(path.name) for path in (home / LOST).glob("[0-9]*")), default=0)
    folder = home / LOST / f"{number:04d}"
    folder.mkdir(mode=0o700, parents=True)
    return folder


def _set_aside(home: Path) -> str:
    """Move the old files to a new folder; what an interrupted recovery moved already is no longer here."""
    folder = _lost_folder(home)
    for name in _SET_ASIDE:
        if (home / name).exists():
            (home / name).rename(folder / Path(name).name)
    for name in ("outbox", "approved"):
        (home / name).mkdir(mode=0o700)
    fsync_directory(folder)
    return f"{LOST}/{folder.name}"


def _move_in(home: Path) -> None:
    for name, place in _MOVED_IN:
        (home / _PREPARED / name).replace(home / place)
    fsync_directory(home / "keys")
    fsync_directory(home)
    shutil.rmtree(home / _PREPARED)
