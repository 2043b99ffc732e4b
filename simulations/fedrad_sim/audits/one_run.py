"""Many canaries in one run, each included by a fair coin: how many of the boldest guesses are right (Steinke, Nasr and Jagielski 2023)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_common.accounting import exact_delta
from fedrad_sim.audits import bounds
from fedrad_sim.audits.finding import CERTAINTY, CONFIDENCE, Arm, Finding, of_control, of_defended
from fedrad_sim.audits.journal import SILENT, Bar, Row, played
from fedrad_sim.audits.setting import Setting, canaries, cohort_of, make_setting, secret

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]
ROUNDS = 4
DELTA = 1e-7  # twice the canaries times delta is chance that no guess can argue with: it must stay below the error
LEAST_GUESSES = 32


def audit(out: Path, *, epsilon: float, side: int, seed: int, bar: Bar = SILENT) -> Finding:
    """One run with `side` squared canaries, and one without noise; rounds that `out` holds already are kept."""
    start, arms = time.monotonic(), []
    setting = make_setting(epsilon=epsilon, patients=side * side // 2, rate=1.0, rounds=ROUNDS, side=side, delta=DELTA)
    coins = np.random.default_rng(seed).random(side * side) < 0.5
    for name, share in (("one run", 1.0), ("no noise", 0.0)):
        scores = play(setting.with_noise(share), coins, out / "one-run" / f"{name.replace(' ', '-')}.jsonl", seed=seed, bar=bar)
        arms.append(judge(scores, coins, setting, name=name, control=share == 0))
    return Finding(
        audit="one-run", epsilon=epsilon, delta=DELTA, unit="patient", arms=tuple(arms), seconds=time.monotonic() - start,
        settings={"canaries": len(coins), "rounds": ROUNDS, "seed": seed},
    )  # fmt: skip


def play(setting: Setting, coins: Coins, path: Path, *, seed: int, bar: Bar) -> Floats:
    """(canaries,) what each one's weight was moved by, in clip norms, on average over the rounds."""
    cohort = cohort_of(canaries(np.flatnonzero(coins), setting.protocol.input.height))

    def release(number: int) -> Row:
        return {"released": setting.release(cohort, secret=secret(seed=seed, audit="one-run", round=number)).tolist()}

    settings = {"seed": seed, "plan": setting.plan.model_dump(mode="json")}
    rows = played(path, settings, setting.steps, release, bar=bar, what="one run: rounds")
    return np.asarray(np.mean([row["released"] for row in rows], axis=0), dtype=np.float64)


def ladder(n: int) -> Iterator[int]:
    """How many guesses to make: all, half, a quarter … Which is best depends on what leaks: each is tried, at its share of the error."""
    while n >= LEAST_GUESSES:
        yield n
        n //= 2


def limit(scores: Floats, coins: Coins, *, delta: float, confidence: float) -> tuple[float, int, int]:
    """Of epsilon; with how many guesses it was reached, and how many of them were right.

    The highest half of the guesses says "included", the lowest "not"; ties are broken by place, which says nothing of the coins.
    """
    order, counts = np.argsort(scores, kind="stable"), list(ladder(len(coins)))
    found = []
    for guesses in counts:
        low, high = order[: guesses // 2], order[len(order) - guesses // 2 :]
        right, made = int((~coins[low]).sum() + coins[high].sum()), 2 * (guesses // 2)
        error = (1 - confidence) / len(counts)
        found.append((bounds.guessing_limit(right, made, canaries=len(coins), delta=delta, error=error), made, right))
    return max(found)


def judge(scores: Floats, coins: Coins, setting: Setting, *, name: str, control: bool) -> Arm:
    claim, delta = setting.protocol.privacy.epsilon, exact_delta(setting.plan.delta)
    assert claim is not None
    shown, guesses, right = limit(scores, coins, delta=delta, confidence=CONFIDENCE)
    proven, _, _ = limit(scores, coins, delta=delta, confidence=CERTAINTY)
    above = proven > claim
    edges = np.histogram_bin_edges(scores, 40)
    drawn = {world: tuple(np.histogram(scores[coins == inside], edges)[0].astype(float).tolist()) for world, inside in _WORLDS}
    return Arm(
        name=name,
        control=control,
        verdict=of_control(above) if control else of_defended(above_claim=above),
        says=f"ε is at least {proven:.2f} with 99.9 % confidence: {'above' if above else 'within'} the claim of {claim:g}",
        figures={
            "guesses, 95 %": shown, "guesses, 99.9 %": proven, "canaries": float(len(coins)), "guesses made": float(guesses),
            "guesses right": float(right), "noise multiplier of the plan": setting.plan.noise_multiplier,
        },
        drawn={"score": tuple(((edges[1:] + edges[:-1]) / 2).round(4).tolist()), **drawn},
    )  # fmt: skip


_WORLDS = (("out", False), ("in", True))
