"""A site's home directory, opened: config, keys, ledger, audit log, outbox, cohort. One process at a time holds it."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fedrad_client import audit
from fedrad_client.config import Budget, SiteConfig
from fedrad_client.grants import Grant, granted, read_approval
from fedrad_client.hours import local_now
from fedrad_client.outbox import Outbox
from fedrad_client.privacy.account import Account, Opening
from fedrad_client.privacy.ledger import Ledger
from fedrad_client.privacy.plan import Plan
from fedrad_common.chain import Chain, Entry
from fedrad_common.config import load_toml, parse_json
from fedrad_common.errors import ChainError, FormatError, MisuseError
from fedrad_common.files import disk_error, fsync_directory, write_atomic
from fedrad_common.identity import PublicKey, SigningKey
from fedrad_common.protocol import TrainingProtocol, parse_stored

LEDGER, AUDIT, PAUSED, LEFT = "ledger.chain", audit.AUDIT, "paused", "left"


@dataclass(frozen=True)
class Home:
    """Where everything of a site lies. Cheap: nothing is opened or locked."""

    path: Path

    @property
    def config(self) -> SiteConfig:
        if not (self.path / "site.toml").is_file():
            raise MisuseError("site.toml: no site here", hint="run `fedrad-site init` first, or name the site's folder with --home")
        return load_toml(self.path / "site.toml", SiteConfig)

    @property
    def cohort(self) -> Path:
        return self.path / self.config.cohort

    @property
    def paused(self) -> bool:
        """By `fedrad-site pause`, or by the file that the hospital's own tools make; one that cannot be looked at counts, too."""
        return any(_is_there(self.path / name) for name in (PAUSED, LEFT, self.config.policy.pause_file))

    @property
    def left(self) -> bool:
        """A person took this site out, until it is enrolled anew."""
        return _is_there(self.path / LEFT)

    @property
    def pseudonym_secret(self) -> bytes:
        try:
            secret = bytes.fromhex((self.path / "keys" / "pseudonym.key").read_text().strip())
        except (FileNotFoundError, ValueError):
            secret = b""
        if len(secret) != 32:
            raise FormatError(
                "keys/pseudonym.key: is missing or damaged", hint="restore it from the backup; a new key would rename every patient"
            )
        return secret

    @property
    def envelope_key(self) -> SigningKey:
        return SigningKey.load(self.path / "keys" / "envelope.key")

    @property
    def coordinator(self) -> PublicKey | None:
        path = self.path / "keys" / "coordinator.pub"
        return PublicKey.load(path) if path.exists() else None

    @property
    def approvals(self) -> list[str]:
        """Hashes of the approved protocols, sorted."""
        folder = self.path / "approved"
        return sorted(entry.name for entry in folder.glob("[!.]*") if (entry / "plan.json").exists()) if folder.is_dir() else []

    def approved(self, protocol_hash: str) -> tuple[TrainingProtocol, Plan] | None:
        """The approved document and this site's plan for it, checked against the hash; None when nobody approved it."""
        folder = self.path / "approved" / protocol_hash
        if not (folder / "plan.json").exists():
            return None
        protocol = parse_stored((folder / "protocol.toml").read_bytes())
        plan = parse_json((folder / "plan.json").read_bytes(), Plan, name="plan.json")
        if not (protocol.hash == plan.protocol == protocol_hash):
            raise FormatError("approved protocol: its bytes do not have its hash", hint="approve it again")
        return protocol, plan

    def grant(self, protocol_hash: str, account: Account) -> Grant:
        """For which runs the protocol was approved, and which of them were begun."""
        return granted(read_approval(self.path / "approved" / protocol_hash), account.runs, protocol_hash)


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


class Site:
    """An open site. Holds the locks of ledger and audit log until `close`."""

    def __init__(self, home: Home, *, now: Callable[[], datetime] = local_now) -> None:
        self.home, self.now = home, now
        self.config = home.config
        self.key = home.envelope_key
        self.coordinator = home.coordinator
        self.outbox = Outbox(home.path / "outbox")
        self.epochs: dict[str, int] = {}  # the newest epoch seen of each run
        self._approved: dict[str, tuple[TrainingProtocol, Plan]] = {}
        self.ledger = Ledger.open(home.path / LEDGER, identity=self.key.public.id, budget=self.config.privacy)
        try:
            self.audit = Chain.open(home.path / AUDIT, audit.KIND)
            try:
                check_releases_are_paid(self.ledger, self.audit.entries)
                audit.settle(self.audit)
            except BaseException:
                self.audit.close()
                raise
        except BaseException:
            self.ledger.close()
            raise
        for entry in self.audit.entries:
            if "epoch" in entry.body:
                self.epochs[entry.body["run"]] = max(entry.body["epoch"], self.epochs.get(entry.body["run"], 0))

    @property
    def name(self) -> str:
        return self.config.site.name

    @property
    def cohort(self) -> Path:
        return self.home.path / self.config.cohort

    def approved(self, protocol_hash: str) -> tuple[TrainingProtocol, Plan] | None:
        if protocol_hash not in self._approved:
            found = self.home.approved(protocol_hash)
            if found is None:
                return None
            self._approved[protocol_hash] = found
        return self._approved[protocol_hash]

    def grant(self, protocol_hash: str) -> Grant:
        return self.home.grant(protocol_hash, self.ledger.account)

    def forget_approval(self, protocol_hash: str) -> None:
        self._approved.pop(protocol_hash, None)

    def close(self) -> None:
        self.audit.close()
        self.ledger.close()


@contextlib.contextmanager
def open_site(path: Path) -> Iterator[Site]:
    site = Site(Home(path))
    try:
        yield site
    finally:
        site.close()


def create_site(
    path: Path, config: SiteConfig, *, toml: str, coordinator: PublicKey | None = None, enrol: Callable[[Path], None] | None = None
) -> Home:
    """Make a site's home: config, keys that never leave it, an empty ledger and audit log. All or nothing.

    Args:
        enrol: what else belongs to it, made once the envelope key is there.

    Raises:
        MisuseError: the folder holds something already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise MisuseError(f"{path.name}: is not empty", hint="a site is made once; name a new folder")
    key = SigningKey.generate()
    first = opening(config.site.name, config.privacy, identity=key.public.id)
    with _undone(path):
        for name in ("keys", "outbox", "approved"):
            (path / name).mkdir(mode=0o700)
        key.save(path / "keys" / "envelope.key")
        write_atomic(path / "keys" / "pseudonym.key", os.urandom(32).hex().encode() + b"\n")
        if coordinator is not None:
            write_atomic(path / "keys" / "coordinator.pub", coordinator.hex.encode() + b"\n")
        Chain.create(path / AUDIT, audit.KIND, {"site": config.site.name, **first.ceilings}).close()
        Ledger.create(path / LEDGER, first).close()
        if enrol is not None:
            enrol(path)
        write_atomic(path / "site.toml", toml.encode())  # last: without it there is no site here
        fsync_directory(path.parent)
    return Home(path)


@contextlib.contextmanager
def _undone(path: Path) -> Iterator[None]:
    """Fill `path` in place, for it may be a mounted volume; a failure leaves it as it was, absent or empty."""
    existed = path.exists()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        yield
    except BaseException as error:
        if path.is_dir():
            for entry in path.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not existed:
                path.rmdir()
        if isinstance(error, OSError) and (trouble := disk_error(path.name, error)):
            raise trouble from None
        if isinstance(error, FileExistsError | NotADirectoryError | PermissionError):
            raise MisuseError(f"{path}: cannot be made ({type(error).__name__})", hint="name a new folder that you may write to") from None
        raise


def opening(name: str, budget: Budget, *, identity: str) -> Opening:
    """The ledger's first entry: ceiling, filter order and what follows from them."""
    from fedrad_common.accounting import NUMERIC_SHARE, exact_delta, filter_budget, filter_order

    delta = exact_delta(budget.delta)
    order = filter_order(budget.epsilon, budget.delta)
    return Opening(
        site=name,
        identity=identity,
        epsilon=budget.epsilon,
        delta=budget.delta,
        numeric_delta=NUMERIC_SHARE * budget.delta,
        order=order,
        budget=filter_budget(budget.epsilon, delta, order),
        validation_budget=filter_budget(budget.validation_epsilon, delta, order),
        validation_epsilon=budget.validation_epsilon,
        validation_fraction=budget.validation_fraction,
    )


def check_releases_are_paid(ledger: Ledger, log: list[Entry]) -> None:
    """The audit log is a witness on the same disk: what it says was released, since the last recovery, must be in the ledger.

    Raises:
        ChainError: the ledger is an older copy, or another one.
    """
    if missing := unpaid_releases(ledger.chain.entries, log):
        raise ChainError(
            f"ledger.chain: lacks the payment of {missing} answers that the audit log says were released",
            hint="it is an older copy: put the newest one back; if it is lost: fedrad-site ledger recover --assume-spent",
        )


def unpaid_releases(ledger: Sequence[Entry], log: Sequence[Entry]) -> int:
    """How many answers the audit log says were released since the last recovery, and the ledger does not hold."""
    known, identity = {entry.hash for entry in ledger}, ledger[0].body.get("identity")
    mine = (entry.number for entry in log if entry.type == "recover" and entry.body.get("identity") == identity)
    since = max(mine, default=0)  # a recovery that died before it moved anything is none
    return sum(entry.type == "release" and entry.body.get("ledger") not in known for entry in log[since:])
