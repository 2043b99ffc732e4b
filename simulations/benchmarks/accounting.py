"""Is the account right, what does its filter cost, is it fast? `python simulations/benchmarks/accounting.py`; three minutes on one core.

The printed epsilon is held against Google's dp-accounting, whose privacy loss distributions (PLD, connect-the-dots) are upper bounds of
both directions, a patient removed and a patient added. The true epsilon is at most the larger of the two; it is taken to be above that
less what halving the interval changed (the rest of the error is about a third of this).
"""

import argparse
import functools
import itertools
import statistics
import time
from collections.abc import Sequence

from dp_accounting.pld import privacy_loss_distribution

from fedrad_common.accounting import GaussianEvent, calibrate, epsilon_prv, filter_budget, filter_order, rdp

GRID = tuple(
    GaussianEvent(sigma, rate, steps)
    for sigma, rate, steps in itertools.product(
        (0.5, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0), (0.001, 0.01, 0.05, 0.1, 0.3, 0.7, 1.0), (1, 10, 100, 1000, 10_000)
    )
)
LEAST_EPSILON, MOST_EPSILON = 0.1, 20.0  # what a protocol asks for and a ceiling allows
RESOLUTION = 0.001  # of the printed epsilon
# (sampling rate, steps): configs/protocols/pneumonia.toml at a fifth of its images, lgg.toml at 60 patients, and sparse sampling
SHAPES = {"pneumonia": (375 / 942, 80), "lgg": (16 / 60, 300), "sparse": (0.02, 1000)}
CEILINGS = (1.0, 3.0, 8.0)


def pld_epsilons(events: Sequence[GaussianEvent], delta: float, interval: float, *, optimistic: bool = False) -> tuple[float, float]:
    """Epsilon when a patient is removed, and when one is added: upper bounds, or with `optimistic` lower bounds."""
    parts = [
        privacy_loss_distribution.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
            pessimistic_estimate=not optimistic,
            use_connect_dots=not optimistic,
        ).self_compose(event.steps)
        for event in events
    ]
    composed = functools.reduce(lambda left, right: left.compose(right), parts)
    removed, added = (pmf.get_epsilon_for_delta(delta) for pmf in (composed._pmf_remove, composed._pmf_add))
    return float(removed), float(added)


def fine_interval(event: GaussianEvent) -> float:
    """A tenth of what one step's privacy loss varies by (at least), so that rounding it changes the composed loss by little."""
    return min(1e-3, event.sampling_rate / event.noise_multiplier / 10)


def admitted(ceiling: float, delta: float, rate: float, steps: int) -> GaussianEvent:
    """The run with the least noise, a multiple of 1e-5, that a filter of this ceiling admits as its only one."""
    order = filter_order(ceiling, delta)
    budget = filter_budget(ceiling, delta, order)
    low, high = 1, 10_000_000
    while low < high:
        middle = (low + high) // 2
        if rdp(GaussianEvent(middle / 1e5, rate, steps), order) <= budget:
            high = middle
        else:
            low = middle + 1
    return GaussianEvent(high / 1e5, rate, steps)


def show_grid(delta: float) -> None:
    excess: list[tuple[float, float, GaussianEvent]] = []  # above the true value: absolute, relative
    tiny: list[tuple[float, float, GaussianEvent]] = []
    below = directions = 0
    for event in GRID:
        ours = epsilon_prv([event], delta)
        if ours > MOST_EPSILON:
            continue
        interval = fine_interval(event)
        removed, added = pld_epsilons([event], delta, interval)
        upper = max(removed, added)
        lower = upper - abs(max(pld_epsilons([event], delta, 2 * interval)) - upper)
        below += ours < lower
        directions += added > removed
        (excess if upper >= LEAST_EPSILON else tiny).append((ours - lower, (ours - lower) / max(lower, 1e-9), event))
    worst = max(excess, key=lambda row: row[1])
    print(f"PRV against PLD, delta {delta:g}: {len(excess)} events of epsilon {LEAST_EPSILON:g} to {MOST_EPSILON:g}, {len(tiny)} below")
    print(f"  below the true value {below}; adding a patient costs more than removing one: {directions}")
    print(f"  above the true value: median {statistics.median(row[1] for row in excess):.2%}, most {worst[1]:.2%} ({worst[2]})")
    print(f"  epsilon below {LEAST_EPSILON:g}: at most {max(row[0] for row in tiny):.4f} above (printed in steps of {RESOLUTION:g})")


def show_price(delta: float) -> None:
    print(f"price of the filter, delta {delta:g}: a run that exhausts the ceiling, and what it costs if planned in advance (PRV, upper)")
    for ceiling, (name, (rate, steps)) in itertools.product(CEILINGS, SHAPES.items()):
        event = admitted(ceiling, delta, rate, steps)
        planned = epsilon_prv([event], delta)
        noise = event.noise_multiplier / calibrate(epsilon=ceiling, delta=delta, sampling_rate=rate, steps=steps)
        print(
            f"  ceiling {ceiling:g}, order {filter_order(ceiling, delta):g}, {name:<9} (q {rate:.3f}, {steps} steps): PRV {planned:.3f}, "
            f"price {ceiling / planned - 1:.1%} in epsilon, {noise - 1:.1%} in noise"
        )


def show_speed(delta: float) -> None:
    start = time.process_time()
    import opacus.accountants.analysis.prv  # noqa: F401

    print(f"loading Opacus {time.process_time() - start:.1f} CPU s, once")
    epsilon_prv([GaussianEvent(1.0, 0.01, 1)], delta)
    equal = {f"1000 equal rounds, sigma {sigma:g}, q {rate:g}": [GaussianEvent(sigma, rate, 1)] * 1000 for sigma, rate in
             ((1.1, 0.02), (2.0, 0.1), (20.0, 0.7), (5.0, 0.5))}  # fmt: skip
    distinct = {f"20 distinct events of {steps} steps, q from {rate:g}": [GaussianEvent(sigma + i / 10, rate + i / 500, steps)
                for i in range(20)] for sigma, rate, steps in ((1.0, 0.01, 50), (3.0, 0.3, 10))}  # fmt: skip
    for name, events in {**equal, **distinct}.items():
        spent = []
        for repeat in range(3):
            start = time.process_time()
            epsilon = epsilon_prv(events, delta * (1 - repeat / 100))  # another delta, so that nothing is remembered
            spent.append(time.process_time() - start)
        print(f"  {name:<48} epsilon {epsilon:6.3f}  {statistics.median(spent):.2f} CPU s ({min(spent):.2f} … {max(spent):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deltas", type=float, nargs="+", default=[1e-6, 1e-5])
    arguments = parser.parse_args()
    show_speed(arguments.deltas[0])
    for delta in arguments.deltas:
        show_price(delta)
    for delta in arguments.deltas:
        show_grid(delta)


if __name__ == "__main__":
    main()
