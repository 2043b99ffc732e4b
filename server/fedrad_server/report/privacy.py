"""What the accepted answers cost each site's patients: PRV for one patient, Rényi for several records of one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedrad_common.accounting import GaussianEvent, epsilon_prv, epsilon_rdp, exact_delta, filter_budget
from fedrad_common.records import Envelope, Privacy
from fedrad_server.report.inputs import ReportInput

_MOST_PRV = 20  # evaluations over all sites; one takes a tenth of a second
_MOST_POINTS = 10  # of one site's curve
_LEAST_NOISE = 0.05  # below, a claim of privacy is no claim, and accounting would not end
_MOST_STEPS = 10_000_000
_ORDERS = (1.25, 1.5, 1.75, *np.arange(2, 12, 0.5).tolist(), *range(12, 65, 4))

Accountant = Callable[[Sequence[GaussianEvent], float], float]
METHODS: dict[str, Accountant] = {"PRV": epsilon_prv, "Rényi": epsilon_rdp}


@dataclass(frozen=True)
class SitePrivacy:
    """One site's training line, from its envelopes. The site's own ledger is the authority."""

    site: str
    declared_size: int
    noise_multiplier: float
    sampling_rate: float
    delta: float
    steps: int  # of accepted updates
    curve: tuple[tuple[int, float], ...]  # (round, epsilon so far), upper bounds; empty without a bound
    whole_run: float  # epsilon of every step that the protocol asks; reserved at the first round; inf is no bound
    method: str
    validation: float | None  # epsilon of the noised histograms; None: none released; inf: marked


def site_privacy(values: ReportInput) -> tuple[SitePrivacy, ...]:
    """One line for each site that answered at least once, in name order."""
    answered = [(site, values.envelopes_of(site, "train")) for site in values.sites]
    answered = [(site, envelopes) for site, envelopes in answered if envelopes]
    kinds = {envelopes[0].privacy for _, envelopes in answered if is_bounded([envelope.privacy for envelope in envelopes])}
    points = max(1, min(_MOST_POINTS, _MOST_PRV // max(1, len(kinds))))
    method = "PRV" if len(kinds) <= 4 * _MOST_PRV else "Rényi"
    return tuple(_line(values, site, envelopes, points=points, method=method) for site, envelopes in answered)


def _line(values: ReportInput, site: str, envelopes: Sequence[Envelope], *, points: int, method: str) -> SitePrivacy:
    privacy, bounded = envelopes[0].privacy, is_bounded([envelope.privacy for envelope in envelopes])
    epsilon = METHODS[method]
    whole = [GaussianEvent(privacy.noise_multiplier, privacy.sampling_rate, values.protocol.privacy.steps)]
    return SitePrivacy(
        site=site,
        declared_size=envelopes[0].declared_size,
        noise_multiplier=privacy.noise_multiplier,
        sampling_rate=privacy.sampling_rate,
        delta=privacy.delta,
        steps=sum(envelope.privacy.steps for envelope in envelopes),
        curve=_curve(envelopes, points, epsilon) if bounded else (),
        whole_run=epsilon(whole, exact_delta(privacy.delta)) if bounded else math.inf,
        method=method,
        validation=_validation(values.envelopes_of(site, "evaluate"), len(values.labels)),
    )


def is_bounded(stated: Sequence[Privacy]) -> bool:
    """Whether a number can be given: constants of the run, as they should be, and within what accounting is made for."""
    first = stated[0]
    constant = all(privacy == first for privacy in stated)
    sane = first.noise_multiplier >= _LEAST_NOISE and first.delta > 0 and first.steps <= _MOST_STEPS
    return constant and sane and not first.marked


def group_epsilon(event: GaussianEvent, delta: float, records: int) -> float:
    """Epsilon at the same delta for somebody who holds `records` of the records, each sampled and clipped on its own.

    A step's worst case is a Gaussian whose mean is a binomial number of clip norms (Ganesh 2024, arXiv 2401.10294, theorem 1.1); its
    Rényi divergence, in both directions, is integrated numerically and composed over the steps. More than `records` × epsilon, since
    delta is held. Rounded up to 0.1; inf without noise.
    """
    if event.noise_multiplier == 0:
        return math.inf
    sigma, rate = event.noise_multiplier, event.sampling_rate
    hits = np.arange(records + 1)
    with np.errstate(divide="ignore"):
        weights = np.log([math.comb(records, j) * rate**j * (1 - rate) ** (records - j) for j in range(records + 1)])
    best = math.inf
    for order in _ORDERS:
        x = np.arange(-20 * sigma, records * order + 20 * sigma, sigma / 40)
        ratio = np.logaddexp.reduce(weights[:, None] + (2 * hits[:, None] * x - hits[:, None] ** 2) / (2 * sigma**2), axis=0)
        density = -(x**2) / (2 * sigma**2) - math.log(40 * math.sqrt(2 * math.pi))
        moment = max(float(np.logaddexp.reduce(density + order * ratio)), float(np.logaddexp.reduce(density + (1 - order) * ratio)))
        best = min(best, event.steps * max(0.0, moment) / (order - 1) - filter_budget(0.0, delta, order))
    return math.ceil(best * 10) / 10


def worst_event(values: ReportInput, lines: Sequence[SitePrivacy]) -> tuple[GaussianEvent, float] | None:
    """The whole run at the site where it costs most, and its delta; None when no site has a bound."""
    bounded = [line for line in lines if math.isfinite(line.whole_run)]
    if not bounded or len(bounded) < len(lines):
        return None
    worst = max(bounded, key=lambda line: line.whole_run)
    return GaussianEvent(worst.noise_multiplier, worst.sampling_rate, values.protocol.privacy.steps), worst.delta


def _curve(envelopes: Sequence[Envelope], points: int, epsilon: Accountant) -> tuple[tuple[int, float], ...]:
    """At `points` of the answered rounds, evenly spread, the last one among them."""
    privacy, steps = envelopes[0].privacy, np.cumsum([envelope.privacy.steps for envelope in envelopes])
    chosen = sorted({round(position) for position in np.linspace(0, len(envelopes) - 1, points + 1)[1:]})
    events = {i: GaussianEvent(privacy.noise_multiplier, privacy.sampling_rate, int(steps[i])) for i in chosen}
    return tuple((envelopes[i].round, epsilon([event], exact_delta(privacy.delta))) for i, event in events.items())


def _validation(envelopes: Sequence[Envelope], n_labels: int) -> float | None:
    if not envelopes:
        return None
    stated = [envelope.privacy for envelope in envelopes]
    if any(privacy.marked or privacy.noise_multiplier < _LEAST_NOISE or privacy.delta <= 0 for privacy in stated):
        return math.inf
    # One patient moves one cell of each label: L2 sensitivity sqrt(n_labels); the envelope names the cell's standard deviation.
    events = [GaussianEvent(privacy.noise_multiplier / math.sqrt(n_labels), 1.0, 1) for privacy in stated]
    return epsilon_prv(events, exact_delta(max(privacy.delta for privacy in stated)))
