"""A site's own settings, `site.toml`: what the hospital decides, and no coordinator can widen."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints, field_validator

from fedrad_common.config import Section
from fedrad_common.protocol import Name
from fedrad_common.records import SiteName

ANY = "any"
Metrics = Literal["exact", "noised", "none"]
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]"
# PS3.5 6.2: an AE title has up to 16 characters, no backslash, and no blank at its ends.
Title = Annotated[str, StringConstraints(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
Hours = Annotated[str, StringConstraints(pattern=f"^{_TIME}-{_TIME}$")]


class Identity(Section):
    name: SiteName


class Coordinator(Section):
    """Where the site's node connects to: one host, one port, outbound only."""

    server: str = ""  # HOST:PORT; empty: none yet
    authority: str = "keys/authority.pem"  # whose certificates are believed, relative to the home; empty: this machine's own list


class Budget(Section):
    """The site's privacy budget. All values are per patient, over the site's lifetime; fixed when the ledger is opened."""

    epsilon: PositiveFloat = 10.0  # the ceiling, over all runs and coordinators
    delta: Annotated[float, Field(gt=0, le=0.1)] = 1e-6  # at most 1 / (10 × declared size)
    validation_epsilon: PositiveFloat = 10.0  # ceiling of the validation patients' own line
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # of patients, never trained on, in any protocol


class Policy(Section):
    """The site's veto. Every limit is the most that is accepted; unknown means no."""

    tasks: tuple[Name, ...] = ("classification",)
    models: tuple[Name, ...] = (ANY,)  # or the names of those that are accepted; none, where the list is empty
    strategies: tuple[Name, ...] = (ANY,)  # of aggregation; likewise
    initial: tuple[Name, ...] = (ANY,)  # kinds of first weights: random, public, run; likewise
    max_parameters: PositiveInt = 20_000_000  # weights of a network, also of one of which a part is trained
    max_rounds: PositiveInt = 200
    max_bytes_per_round: PositiveInt = 300_000_000  # in and out together, training and evaluation
    max_epsilon_per_run: PositiveFloat = 8.0
    min_noise_multiplier: Annotated[float, Field(ge=0.5)] = 0.5
    declared_size: NonNegativeInt = 0  # patients, the only size that an approval may declare; 0: typed at each approval
    metrics: Metrics = "noised"  # validation histograms: "exact" ones leave marked; "none": none leave
    unbounded: bool = False  # let runs without privacy train here; the ledger then says "no bound" for ever
    approval: Literal["protocol", "run"] = "protocol"  # "run": a person names each run of an approved protocol
    hours: tuple[Hours, ...] = ()  # HH:MM-HH:MM, this machine's local time, over midnight too; empty: always
    pause_file: Annotated[str, StringConstraints(min_length=1)] = "paused"  # while it exists nothing is answered; relative to the home

    @field_validator("hours")
    @classmethod
    def _hours_last(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        for span in hours:
            if span[:5] == span[6:]:
                raise ValueError(f"{span} ends as it begins: for the whole day leave the list empty")
        return hours


class Resources(Section):
    """What changes only speed, and how strictly the process that works is shut in."""

    confinement: Literal["required", "preferred"] = "preferred"  # required: no work where the machine cannot shut it in wholly
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all cores
    micro_batch: PositiveInt = 256  # images at a time
    workers: Annotated[int, Field(ge=1, le=64)] = 1  # processes that read DICOM


class Receive(Section):
    """`fedrad-site receive`: where a PACS or a modality of this hospital may send images to."""

    address: str = "127.0.0.1"  # of this machine; "" or "0.0.0.0": all of them
    port: Annotated[int, Field(ge=0, le=65535)] = 11112  # 0: any that is free
    title: Title = "FEDRAD"  # AE title that the senders call
    callers: tuple[Title, ...] = ()  # AE titles of those who may send; none: nobody
    associations: Annotated[int, Field(ge=1, le=64)] = 8  # at a time


class SiteConfig(Section):
    format: Literal["fedrad-site-1"]
    site: Identity
    coordinator: Coordinator = Coordinator()
    privacy: Budget = Budget()
    policy: Policy = Policy()
    resources: Resources = Resources()
    receive: Receive = Receive()
    cohort: str = "cohort"  # folder of the cohort, relative to the site's home
