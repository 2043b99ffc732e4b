"""The one exception tree: what went wrong, where, which value; and a hint on what to do.

FedradError          exit code 1
├── MisuseError      exit code 2: the caller's input is at fault
│   └── ConfigError  a TOML file or option does not say what it must
├── FormatError      a file on disk is damaged, foreign or of a newer version
│   └── ChainError   an append-only log was shortened, changed or swapped
├── DiskError        no room, read-only, or failing: nothing was half-written
│   └── SyncError    a write was not confirmed: the process ends, for it cannot know what is on the disk
├── ClockError       this machine's clock is behind what was written before
├── BudgetError      the privacy ceiling would be crossed
├── BusyError        another process holds the lock
└── Refusal          a site or the coordinator says no, with one code of a closed list
"""

from typing import Literal, get_args

RefusalCode = Literal["paused", "hours", "busy", "policy", "budget", "disk", "version", "internal"]
REFUSAL_CODES: tuple[RefusalCode, ...] = get_args(RefusalCode)


class FedradError(Exception):
    """Base of every error that a user may see. Never carries a patient's value, a path below a DICOM root or a UID."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class MisuseError(FedradError):
    exit_code = 2


class ConfigError(MisuseError):
    pass


class FormatError(FedradError):
    pass


class ChainError(FormatError):
    pass


class DiskError(FedradError):
    pass


class SyncError(DiskError):
    pass


class ClockError(FedradError):
    pass


class BudgetError(FedradError):
    pass


class BusyError(FedradError):
    pass


class Refusal(FedradError):  # noqa: N818 - a refusal is an answer of the site, not a fault
    """A site's only words besides an update (privacy.md, rule 10). The message stays at the site, the code leaves."""

    def __init__(self, code: RefusalCode, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code: RefusalCode = code
