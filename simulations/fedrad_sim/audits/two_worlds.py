"""The attacker of the definition: knows all patients but one, chooses every round's model, sees every release, and tells two worlds apart.

One patient, the canary, lights a pixel that nobody else's image does, so that the whole of its clipped vector is one weight of the release
(a white-box gradient canary, Nasr et al. 2021 and 2023). With full batches nothing is lost: the limit should come near the claim.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_common.accounting import exact_delta
from fedrad_common.profiles import SCALE
from fedrad_sim.audits import bounds
from fedrad_sim.audits.claim_curve import claim_of
from fedrad_sim.audits.finding import CERTAINTY, CONFIDENCE, Arm, Finding, of_control, of_defended
from fedrad_sim.audits.journal import SILENT, Bar, Row, played
from fedrad_sim.audits.setting import DELTA, Setting, canaries, cohort_of, make_setting, secret

Floats = npt.NDArray[np.float64]
SIDE, PIXEL, PATIENTS = 8, 0, 8
# Sampling rate, rounds, and the share of the noise in the control: so little that each limit alone is above the claim.
ROUNDS = {"full batches": (1.0, 4, 0.25), "sampled": (0.25, 8, 0.125)}
EACH = 1 - (1 - CERTAINTY) / 2  # the larger of two limits is held against the claim: each takes half of the error
GAUSSIAN, FREE = "Gaussian family", "assumption-free"


@dataclass(frozen=True)
class Worlds:
    """Releases as the attacker reads them, in clip norms: (runs, rounds)."""

    out: Floats
    inside: Floats


def audit(out: Path, *, epsilon: float, runs: int, seed: int, bar: Bar = SILENT) -> Finding:
    """Play `runs` runs a world of every arm; what `out` holds of them already is kept."""
    start, arms = time.monotonic(), []
    for name, (rate, rounds, leaky) in ROUNDS.items():
        setting = make_setting(epsilon=epsilon, patients=PATIENTS, rate=rate, rounds=rounds, side=SIDE)
        for share in (1.0, leaky):
            label = name if share == 1 else f"{name}, {share:g} of the noise"
            worlds = play(setting.with_noise(share), label, out / "two-worlds", runs=runs, seed=seed, bar=bar)
            arms.append(judge(worlds, setting, name=label, control_of=name if share != 1 else ""))
    return Finding(
        audit="two-worlds", epsilon=epsilon, delta=DELTA, unit="patient", arms=tuple(arms), seconds=time.monotonic() - start,
        settings={"runs a world": runs, "seed": seed},
    )  # fmt: skip


def play(setting: Setting, name: str, folder: Path, *, runs: int, seed: int, bar: Bar) -> Worlds:
    rng = np.random.default_rng(seed)
    others = rng.integers(0, SCALE, (PATIENTS - 1, SIDE, SIDE)).astype(np.uint16)
    others.reshape(len(others), -1)[:, PIXEL] = 0
    canary = canaries(np.array([PIXEL]), SIDE)
    cohorts = {"out": cohort_of(others), "in": cohort_of(np.concatenate([others, canary]))}

    def run(number: int) -> Row:
        def read(world: str) -> list[float]:
            secrets = [secret(seed=seed, arm=name, run=number, world=world, round=at) for at in range(setting.steps)]
            return [float(setting.release(cohorts[world], secret=value)[PIXEL]) for value in secrets]

        return {world: read(world) for world in cohorts}

    settings = {"seed": seed, "plan": setting.plan.model_dump(mode="json"), "arm": name}
    path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.jsonl"
    rows = played(path, settings, runs, run, bar=bar, what=f"two worlds: {name}")
    return Worlds(*(np.array([row[world] for row in rows], dtype=np.float64) for world in ("out", "in")))


def scores(releases: Floats, setting: Setting) -> Floats:
    """Of each run, the logarithm of how much likelier it is with the canary: by the plan, and so the best that an attacker can do."""
    rate, sigma = setting.plan.sampling_rate, setting.plan.noise_multiplier
    steps = np.logaddexp(np.log(rate) + (2 * releases - 1) / (2 * sigma**2), np.log(1 - rate) if rate < 1 else -np.inf)
    return np.asarray(steps.sum(axis=1), dtype=np.float64)


def judge(worlds: Worlds, setting: Setting, *, name: str, control_of: str = "") -> Arm:
    """Limits of epsilon from both worlds. `setting` is the claim's, whatever noise was added."""
    control = bool(control_of)
    plan, steps, claim = setting.plan, setting.steps, setting.protocol.privacy.epsilon
    assert claim is not None
    delta, values = exact_delta(plan.delta), {"out": scores(worlds.out, setting), "in": scores(worlds.inside, setting)}
    half = len(values["out"]) // 2
    choice = bounds.best_decision(values["out"][:half], values["in"][:half], delta=delta, confidence=EACH)
    judged = values["out"][half:], values["in"][half:]

    def gaussian(confidence: float, *, least: bool = True) -> float:
        found = bounds.fit(worlds.out, worlds.inside, rate=plan.sampling_rate, confidence=confidence)
        return found.epsilon(least=least, rate=plan.sampling_rate, steps=steps, delta=delta)

    def free(confidence: float) -> float:
        return choice.limit(*judged, delta=delta, confidence=confidence)

    proven = {GAUSSIAN: gaussian(EACH), FREE: free(EACH)}
    above = [limit for limit, value in proven.items() if value > claim]
    alarms, misses = choice.errors(*judged)
    figures = {
        f"{GAUSSIAN}, best estimate": gaussian(CONFIDENCE, least=False),
        f"{GAUSSIAN}, 95 %": gaussian(CONFIDENCE),
        f"{GAUSSIAN}, 99.9 %": gaussian(CERTAINTY),
        f"{FREE}, 95 %": free(CONFIDENCE),
        f"{FREE}, 99.9 %": free(CERTAINTY),
        "runs judged a world": float(len(judged[0])),
        "false alarms": float(alarms),
        "misses": float(misses),
        "noise multiplier of the plan": plan.noise_multiplier,
    }
    drawn = _drawn(values["out"], values["in"])
    if not control:
        drawn["claim alarms"] = tuple(np.linspace(0, 1, 101).round(3).tolist())
        drawn["claim hits"] = tuple(claim_of(plan, steps=steps).hits(np.linspace(0, 1, 101)).round(5).tolist())
    # Each limit is shown to work by its own success without the defence; one above the claim is enough where it is not.
    verdict = of_control(len(above) == len(proven)) if control else of_defended(above_claim=bool(above))
    limits = " and ".join(f"{value:.2f} ({limit})" for limit, value in proven.items())
    which = "neither" if not above else "both" if len(above) == len(proven) else f"only {above[0]}"
    says = f"ε is at least {limits}, together with 99.9 % confidence: {which} above the claim of {claim:g}"
    return Arm(name=name, control=control, of=control_of, verdict=verdict, says=says, figures=figures, drawn=drawn)


def _drawn(out: Floats, inside: Floats) -> dict[str, tuple[float, ...]]:
    edges = np.histogram_bin_edges(np.concatenate([out, inside]), 40)
    alarms, hits = bounds.curve(out, inside)
    counts = {world: tuple(np.histogram(values, edges)[0].astype(float).tolist()) for world, values in (("out", out), ("in", inside))}
    middle = tuple(((edges[1:] + edges[:-1]) / 2).round(4).tolist())
    return {"score": middle, **counts, "alarms": tuple(alarms), "hits": tuple(hits)}
