"""An attacker who sees a run's updates paints the image that made them, and points to it among candidates.

The network is the easiest to invert there is: of a linear first layer with a bias, the weights' gradient over the bias's is the image
itself (Phong et al. 2018; Geiping et al. 2020, proposition 3.1). Nobody but the one patient is in the batch, and all updates are averaged.
A second attacker paints nothing: of all candidates it takes the one whose own gradient has the largest inner product with the updates,
which no other rule can beat when the noise is Gaussian (gradients here are of one length). What it finds under the plan can therefore be
predicted, and nobody may find more.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrad_common.profiles import SCALE
from fedrad_sim.audits import bounds
from fedrad_sim.audits.drawings import picture
from fedrad_sim.audits.finding import CERTAINTY, CONFIDENCE, Arm, Finding, of_control, of_defended
from fedrad_sim.audits.journal import SILENT, Bar, Row, played
from fedrad_sim.audits.setting import DELTA, Setting, cohort_of, make_setting, secret

Floats = npt.NDArray[np.float64]
Truth = npt.NDArray[np.int64]
SIDE, FINE, PATIENTS, ROUNDS = 28, 3, 100, 4
SHOWN = 8
MOST = 0.05  # the bar: found by what was painted, where the claim does not permit more anyway
DRAWS = 100_000  # of the strongest attacker, simulated
WEAK = 0.25  # of the noise, in the control
EACH = 1 - (1 - CERTAINTY) / 2  # of two attackers the better one is judged


def audit(out: Path, *, epsilon: float, candidates: int, repeats: int, seed: int, bar: Bar = SILENT) -> Finding:
    """Every candidate is the target `repeats` times, under fresh noise."""
    start, arms = time.monotonic(), []
    images, truth = phantoms(candidates, seed=seed)
    setting = make_setting(epsilon=epsilon, patients=PATIENTS, rate=1.0, rounds=ROUNDS, side=SIDE, bias=True)
    most = permitted(gradients(images / SCALE, truth), setting, seed=seed)
    for name, share, times in (("with privacy", 1.0, repeats), (f"{WEAK:g} of the noise", WEAK, repeats), ("no noise", 0.0, 1)):
        path = out / "inversion" / f"{name.replace(' ', '-')}.jsonl"
        found = _play(setting.with_noise(share), images, truth, path, name=name, trials=times * candidates, seed=seed, bar=bar)
        arms.append(judge(found, name=name, share=share, most=most))
    return Finding(
        audit="inversion", epsilon=epsilon, delta=DELTA, unit="patient", arms=tuple(arms), seconds=time.monotonic() - start,
        settings={"candidates": candidates, "repeats": repeats, "rounds": ROUNDS, "seed": seed},
    )  # fmt: skip


def phantoms(n: int, *, seed: int) -> tuple[npt.NDArray[np.uint16], Truth]:
    """(n, SIDE, SIDE) chests that never belonged to anyone, every other one ill."""
    from fedrad_sim.anatomy import Drift, Poses, Textures, attenuation, draw_bodies, expose

    rng, drift = np.random.default_rng(seed), Drift(rows=SIDE * FINE, columns=SIDE * FINE)
    truth = np.arange(n) % 2
    rays = attenuation(draw_bodies(truth == 1, rng), Poses.draw(n, rng), drift=drift, textures=Textures(rng))
    fine = expose(rays, drift, rng) / (2**drift.bits_stored - 1)
    coarse = fine.reshape(n, SIDE, FINE, SIDE, FINE).mean((2, 4))
    return (coarse.clip(0, 1) * SCALE).round().astype(np.uint16), truth


def painted(release: Floats) -> Floats:
    """(SIDE, SIDE) in [0, 1] where the update is one image's alone: weights over bias; what comes out of noise is scaled to be seen."""
    *weights, bias = release
    image = np.array(weights).reshape(SIDE, SIDE) / bias
    if image.min() >= -0.01 and image.max() <= 1.01:
        return np.asarray(image.clip(0, 1), dtype=np.float64)
    low, high = np.quantile(image, [0.01, 0.99])
    return np.asarray(((image - low) / (high - low)).clip(0, 1), dtype=np.float64)


def nearest(image: Floats, candidates: Floats) -> int:
    """By correlation, after what all candidates have in common is taken away: chests look alike."""
    common = candidates.mean(axis=0)
    others = (candidates - common).reshape(len(candidates), -1)
    found = (image - image.mean() - (common - common.mean())).reshape(-1)
    return int(np.argmax(others @ found / np.linalg.norm(others, axis=1)))


def gradients(candidates: Floats, truth: Truth) -> Floats:
    """(n, weights + 1) what each candidate alone would send at zero weights, in clip norms."""
    rows = np.concatenate([candidates.reshape(len(candidates), -1), np.ones((len(candidates), 1))], axis=1)
    return np.asarray((truth - 0.5)[:, None] * rows / (0.5 * np.linalg.norm(rows, axis=1, keepdims=True)), dtype=np.float64)


def permitted(own: Floats, setting: Setting, *, seed: int, draws: int = DRAWS) -> float:
    """The share that who compares gradients finds under the plan, by simulation: no rule finds more, and so the claim permits no more.

    Only inner products with the candidates' gradients matter; their noise has the gradients' own products as covariance.

    Args:
        own: (n, weights) of length 1, as `gradients` gives them.
    """
    products = own @ own.T
    scales, axes = np.linalg.eigh(products)
    spread = axes * np.sqrt(scales.clip(0)) * setting.plan.noise_multiplier / np.sqrt(setting.steps)
    rng, targets = np.random.default_rng(seed), np.arange(draws) % len(own)
    found = 0
    for some in np.array_split(targets, max(1, draws * len(own) // 1_000_000)):
        seen = products[some] + rng.normal(size=(len(some), len(own))) @ spread.T
        found += int((seen.argmax(axis=1) == some).sum())
    return found / draws


@dataclass(frozen=True)
class Played:
    """What both attackers found in an arm's trials."""

    candidates: int
    trials: int
    painted: int
    compared: int
    noise_multiplier: float
    pictures: dict[str, tuple[str, ...]]


def _play(
    setting: Setting, images: npt.NDArray[np.uint16], truth: Truth, path: Path, *, name: str, trials: int, seed: int, bar: Bar
) -> Played:  # fmt: skip
    candidates = images / SCALE
    own = gradients(candidates, truth)

    def releases(trial: int) -> Floats:
        target = trial % len(images)
        cohort = cohort_of(images[[target]], truth[[target]])
        secrets = [secret(seed=seed, audit="inversion", trial=trial, round=number) for number in range(setting.steps)]
        return np.asarray(np.mean([setting.release(cohort, secret=value) for value in secrets], axis=0), dtype=np.float64)

    def trial(number: int) -> Row:
        seen = releases(number)
        return {"painted": nearest(painted(seen), candidates), "compared": int(np.argmax(own @ seen))}

    settings = {"seed": seed, "candidates": len(images), "plan": setting.plan.model_dump(mode="json")}
    rows = played(path, settings, trials, trial, bar=bar, what=f"inversion: {name}", data=(images, truth))
    targets = [number % len(images) for number in range(trials)]
    hits = {key: sum(row[key] == target for row, target in zip(rows, targets, strict=True)) for key in ("painted", "compared")}
    shown = range(min(SHOWN, len(images)))
    pictures = {
        "as it was": tuple(picture(candidates[number]) for number in shown),
        "as painted": tuple(picture(painted(releases(number))) for number in shown),
    }
    return Played(len(images), trials, hits["painted"], hits["compared"], setting.plan.noise_multiplier, pictures)


def judge(found: Played, *, name: str, share: float, most: float) -> Arm:
    """A defended arm by the claim and by the bar; a control by whether it is above the claim, or without noise by whether all is found.

    Args:
        share: of the plan's noise.
        most: what the plan permits the strongest attacker to find.
    """
    trials, least = found.trials, bounds.rate_least(max(found.painted, found.compared), found.trials, EACH)
    above = least > most
    if share == 1:
        verdict = of_defended(above_claim=above, above_bar=most <= MOST < found.painted / trials)
    else:
        verdict = of_control(above if share else min(found.painted, found.compared) == trials)
    return Arm(
        name=name,
        control=share != 1,
        verdict=verdict,
        says=(
            f"{found.painted} of {trials} found among {found.candidates} by what was painted, {found.compared} by comparing gradients; "
            f"the claim permits {most:.1%}"
        ),
        figures={
            "found by what was painted": found.painted / trials,
            "its upper limit, 95 %": bounds.rate_limit(found.painted, trials, CONFIDENCE),
            "found by comparing gradients": found.compared / trials,
            "upper limit of that, 95 %": bounds.rate_limit(found.compared, trials, CONFIDENCE),
            "lower limit of the larger, 99.9 %": least,
            "the most that the claim permits": most,
            "chance": 1 / found.candidates,
            "noise multiplier": found.noise_multiplier,
        },
        pictures=found.pictures,
    )
