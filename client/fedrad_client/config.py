"""A site's own settings, `site.toml`: what the hospital decides, and no coordinator can widen."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from fedrad_common.config import Section
from fedrad_common.protocol import Name
from fedrad_common.records import SiteName


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
    models: tuple[Name, ...] = ()  # empty: every registered one
    max_parameters: PositiveInt = 20_000_000
    max_epsilon_per_run: PositiveFloat = 8.0
    min_noise_multiplier: Annotated[float, Field(ge=0.5)] = 0.5
    exact_metrics: bool = False  # let exact validation histograms leave, marked
    unbounded: bool = False  # let runs without privacy train here; the ledger then says "no bound" for ever


class Resources(Section):
    """What changes only speed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # 0: all cores
    micro_batch: PositiveInt = 256  # images at a time
    workers: Annotated[int, Field(ge=1, le=64)] = 1  # processes that read DICOM


class SiteConfig(Section):
    format: Literal["fedrad-site-1"]
    site: Identity
    coordinator: Coordinator = Coordinator()
    privacy: Budget = Budget()
    policy: Policy = Policy()
    resources: Resources = Resources()
    cohort: str = "cohort"  # folder of the cohort, relative to the site's home
