"""Whether every hospital can keep every epsilon that is asked: worked out by the sites' own rules before anything is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fedrad_common.errors import MisuseError
from fedrad_common.protocol import TrainingProtocol, replace_settings
from fedrad_sim.privacy_utility.source import CEILING, Source

_MUCH_NOISE = 1e4
_WAY_OUT = f"leave this epsilon out: the ledgers of every sweep have a ceiling of {CEILING:g}"


def check_affordable(source: Source, wanted: Mapping[int, Sequence[float]], progress: Callable[[str, int, int], None]) -> None:
    """Calibrate each epsilon at each hospital, and hold the run's charge against what a new ledger with the sweep's ceiling can bear.

    Args:
        wanted: the epsilons that are to be played, by seed.

    Raises:
        MisuseError: no noise would do, or the charge crosses the ceiling; says which epsilon, and the most that this hospital can keep.
    """
    from fedrad_common.models import initial_vector
    from fedrad_sim.hospitals import declared_size, patients_of

    seeds = [seed for seed, epsilons in wanted.items() if epsilons]
    if not seeds:
        return
    patients = patients_of(source.scenario, Path("scenario.toml"), seeds)  # whose arrays are named by their whole path
    fraction = source.scenario.sites.validation_fraction
    cases = [
        (epsilon, site, declared_size(count, fraction), seed)
        for seed, sizes in patients.items() for site, count in sizes.items() for epsilon in wanted[seed]
    ]  # fmt: skip
    fault = functools.cache(functools.partial(_fault, source.private, len(initial_vector(source.private))))
    for done, (epsilon, site, size, seed) in enumerate(cases, start=1):
        if said := fault(epsilon, size):
            where = f"hospital {site} of seed {seed}, of declared size {size:,}"
            raise MisuseError(f"--epsilon: {epsilon:g} cannot be kept at {where}: {said}", hint=_WAY_OUT)
        progress("noise for every hospital", done, len(cases))


def _fault(private: TrainingProtocol, n_parameters: int, epsilon: float, size: int) -> str | None:
    """What is wrong with it, in words; None where nothing is."""
    from fedrad_client.config import Budget, Policy
    from fedrad_client.privacy.account import Account
    from fedrad_client.privacy.ledger import training_charge, what_crosses
    from fedrad_client.privacy.plan import make_plan
    from fedrad_client.site import opening
    from fedrad_common.accounting import GaussianEvent, epsilon_prv
    from fedrad_common.accounting.bisection import least
    from fedrad_sim.hospitals import delta_for

    protocol = replace_settings(private, {"privacy.epsilon": epsilon})
    opened = opening("sweep", Budget(epsilon=CEILING, delta=delta_for(size)), identity="")
    try:
        plan = make_plan(
            protocol, n_parameters=n_parameters, declared_size=size, delta=opened.delta, numeric_delta=opened.numeric_delta,
            least_noise=Policy().min_noise_multiplier, validation_fraction=opened.validation_fraction,
        )  # fmt: skip
    except MisuseError as error:
        return f"{error} ({error.hint})" if error.hint else str(error)

    def crossed(sigma: float) -> str | None:
        charge = training_charge(opened, plan.model_copy(update={"noise_multiplier": sigma}), protocol.privacy.steps)
        return what_crosses(opened, Account(), **charge, validation_cost=0.0)

    said = crossed(plan.noise_multiplier)
    if said is None or crossed(_MUCH_NOISE) is not None:
        return said
    enough = least(lambda sigma: crossed(sigma) is None, low=plan.noise_multiplier, high=_MUCH_NOISE, tolerance=1e-3)
    most = epsilon_prv([GaussianEvent(enough, plan.sampling_rate, protocol.privacy.steps)], opened.filter_delta)
    return f"at most {math.floor(10 * (most - 0.01)) / 10:g} can ({said})"
